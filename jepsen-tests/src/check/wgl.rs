//! Linearizability by search: Wing and Gong's algorithm with Lowe's memo.
//!
//! An operation may take effect at any moment between its call and its return, one without a return
//! at any moment after its call, or never. The search takes minimal operations (those that no other
//! one precedes) in turn, steps the model, and goes back when a return is reached whose operation was
//! not taken. A pair of (operations taken, state of the model) is tried once, which keeps the search
//! short where operations overlap little (Lowe, "Testing for linearizability", 2017).

use std::collections::HashSet;
use std::hash::Hash;

use crate::history::Nanos;

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

/// Looks for an order of `spans` that `model` allows. Takes at most `step_limit` steps of the model.
pub fn search<M: Model>(model: &M, spans: &[Span<M::Step>], step_limit: u64) -> Search {
    let mut events = Events::new(spans);
    let mut returns_left = spans.iter().filter(|span| span.end.is_some()).count();
    let mut state = model.initial();
    let mut taken = vec![0_u64; spans.len().div_ceil(64)];
    let mut seen: HashSet<(Vec<u64>, M::State)> = HashSet::new();
    let mut stack: Vec<(usize, M::State)> = Vec::new();
    let mut steps_left = step_limit;
    let mut at = events.list[HEAD].next;
    while returns_left > 0 {
        // While a return is in the list, the search meets it before the list ends.
        let event = &events.list[at];
        let operation = event.operation;
        if event.is_call {
            let next = event.next;
            if steps_left == 0 {
                return Search::GaveUp;
            }
            steps_left -= 1;
            let after = model.apply(&state, &spans[operation].step);
            let (word, bit) = (operation / 64, 1_u64 << (operation % 64));
            let fresh = after.filter(|after| {
                taken[word] |= bit;
                let fresh = seen.insert((taken.clone(), after.clone()));
                if !fresh {
                    taken[word] &= !bit;
                }
                fresh
            });
            match fresh {
                Some(after) => {
                    stack.push((operation, std::mem::replace(&mut state, after)));
                    events.lift(operation);
                    returns_left -= usize::from(spans[operation].end.is_some());
                    at = events.list[HEAD].next;
                }
                None => at = next,
            }
        } else {
            // It has returned, and nothing that was tried explains that: take the last choice back.
            let Some((last, before)) = stack.pop() else {
                return Search::Impossible;
            };
            state = before;
            taken[last / 64] &= !(1_u64 << (last % 64));
            events.unlift(last);
            returns_left += usize::from(spans[last].end.is_some());
            at = events.list[events.of[last].0].next;
        }
    }
    Search::Linearizable
}

/// The shortest beginning of the history that is impossible already: the time of the return that makes
/// it so. `spans` must be impossible as a whole.
pub fn first_impossible<M: Model>(
    model: &M,
    spans: &[Span<M::Step>],
    step_limit: u64,
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
        match search(model, &until(spans, ends[middle]), step_limit) {
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
    }

    fn span(call: Nanos, end: impl Into<Option<Nanos>>, step: Step) -> Span<Step> {
        Span {
            call,
            end: end.into(),
            step,
        }
    }

    fn find(spans: &[Span<Step>]) -> Search {
        search(&Cell, spans, 1_000_000)
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
        assert_eq!(first_impossible(&Cell, &spans, 1_000_000), Some(60));
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
    fn a_search_has_a_limit() {
        let spans: Vec<_> = (0..20).map(|n| span(0, 100, Step::Write(n))).collect();
        assert_eq!(search(&Cell, &spans, 3), Search::GaveUp);
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
