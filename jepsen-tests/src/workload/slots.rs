//! Slots: numbers for names that are used for a while and then never again.
//!
//! The search for a linearization of the operations on one name takes longer the more operations there are, and
//! much longer the more of them have an unknown outcome. Each workload therefore uses a few numbers at a time,
//! each for a bounded number of operations and a smaller number of unknown outcomes, and then the next number.

use std::sync::{Mutex, PoisonError};

use rand::Rng;
use rand::rngs::SmallRng;

/// The numbers in use, shared by the clients of a workload.
#[derive(Debug)]
pub struct Slots {
    operations_max: u32,
    unknown_max: u32,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    next: u64,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: u64,
    operations: u32,
    unknown: u32,
}

impl Slots {
    /// Creates `count` slots. A number is replaced after `operations_max` operations or `unknown_max` unknown
    /// outcomes. Unknown outcomes of operations in progress may exceed the limit.
    pub fn new(count: u64, operations_max: u32, unknown_max: u32) -> Self {
        let slot = |number| Slot {
            number,
            operations: 0,
            unknown: 0,
        };
        Self {
            operations_max,
            unknown_max,
            inner: Mutex::new(Inner {
                next: count,
                slots: (0..count).map(slot).collect(),
            }),
        }
    }

    /// Draws one of the numbers for one operation.
    pub fn take(&self, random: &mut SmallRng) -> u64 {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let at = random.random_range(0..inner.slots.len());
        let slot = &mut inner.slots[at];
        slot.operations += 1;
        let taken = *slot;
        if taken.operations >= self.operations_max {
            inner.replace(at);
        }
        taken.number
    }

    /// Reports an operation on `number` with an unknown outcome.
    pub fn lost(&self, number: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = inner.slots.iter().position(|slot| slot.number == number) else {
            return;
        };
        inner.slots[at].unknown += 1;
        if inner.slots[at].unknown >= self.unknown_max {
            inner.replace(at);
        }
    }

    /// Returns a number above all numbers that were ever used.
    pub fn end(&self) -> u64 {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.next
    }
}

impl Inner {
    fn replace(&mut self, at: usize) {
        self.slots[at] = Slot {
            number: self.next,
            operations: 0,
            unknown: 0,
        };
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn no_number_is_used_too_often() {
        let slots = Slots::new(3, 10, 2);
        let mut random = SmallRng::seed_from_u64(1);
        let mut uses: BTreeMap<u64, u32> = BTreeMap::new();
        for _ in 0..1_000 {
            *uses.entry(slots.take(&mut random)).or_default() += 1;
        }
        assert!(uses.values().all(|&count| count <= 10), "{uses:?}");
        assert!(slots.end() >= 100 && slots.end() <= 103, "{}", slots.end());
    }

    #[test]
    fn a_number_with_unknown_outcomes_is_given_up() {
        let slots = Slots::new(1, 1_000, 2);
        let mut random = SmallRng::seed_from_u64(1);
        assert_eq!(slots.take(&mut random), 0);
        slots.lost(0);
        assert_eq!(slots.take(&mut random), 0);
        slots.lost(0);
        // An operation that was in progress still reports its outcome.
        slots.lost(0);
        assert_eq!(slots.take(&mut random), 1);
    }
}
