//! Linearizability by search: Wing and Gong's algorithm with Lowe's memo.
//!
//! An operation may take effect at any moment between its call and its return, one without a return
//! at any moment after its call, or never. The search takes minimal operations (those that no other
//! one precedes) in turn, steps the model, and goes back when a return is reached whose operation was
//! not taken. A pair of (operations taken, state of the model) is tried once, which keeps the search
//! short where operations overlap little (Lowe, "Testing for linearizability", 2017).
//!
//! Two more things keep it short. A read that agrees with its answer is taken at once, and not taken back
//! to try something else: in any order that has it later, it can be moved to here. What never returned and
//! would change nothing is left alone: taking it is of no use, and it can still be taken later.
//!
//! Sets of taken operations are remembered by a number of 128 random bits for each, added without carry:
//! a search of 2^24 sets takes two of them for the same one with a probability below 2^-80, and a step
//! costs the same in a history of ten operations and of a hundred thousand.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::history::Nanos;

/// Steps that all searches of a checker may take together, besides a few for each operation. A search of a
/// history that is linearizable takes little more than those; without an end are searches where much is unknown
/// and the contradiction is subtle. Not optimised, a step of a group of forty names takes up to 60 us and 2 kB:
/// a million of them are a minute, and one search has half a gigabyte.
#[derive(Debug)]
pub struct Budget {
    left: u64,
    of_one: u64,
    spent: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            left: 1_000_000,
            of_one: 250_000,
            spent: 0,
        }
    }
}

impl Budget {
    /// For many searches of which each is soon given up.
    pub fn small() -> Self {
        Self {
            left: 200_000,
            of_one: 10_000,
            spent: 0,
        }
    }

    /// Steps of a search for each operation, which no budget counts.
    const PER_OPERATION: u64 = 64;

    /// Has `search` take its steps, at most as many as are left.
    fn spend<T>(&mut self, operations: usize, search: impl FnOnce(&mut u64) -> T) -> T {
        let free = operations as u64 * Self::PER_OPERATION;
        let granted = free + self.left.min(self.of_one);
        let mut left = granted;
        let found = search(&mut left);
        let taken = granted - left;
        self.left -= taken.saturating_sub(free);
        self.spent += taken;
        found
    }

    /// Steps that were taken so far.
    pub fn spent(&self) -> u64 {
        self.spent
    }
}

/// What the operations are applied to.
pub trait Model {
    /// Its state.
    type State: Clone + Eq + Hash;
    /// An operation with what it was answered, if anything.
    type Step;

    /// Before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `step`, or `None` when its answer is impossible in `state`.
    fn apply(&self, state: &Self::State, step: &Self::Step) -> Option<Self::State>;

    /// Whether `step`, with its answer, changes no state whatever.
    fn is_read(&self, step: &Self::Step) -> bool;
}

/// An operation in time.
#[derive(Debug, Clone)]
pub struct Span<S> {
    /// When it was called.
    pub call: Nanos,
    /// When it returned; `None` when it may take effect at any later time, or never.
    pub end: Option<Nanos>,
    /// What it does.
    pub step: S,
}

/// Result of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// There is an order that explains everything.
    Linearizable,
    /// There is none.
    Impossible,
    /// Neither was found within the limit.
    GaveUp,
}

const HEAD: usize = 0;
const NONE: usize = usize::MAX;

/// A call or a return in the doubly linked list of events that are not explained yet.
struct Event {
    operation: usize,
    is_call: bool,
    previous: usize,
    next: usize,
}

/// The events in the order of time; number 0 is the head.
struct Events {
    list: Vec<Event>,
    /// Events of each operation: its call, and its return if there is one.
    of: Vec<(usize, usize)>,
}

impl Events {
    fn new<S>(spans: &[Span<S>]) -> Self {
        let mut order: Vec<(Nanos, bool, usize)> = Vec::with_capacity(2 * spans.len());
        for (operation, span) in spans.iter().enumerate() {
            // At equal times calls come first: what touches is taken to overlap.
            order.push((span.call, false, operation));
            if let Some(end) = span.end {
                order.push((end, true, operation));
            }
        }
        order.sort_unstable();
        let mut list = vec![Event {
            operation: NONE,
            is_call: false,
            previous: NONE,
            next: NONE,
        }];
        let mut of = vec![(NONE, NONE); spans.len()];
        for (_, is_return, operation) in order {
            let number = list.len();
            list[number - 1].next = number;
            list.push(Event {
                operation,
                is_call: !is_return,
                previous: number - 1,
                next: NONE,
            });
            if is_return {
                of[operation].1 = number;
            } else {
                of[operation].0 = number;
            }
        }
        Self { list, of }
    }

    fn unlink(&mut self, number: usize) {
        if number == NONE {
            return;
        }
        let (previous, next) = (self.list[number].previous, self.list[number].next);
        self.list[previous].next = next;
        if next != NONE {
            self.list[next].previous = previous;
        }
    }

