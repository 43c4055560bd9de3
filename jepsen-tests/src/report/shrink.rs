//! The shortest failing history that a bounded search finds. Operations are left out as long as the rest still
//! fails, and only such whose absence cannot make a contradiction that was not there:
//!
//! - reads, many at first and one at a time at last;
//! - all that had ended before an acknowledged `register` was called, if nothing else was under way while it
//!   was and nothing before is still open: whatever the name stood for then, it stands for this now;
//! - the operation that was called last, after all others had ended.

use crate::check::name;
use crate::check::wgl::Budget;
use crate::folder::{Line, OutcomeKind};
use crate::history::{Action, Operation};

/// Steps of all searches for one counterexample, and operations that were looked at for them.
const WORK_MAX: u64 = 5_000_000;

/// A history that is longer is not tried: the checkers give less than that as evidence.
const LEN_MAX: usize = 3_000;

/// The lines of a counterexample that are needed for it; all, where no checker can judge a part alone.
pub(super) fn shortest(checker: &str, lines: &[Line]) -> Vec<Line> {
    if checker != "linearizable per name" || lines.len() > LEN_MAX {
        return lines.to_vec();
    }
    let mut judge = Judge::default();
    let mut rest = without_reads(lines, &mut judge);
    cut_the_end(&mut rest, &mut judge);
    cut_the_beginning(&mut rest, &mut judge);
    // Some reads only were needed because of a write that is gone now.
    without_reads(&rest, &mut judge)
}

/// Says which histories fail, until it has done enough.
struct Judge {
    budget: Budget,
    looked_at: u64,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            budget: Budget::small(),
            looked_at: 0,
        }
    }
}

impl Judge {
    /// Whether `lines` are known to fail; none is, in the end.
    fn fails<'a>(&mut self, lines: impl IntoIterator<Item = &'a Line>) -> bool {
        if self.looked_at + self.budget.spent() > WORK_MAX {
            return false;
        }
        let operations = lines.into_iter().cloned().map(Line::into_operation);
        let operations: Vec<Operation> = operations.collect();
        self.looked_at += operations.len() as u64;
        name::is_violated(&operations, &mut self.budget)
    }
}

/// Leaves out reads, in the order of time.
fn without_reads(lines: &[Line], judge: &mut Judge) -> Vec<Line> {
    let is_write = |line: &&Line| line.arguments.is_write();
    let (writes, reads): (Vec<&Line>, Vec<&Line>) = lines.iter().partition(is_write);
    let needed = shrink(&reads, |reads| {
        judge.fails(writes.iter().chain(reads).copied())
    });
    let mut rest: Vec<Line> = writes.into_iter().chain(needed).cloned().collect();
    rest.sort_by_key(|line| (line.begin_ns, line.end_ns));
    rest
}

/// Leaves out the last call, again and again.
fn cut_the_end(lines: &mut Vec<Line>, judge: &mut Judge) {
    while let Some((last, others)) = lines.split_last() {
        let is_alone = others.iter().all(|line| line.end_ns <= last.begin_ns);
        if !is_alone || !judge.fails(others) {
            return;
        }
        lines.pop();
    }
}

/// Begins with the last registration that may be the first operation.
fn cut_the_beginning(lines: &mut Vec<Line>, judge: &mut Judge) {
    for at in (1..lines.len()).rev() {
        let (before, rest) = lines.split_at(at);
        let Some((first, others)) = rest.split_first() else {
            continue;
        };
        let sets = matches!(first.arguments, Action::Register { safe: false, .. })
            && first.outcome == OutcomeKind::Ok;
        let is_over =
            |line: &Line| line.outcome != OutcomeKind::Unknown && line.end_ns <= first.begin_ns;
        let is_alone = others.iter().all(|line| line.begin_ns >= first.end_ns);
        if sets && is_alone && before.iter().all(is_over) && judge.fails(rest) {
            lines.drain(..at);
            return;
        }
    }
}

