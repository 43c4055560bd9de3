//! How much memory all connections together may hold in messages that are not yet whole.
//!
//! The limit of one message is generous, because a client may have a reason for a large one. Many clients
//! that each begin one and never end it have none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of an unfinished message that are not counted: nearly all messages are smaller.
const FREE_LEN: usize = 256 << 10;

/// Bytes that all connections share. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    spent: Arc<AtomicUsize>,
    max: usize,
}

/// What one connection has taken of a [`Budget`]; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    /// Bytes of the unfinished message.
    len: usize,
    /// The part of `len` that is counted: what is above [`FREE_LEN`].
    taken: usize,
}

impl Budget {
    /// A budget of `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self {
            spent: Arc::default(),
            max,
        }
    }

    /// A connection's share, empty at first.
    pub(super) fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            len: 0,
            taken: 0,
        }
    }
}

impl Share {
    /// Counts bytes that arrived. False if they are too many for the budget.
    pub(super) fn grow(&mut self, len: usize) -> bool {
        self.len += len;
        let missing = self.len.saturating_sub(FREE_LEN) - self.taken;
        if missing == 0 {
            return true;
        }
        self.taken += missing;
        let spent_before = self.budget.spent.fetch_add(missing, Ordering::Relaxed);
        spent_before + missing <= self.budget.max
    }

    /// Starts again, for a message of which `len` bytes are there.
    pub(super) fn restart(&mut self, len: usize) {
        if self.taken > 0 {
            self.budget.spent.fetch_sub(self.taken, Ordering::Relaxed);
            self.taken = 0;
        }
        self.len = len;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.restart(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_are_free_and_large_ones_share() {
        let budget = Budget::new(1000);
        let mut shares: Vec<Share> = (0..100).map(|_| budget.share()).collect();
        assert!(shares.iter_mut().all(|share| share.grow(FREE_LEN)));
        assert!(shares[0].grow(600));
        assert!(!shares[1].grow(600));
        shares.truncate(1);
        assert_eq!(budget.spent.load(Ordering::Relaxed), 600);
        shares[0].restart(10);
        assert_eq!(budget.spent.load(Ordering::Relaxed), 0);
        assert!(shares[0].grow(FREE_LEN));
        assert_eq!(budget.spent.load(Ordering::Relaxed), 10);
    }
}