    /// Undoes [`Self::unlink`]; to be called in the reverse order.
    fn relink(&mut self, number: usize) {
        if number == NONE {
            return;
        }
        let (previous, next) = (self.list[number].previous, self.list[number].next);
        self.list[previous].next = number;
        if next != NONE {
            self.list[next].previous = number;
        }
    }

    fn lift(&mut self, operation: usize) {
        let (call, end) = self.of[operation];
        self.unlink(call);
        self.unlink(end);
    }

    fn unlift(&mut self, operation: usize) {
        let (call, end) = self.of[operation];
        self.relink(end);
        self.relink(call);
    }
}

/// A choice of the search.
struct Taken<S> {
    operation: usize,
    before: S,
    /// Nothing can be won by choosing otherwise.
    is_certain: bool,
}

/// Which sets of operations led to which states.
struct Seen<S> {
    bits: Vec<u128>,
    states: HashMap<S, usize>,
    pairs: HashSet<(u128, usize)>,
}

impl<S: Clone + Eq + Hash> Seen<S> {
    fn new(operations: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(operations as u64);
        Self {
            bits: (0..operations).map(|_| random.random()).collect(),
            states: HashMap::new(),
            pairs: HashSet::new(),
        }
    }

    /// Whether this is the first time.
    fn insert(&mut self, taken: u128, state: &S) -> bool {
        let next = self.states.len();
        let number = match self.states.get(state) {
            Some(&number) => number,
            None => *self.states.entry(state.clone()).or_insert(next),
        };
        self.pairs.insert((taken, number))
    }
}

/// Looks for an order of `spans` that `model` allows, with at most the steps of `budget`, and takes what it
/// needed from there.
pub fn search<M: Model>(model: &M, spans: &[Span<M::Step>], budget: &mut Budget) -> Search {
    budget.spend(spans.len(), |steps_left| {
        search_within(model, spans, steps_left)
    })
}

fn search_within<M: Model>(model: &M, spans: &[Span<M::Step>], steps_left: &mut u64) -> Search {
    let mut events = Events::new(spans);
    let mut returns_left = spans.iter().filter(|span| span.end.is_some()).count();
    let mut state = model.initial();
    let mut taken = 0_u128;
    let mut seen = Seen::new(spans.len());
    let mut stack: Vec<Taken<M::State>> = Vec::new();
    let mut at = events.list[HEAD].next;
    while returns_left > 0 {
        // While a return is in the list, the search meets it before the list ends.
        let event = &events.list[at];
        let operation = event.operation;
        if event.is_call {
            if *steps_left == 0 {
                return Search::GaveUp;
            }
            *steps_left -= 1;
            let has_returned = spans[operation].end.is_some();
            let after = model.apply(&state, &spans[operation].step);
            let Some(after) = after.filter(|after| has_returned || *after != state) else {
                at = event.next;
                continue;
            };
            let is_certain = model.is_read(&spans[operation].step);
            debug_assert!(!is_certain || after == state, "a read that changes a state");
            if seen.insert(taken ^ seen.bits[operation], &after) {
                taken ^= seen.bits[operation];
                stack.push(Taken {
                    operation,
                    before: std::mem::replace(&mut state, after),
                    is_certain,
                });
                events.lift(operation);
                returns_left -= usize::from(has_returned);
                at = events.list[HEAD].next;
                continue;
            }
            if !is_certain {
                at = event.next;
                continue;
            }
            // What is certain has led nowhere before.
        }
        // Nothing that was tried explains what has returned: take the last choice back.
        loop {
            let Some(last) = stack.pop() else {
                return Search::Impossible;
            };
            state = last.before;
            taken ^= seen.bits[last.operation];
            events.unlift(last.operation);
            returns_left += usize::from(spans[last.operation].end.is_some());
            at = events.list[events.of[last.operation].0].next;
            if !last.is_certain {
                break;
            }
        }
    }
    Search::Linearizable
}

/// The shortest beginning of the history that is impossible already: the time of the return that makes
/// it so. `spans` must be impossible as a whole.
pub fn first_impossible<M: Model>(
    model: &M,
    spans: &[Span<M::Step>],
    budget: &mut Budget,
) -> Option<Nanos>
where
    M::Step: Clone,
{
    let mut ends: Vec<Nanos> = spans.iter().filter_map(|span| span.end).collect();
    ends.sort_unstable();
    ends.dedup();
    // A beginning of a linearizable history is linearizable, so this can be halved.
    let (mut low, mut high) = (0, ends.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match search(model, &until(spans, ends[middle]), budget) {
            Search::Impossible => high = middle,
            Search::Linearizable => low = middle + 1,
            Search::GaveUp => return None,
        }
    }
    ends.get(low).copied()
}

