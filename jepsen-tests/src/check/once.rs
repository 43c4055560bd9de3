//! Exactly once: names that only one client uses, one operation after the other.
//!
//! Nobody interferes, so every answer is known beforehand: a safe register of a free name succeeds, and a
//! removal counts what was there. A command that was executed twice, because some node or the client
//! library sent it again, is told that its own name is taken, or that there is nothing to remove. After
//! a change with an unknown outcome nothing more is expected of the names of that family (all that is
//! before the last dot): it may happen at any later time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Verdict, Violation};
use crate::history::{Action, Answer, Entry, Operation, Outcome};

/// What was judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookedAt {
    /// Changes that were acknowledged.
    pub changes: u64,
    /// Reads.
    pub reads: u64,
    /// Families of names.
    pub families: u64,
}

impl fmt::Display for LookedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} changes and {} reads of {} groups of names, each with one client",
            self.changes, self.reads, self.families
        )
    }
}

#[derive(Debug, Default)]
struct Family {
    entries: BTreeMap<String, Entry>,
    /// Its operations since the names were last known to be free.
    recent: Vec<Operation>,
    is_lost: bool,
    end: u64,
}

/// Judges all names; those of a family must have been changed by one client only.
pub fn check(history: &[Operation]) -> (Verdict, LookedAt) {
    let mut families: BTreeMap<&str, Family> = BTreeMap::new();
    let mut looked_at = LookedAt::default();
    let mut ordered: Vec<&Operation> = history.iter().filter(|one| !one.is_void()).collect();
    ordered.sort_by_key(|operation| operation.call);
    for operation in ordered {
        let Some(name) = family_of(&operation.action) else {
            continue;
        };
        let family = families.entry(name).or_default();
        if family.is_lost {
            continue;
        }
        if matches!(operation.outcome, Outcome::Unknown(_)) {
            family.is_lost = true;
            continue;
        }
        let is_change = operation.action.is_write();
        if is_change && operation.call < family.end {
            return (
                Verdict::Undecided(format!("{name}: two changes at the same time")),
                looked_at,
            );
        }
        if is_change {
            looked_at.changes += 1;
            family.end = operation.end;
        } else {
            looked_at.reads += 1;
        }
        if family.entries.is_empty() {
            // The last one is what left nothing.
            let before = family.recent.len().saturating_sub(1);
            family.recent.drain(..before);
        }
        family.recent.push(operation.clone());
        if let Err(reason) = family.step(operation) {
            let violation = Violation {
                subject: format!("{name}.*"),
                reason,
                evidence: std::mem::take(&mut family.recent),
            };
            return (Verdict::Violated(violation), looked_at);
        }
    }
    looked_at.families = families.len() as u64;
    (Verdict::Holds, looked_at)
}

fn family_of(action: &Action) -> Option<&str> {
    let subject = match action {
        Action::Register { name, .. }
        | Action::SetMetadata { name, .. }
        | Action::Lookup { name }
        | Action::Remove { name } => name,
        Action::RemovePrefix { prefix, .. } | Action::List { prefix } => prefix,
        Action::Tagged { .. } | Action::Other { .. } => return None,
    };
    Some(subject.rsplit_once('.')?.0)
}

