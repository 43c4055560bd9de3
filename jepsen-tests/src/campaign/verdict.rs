//! All checkers over one run, when it ends or from the folder that it left.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::check::{self, durable};
use crate::error::{Result, RigError};
use crate::folder::{
    CheckerVerdict, FaultLine, FaultOutcome, Folder, Line, NodeFigures, OutcomeKind, Valid,
    Verdict, count_faults,
};
use crate::history::{Operation, Outcome};
use crate::workload::{self, Workload};

use super::availability::{self, Timeline};
use super::states;

/// What one workload saw.
pub struct History {
    /// The workload.
    pub workload: Arc<dyn Workload>,
    /// Its operations.
    pub operations: Vec<Operation>,
}

/// Judges a run. `found` is what other checkers have said already, and `nodes` what was measured.
///
/// # Errors
/// The system's.
pub async fn judge(
    folder: &Folder,
    histories: Vec<History>,
    faults: &[FaultLine],
    found: Vec<CheckerVerdict>,
    nodes: BTreeMap<u64, NodeFigures>,
    mut problems: Vec<String>,
) -> Result<Verdict> {
    let counted = histories
        .iter()
        .filter(|history| availability::counts(history.workload.name()));
    let timeline = Timeline::of(counted.flat_map(|history| &history.operations));
    let (overall, availability) = (timeline.overall(), timeline.by_nemesis(faults));
    let calm_gap_ms = timeline.calm_gap(faults);
    drop(timeline);
    let operations = histories
        .iter()
        .map(|history| {
            let name = history.workload.name().to_owned();
            (name, count(&history.operations))
        })
        .collect();
    let mut checkers = Vec::new();
    problems.extend(histories.iter().filter_map(too_little));
    for history in histories {
        checkers.extend(run_checkers(history).await?);
    }
    checkers.push(states::check(&states::read(folder)?));
    checkers.push(promises(faults));
    checkers.extend(found);
    let of_all = checkers
        .iter()
        .fold(Valid::True, |valid, one| valid.and(one.valid));
    let valid = if problems.is_empty() {
        of_all
    } else {
        of_all.and(Valid::Unknown)
    };
    Ok(Verdict {
        valid,
        problems,
        checkers,
        faults: count_faults(faults),
        operations,
        overall,
        availability,
        calm_gap_ms,
        nodes,
    })
}

/// Runs the checkers again over the folder of a run. What only a running cluster can show is taken from
/// the verdict that the folder has.
///
/// # Errors
/// When the folder cannot be read.
pub async fn again(folder: &Folder) -> Result<Verdict> {
    let before = folder.verdict()?;
    let mut operations: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for line in folder.history()? {
        let name = line.workload.clone();
        let of_this = operations.entry(name).or_default();
        of_this.push(Line::into_operation(line));
    }
    let mut histories = Vec::new();
    let mut problems = Vec::new();
    for (name, operations) in operations {
        match workload::named(&name) {
            Some(workload) => histories.push(History {
                workload,
                operations,
            }),
            // Its operations belong to no workload.
            None if name == "liveness" => {}
            None => problems.push(format!("this program knows no workload {name:?}")),
        }
    }
    let faults = folder.faults()?;
    let found = match &before {
        Some(before) => {
            problems.extend(before.problems.iter().cloned());
            let of_nodes = |one: &&CheckerVerdict| {
                let is_made_again = [states::check(&[]).name, promises(&[]).name];
                one.workload.is_none() && !is_made_again.contains(&one.name)
            };
            before.checkers.iter().filter(of_nodes).cloned().collect()
        }
        None => {
            problems.push("the run was not carried out to its end".to_owned());
            Vec::new()
        }
    };
    let nodes = before.map(|before| before.nodes).unwrap_or_default();
    judge(folder, histories, &faults, found, nodes, problems).await
}