/// The shortest part of `all` that is found to fail when blocks, half of it at first and single ones at last,
/// are left out.
fn shrink<T: Clone>(all: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut rest = all.to_vec();
    if !fails(&rest) {
        return rest;
    }
    // At least one, also where nothing can be left out.
    let mut len = rest.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let before = rest.len();
        while at < rest.len() {
            let end = (at + len).min(rest.len());
            let without: Vec<T> = [&rest[..at], &rest[end..]].concat();
            if fails(&without) {
                rest = without;
            } else {
                at = end;
            }
        }
        if len == 1 && rest.len() == before {
            return rest;
        }
        if len > 1 {
            len = len.div_ceil(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, ok};
    use crate::history::Answer;

    fn register(at: u64, uri: &str) -> Line {
        let action = Action::Register {
            name: "n".into(),
            entry: entry(uri, &[]),
            safe: false,
        };
        Line::new("names", &ok(1, at, at + 1, action, Answer::Done))
    }

    fn lookup(at: u64, uri: &str) -> Line {
        let action = Action::Lookup { name: "n".into() };
        let found = Answer::Entry(Some(entry(uri, &[])));
        Line::new("names", &ok(2, at, at + 1, action, found))
    }

    #[test]
    fn where_nothing_can_be_left_out_the_search_ends() {
        assert!(shrink::<u8>(&[], |_| true).is_empty());
        assert!(shrink(&[1_u8, 2, 3], |_| true).is_empty());
        assert_eq!(shrink(&[1_u8], |rest| !rest.is_empty()), [1]);
    }

    #[test]
    fn only_what_contradicts_itself_is_left() {
        let lines = [
            register(0, "a"),
            register(10, "b"),
            lookup(12, "b"),
            register(20, "c"),
            lookup(30, "c"),
            register(40, "d"),
            // Old by two.
            lookup(50, "b"),
            register(60, "e"),
            lookup(70, "e"),
        ];
        let left = shortest("linearizable per name", &lines);
        assert_eq!(left, [lines[5].clone(), lines[6].clone()]);
        // What is still open before a registration may come after it: it must stay.
        let mut open = lines.to_vec();
        open[3].outcome = OutcomeKind::Unknown;
        open[3].value = None;
        let left = shortest("linearizable per name", &open);
        assert!(left.contains(&open[3]), "{left:?}");
        assert!(Judge::default().fails(&left));
        // Under way at the same time: either may have been the last.
        let mut both = lines[3..7].to_vec();
        both[0].end_ns = 45;
        let left = shortest("linearizable per name", &both);
        assert!(Judge::default().fails(&left));
    }

    #[test]
    fn a_history_that_is_hard_to_judge_is_left_as_it_is() {
        // Any of these may have happened, or not, in any order.
        let mut lines: Vec<Line> = (0..40)
            .map(|number| {
                let mut line = register(0, &format!("{number}"));
                line.outcome = OutcomeKind::Unknown;
                line.value = None;
                line
            })
            .collect();
        lines.extend((0..400).map(|number| lookup(10 + 2 * number, &format!("{}", number % 40))));
        lines.push(lookup(1_000, "nobody's"));
        let mut judge = Judge::default();
        assert_eq!(without_reads(&lines, &mut judge).len(), lines.len());
        // What is easy is left as it is when enough has been done.
        let easy = [register(0, "a"), lookup(10, "a"), lookup(20, "b")];
        assert_eq!(without_reads(&easy, &mut judge).len(), 2);
        judge.looked_at = WORK_MAX + 1;
        assert_eq!(without_reads(&easy, &mut judge).len(), 3);
    }

    #[test]
    fn what_is_left_still_fails_and_nothing_more_can_go() {
        let needed = [17, 400, 401, 999];
        let all: Vec<u32> = (0..1000).collect();
        let fails = |rest: &[u32]| needed.iter().all(|number| rest.contains(number));
        assert_eq!(shrink(&all, fails), needed);
        assert_eq!(shrink(&all, |_| false), all);
        assert_eq!(shrink(&[1, 2], |_| true), Vec::<u32>::new());
    }
}