/// The history as it was known at `time`.
fn until<S: Clone>(spans: &[Span<S>], time: Nanos) -> Vec<Span<S>> {
    let known = spans.iter().filter(|span| span.call <= time);
    // An operation that has not returned yet may have an answer that it does not know; it is left out
    // of nothing: its effect is open, and a model sees its answer only when it takes it.
    known
        .map(|span| Span {
            end: span.end.filter(|&end| end <= time),
            ..span.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A register that holds a number.
    struct Cell;

    #[derive(Debug, Clone, PartialEq)]
    enum Step {
        Write(u8),
        Read(u8),
    }

    impl Model for Cell {
        type State = u8;
        type Step = Step;

        fn initial(&self) -> u8 {
            0
        }

        fn apply(&self, state: &u8, step: &Step) -> Option<u8> {
            match step {
                Step::Write(value) => Some(*value),
                Step::Read(value) => (value == state).then_some(*state),
            }
        }

        fn is_read(&self, step: &Step) -> bool {
            matches!(step, Step::Read(_))
        }
    }

    fn span(call: Nanos, end: impl Into<Option<Nanos>>, step: Step) -> Span<Step> {
        Span {
            call,
            end: end.into(),
            step,
        }
    }

    fn find(spans: &[Span<Step>]) -> Search {
        search(&Cell, spans, &mut Budget::default())
    }

    #[test]
    fn a_read_of_a_concurrent_write_may_see_either() {
        for seen in [0, 1] {
            let spans = [span(0, 10, Step::Write(1)), span(5, 8, Step::Read(seen))];
            assert_eq!(find(&spans), Search::Linearizable);
        }
        let spans = [span(0, 10, Step::Write(1)), span(5, 8, Step::Read(2))];
        assert_eq!(find(&spans), Search::Impossible);
    }

    #[test]
    fn a_stale_read_is_impossible() {
        let spans = [span(0, 10, Step::Write(1)), span(11, 12, Step::Read(0))];
        assert_eq!(find(&spans), Search::Impossible);
    }

    #[test]
    fn two_readers_agree_on_an_order() {
        let spans = [
            span(0, 100, Step::Write(1)),
            span(0, 100, Step::Write(2)),
            span(10, 20, Step::Read(1)),
            span(30, 40, Step::Read(2)),
            span(50, 60, Step::Read(1)),
        ];
        assert_eq!(find(&spans), Search::Impossible);
        assert_eq!(find(&spans[..4]), Search::Linearizable);
        assert_eq!(
            first_impossible(&Cell, &spans, &mut Budget::default()),
            Some(60)
        );
    }

    #[test]
    fn what_nobody_answered_happens_late_or_never() {
        let lost = span(0, None, Step::Write(1));
        let reads = |values: &[u8]| {
            let mut spans = vec![lost.clone()];
            for (number, &value) in (1..).zip(values) {
                spans.push(span(number * 10, number * 10 + 5, Step::Read(value)));
            }
            find(&spans)
        };
        assert_eq!(reads(&[0, 0, 0]), Search::Linearizable);
        assert_eq!(reads(&[0, 1, 1]), Search::Linearizable);
        assert_eq!(reads(&[0, 1, 0]), Search::Impossible);
    }

    #[test]
    fn a_write_that_changes_nothing_now_may_be_needed_later() {
        let spans = [
            span(1, 6, Step::Write(0)),
            span(1, 1, Step::Write(1)),
            span(7, 7, Step::Read(0)),
        ];
        assert_eq!(find(&spans), Search::Linearizable);
    }

    #[test]
    fn a_search_has_a_limit() {
        // Twenty writes at once, and then a read of none of them.
        let mut spans: Vec<_> = (0..20).map(|n| span(0, 100, Step::Write(n))).collect();
        spans.push(span(101, 102, Step::Read(99)));
        let mut budget = Budget {
            left: 1_500,
            of_one: 1_000,
            spent: 0,
        };
        assert_eq!(search(&Cell, &spans, &mut budget), Search::GaveUp);
        assert_eq!(budget.left, 500);
        assert_eq!(search(&Cell, &spans, &mut budget), Search::GaveUp);
        assert_eq!(budget.left, 0);
        // What is easy is still found.
        assert_eq!(
            search(&Cell, &spans[..20], &mut budget),
            Search::Linearizable
        );
    }

    /// All orders, one after the other.
    fn exhaustive(state: u8, spans: &[Span<Step>]) -> bool {
        if spans.iter().all(|span| span.end.is_none()) {
            return true;
        }
        (0..spans.len()).any(|first| {
            let minimal = spans
                .iter()
                .all(|other| other.end.is_none_or(|end| spans[first].call <= end));
            let after = Cell.apply(&state, &spans[first].step);
            let mut rest = spans.to_vec();
            rest.remove(first);
            minimal && after.is_some_and(|after| exhaustive(after, &rest))
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_trying_all_orders(
            spans in prop::collection::vec(
                (0_u64..12, prop::option::weighted(0.8, 0_u64..6), any::<bool>(), 0_u8..3).prop_map(
                    |(call, len, is_write, value)| {
                        let step = if is_write { Step::Write(value) } else { Step::Read(value) };
                        span(call, len.map(|len| call + len), step)
                    },
                ),
                0..7,
            )
        ) {
            let expected = if exhaustive(0, &spans) { Search::Linearizable } else { Search::Impossible };
            prop_assert_eq!(find(&spans), expected);
        }
    }
}