impl Family {
    fn step(&mut self, operation: &Operation) -> Result<(), String> {
        let Some(answer) = operation.answer() else {
            return Ok(());
        };
        match (&operation.action, answer) {
            (Action::Register { name, entry, safe }, said) => {
                let is_taken = self.entries.contains_key(name);
                match said {
                    Answer::Done if *safe && is_taken => {
                        return Err(format!(
                            "a safe register of {name:?} succeeded although the name was taken"
                        ));
                    }
                    Answer::Done => {
                        self.entries.insert(name.clone(), entry.clone());
                    }
                    _ if !is_taken => {
                        return Err(format!(
                            "a safe register found {name:?} taken, although nobody else uses it: it was \
                             executed twice, or a removal was lost"
                        ));
                    }
                    _ => {}
                }
                Ok(())
            }
            (Action::Remove { name }, Answer::Removed(said)) => {
                let was_there = u64::from(self.entries.remove(name).is_some());
                counted(*said, was_there)
            }
            (Action::RemovePrefix { prefix, .. }, Answer::Removed(said)) => {
                let before = self.entries.len();
                self.entries
                    .retain(|name, _| !name.starts_with(prefix.as_str()));
                counted(*said, (before - self.entries.len()) as u64)
            }
            (Action::SetMetadata { name, tags }, said) => {
                let known = match self.entries.get_mut(name) {
                    Some(entry) => {
                        entry.tags = tags.clone();
                        Answer::Done
                    }
                    None => Answer::UnknownName,
                };
                if *said == known {
                    return Ok(());
                }
                Err(format!(
                    "set_metadata of {name:?} was told {said:?} instead of {known:?}"
                ))
            }
            (Action::Lookup { name }, Answer::Entry(said)) => {
                if said.as_ref() == self.entries.get(name) {
                    return Ok(());
                }
                Err(format!(
                    "a look-up of {name:?} found {said:?} instead of {:?}",
                    self.entries.get(name)
                ))
            }
            (Action::List { .. }, Answer::Entries(said)) => {
                if *said == self.entries {
                    return Ok(());
                }
                let (said, is): (BTreeSet<_>, BTreeSet<_>) =
                    (said.keys().collect(), self.entries.keys().collect());
                Err(format!("a list has {said:?} instead of {is:?}"))
            }
            _ => Ok(()),
        }
    }
}

fn counted(said: u64, is: u64) -> Result<(), String> {
    if said == is {
        return Ok(());
    }
    let why = if said < is {
        "it was executed twice, or an acknowledged register was lost"
    } else {
        "a removal was lost"
    };
    Err(format!(
        "a removal counted {said} where there were {is}: {why}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, ok, unknown};

    fn register(name: &str) -> Action {
        Action::Register {
            name: name.to_owned(),
            entry: entry("u", &[]),
            safe: true,
        }
    }

    fn remove_all() -> Action {
        Action::RemovePrefix {
            prefix: "once.1.".to_owned(),
            by_regex: true,
        }
    }

    fn reason(history: &[Operation]) -> String {
        match check(history).0 {
            Verdict::Violated(violation) => violation.reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_ran_twice_is_found() {
        let twice = [ok(1, 0, 1, register("once.1.a"), Answer::Taken)];
        assert!(reason(&twice).contains("executed twice"));
        let removed_twice = [
            ok(1, 0, 1, register("once.1.a"), Answer::Done),
            ok(1, 2, 3, register("once.1.b"), Answer::Done),
            ok(1, 4, 5, remove_all(), Answer::Removed(0)),
        ];
        assert!(reason(&removed_twice).contains("counted 0 where there were 2"));
        let right = [
            removed_twice[0].clone(),
            removed_twice[1].clone(),
            ok(1, 4, 5, remove_all(), Answer::Removed(2)),
            ok(1, 6, 7, remove_all(), Answer::Removed(0)),
        ];
        let (verdict, looked_at) = check(&right);
        assert_eq!((verdict, looked_at.changes), (Verdict::Holds, 4));
    }

    #[test]
    fn what_was_lost_is_found() {
        let lookup = Action::Lookup {
            name: "once.1.a".to_owned(),
        };
        let list = Action::List {
            prefix: "once.1.".to_owned(),
        };
        let done = ok(1, 0, 1, register("once.1.a"), Answer::Done);
        let none = Answer::Entry(None);
        assert!(reason(&[done.clone(), ok(1, 2, 3, lookup, none)]).contains("look-up"));
        let nothing = Answer::Entries(BTreeMap::new());
        assert!(reason(&[done.clone(), ok(1, 2, 3, list, nothing)]).contains("a list"));
        let remove = Action::Remove {
            name: "once.1.a".to_owned(),
        };
        let back = [
            done,
            ok(1, 2, 3, remove, Answer::Removed(1)),
            ok(1, 4, 5, register("once.1.a"), Answer::Taken),
        ];
        assert!(reason(&back).contains("a removal was lost"));
    }

    #[test]
    fn after_an_unknown_change_nothing_is_expected() {
        let history = [
            unknown(1, 0, 1, register("once.1.a")),
            ok(1, 2, 3, remove_all(), Answer::Removed(7)),
            ok(1, 4, 5, register("once.2.a"), Answer::Done),
        ];
        assert_eq!(check(&history).0, Verdict::Holds);
    }
}
