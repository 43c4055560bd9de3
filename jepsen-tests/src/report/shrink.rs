//! The shortest failing history that a bounded search finds: reads are left out, many at first and one at a
//! time at last, as long as the rest still fails. Only reads: without a write, what others read of it would be a
//! contradiction that was not there.

use crate::check::{Verdict, name};
use crate::folder::Line;
use crate::history::Operation;

/// Histories that are judged for one counterexample.
const TRY_COUNT_MAX: usize = 2_000;

/// A history that is longer is not tried: the checkers give less than that as evidence.
const LEN_MAX: usize = 3_000;

/// The lines of a counterexample that are needed for it; all, where no checker can judge a part alone.
pub(super) fn shortest(checker: &str, lines: &[Line]) -> Vec<Line> {
    if checker != "linearizable per name" || lines.len() > LEN_MAX {
        return lines.to_vec();
    }
    let (writes, reads): (Vec<Line>, Vec<Line>) = lines
        .iter()
        .cloned()
        .partition(|line| line.arguments.is_write());
    let needed = shrink(&reads, |reads| {
        let rest = writes.iter().chain(reads).cloned();
        let operations: Vec<Operation> = rest.map(Line::into_operation).collect();
        matches!(name::check(&operations), Verdict::Violated(_))
    });
    [writes, needed].concat()
}

fn shrink<T: Clone>(all: &[T], fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut rest = all.to_vec();
    if !fails(&rest) {
        return rest;
    }
    let mut tries = 1;
    let mut len = rest.len().div_ceil(2);
    loop {
        let mut at = 0;
        let before = rest.len();
        while at < rest.len() && tries < TRY_COUNT_MAX {
            let end = (at + len).min(rest.len());
            let without: Vec<T> = [&rest[..at], &rest[end..]].concat();
            tries += 1;
            if fails(&without) {
                rest = without;
            } else {
                at = end;
            }
        }
        if tries >= TRY_COUNT_MAX || len == 1 && rest.len() == before {
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