/// Judges what nodes did when a fault hit them, as far as a nemesis looks at that itself.
fn promises(faults: &[FaultLine]) -> CheckerVerdict {
    let broken: Vec<String> = faults
        .iter()
        .filter(|line| line.outcome == FaultOutcome::Broken)
        .map(|line| format!("fault {}, {}: {}", line.number, line.name, line.what))
        .collect();
    let name = "promises about faults";
    if broken.is_empty() {
        return CheckerVerdict::new(name, Valid::True, "no nemesis saw one broken");
    }
    CheckerVerdict::new(name, Valid::False, broken.join("; "))
}

/// Says that a workload was answered so rarely that its checkers had little to look at.
fn too_little(history: &History) -> Option<String> {
    let all = history.operations.len();
    let answered = |is_write: bool| {
        let counts = |one: &&Operation| one.answer().is_some() && one.action.is_write() == is_write;
        history.operations.iter().filter(counts).count()
    };
    let (writes, reads) = (answered(true), answered(false));
    // One that only reads is whole without changes.
    let has_writes = history.operations.iter().any(|one| one.action.is_write());
    let is_enough = (writes > 0 || !has_writes) && reads > 0 && (writes + reads) * 4 >= all;
    (!is_enough).then(|| {
        format!(
            "workload {}: of {all} operations only {writes} changes and {reads} reads were answered, so its \
             verdict says little",
            history.workload.name()
        )
    })
}

async fn run_checkers(history: History) -> Result<Vec<CheckerVerdict>> {
    let name = history.workload.name();
    let checked = tokio::task::spawn_blocking(move || {
        let mut verdicts = history.workload.check(&history.operations);
        verdicts.extend(durability(name, &history.operations));
        verdicts
    });
    checked.await.map_err(|error| RigError::Panicked {
        what: format!("a checker of workload {name}"),
        reason: error.to_string(),
    })
}

/// What was acknowledged and what the final reads found of it; none for a workload without such reads.
fn durability(workload: &str, history: &[Operation]) -> Option<CheckerVerdict> {
    let mut all = durable::Found::default();
    let mut verdict = check::Verdict::Holds;
    for operations in workload::by_family(history).values() {
        let (of_family, found) = durable::check(operations);
        all.present += found.present;
        all.absent += found.absent;
        all.open += found.open;
        all.lists += found.lists;
        if !of_family.holds() {
            verdict = of_family;
            break;
        }
    }
    let text = format!(
        "{} entries were found again and {} removed names were not, in {} lists at the end; {} names may be \
         there or not",
        all.present, all.absent, all.lists, all.open
    );
    let is_judged = all.lists > 0 || !verdict.holds();
    is_judged.then(|| workload::judged("nothing acknowledged is lost", workload, verdict, text))
}

fn count(operations: &[Operation]) -> BTreeMap<OutcomeKind, u64> {
    let mut counts = BTreeMap::new();
    for operation in operations {
        let kind = match operation.outcome {
            Outcome::Ok(_) => OutcomeKind::Ok,
            Outcome::Failed(_) => OutcomeKind::Failed,
            Outcome::Unknown(_) => OutcomeKind::Unknown,
        };
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, ok, unknown};
    use crate::history::{Action, Answer};

    #[test]
    fn a_workload_that_was_hardly_answered_is_told() {
        let register = Action::Register {
            name: "names.0.1".into(),
            entry: entry("u", &[]),
            safe: false,
        };
        let lookup = Action::Lookup {
            name: "names.0.1".into(),
        };
        let told = |operations: &[Operation]| {
            too_little(&History {
                workload: Arc::new(workload::names::Names),
                operations: operations.to_vec(),
            })
        };
        let write = ok(1, 0, 1, register.clone(), Answer::Done);
        let read = ok(1, 2, 3, lookup, Answer::Entry(None));
        let lost = unknown(1, 4, 5, register);
        assert_eq!(told(&[write.clone(), read.clone(), lost.clone()]), None);
        assert!(told(&[write.clone(), lost.clone()]).is_some());
        let mut many = vec![write, read];
        many.extend(std::iter::repeat_n(lost, 9));
        assert!(told(&many).is_some());
        // Nothing but reads were asked for.
        assert_eq!(told(&[many[1].clone()]), None);
    }
}
