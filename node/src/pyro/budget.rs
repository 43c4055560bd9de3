//! How much memory large messages may take over all connections together.
//!
//! The limit of one message is generous, because a client may have a reason for a large one. Many clients
//! that each begin one and never end it, or that ask for large answers and never read them, have none.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// Bytes of each message that are not counted: nearly all messages are smaller.
const FREE_LEN: usize = 16 << 10;

/// Bytes that all connections share. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    account: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    spent: AtomicUsize,
    max: usize,
    given_back: Notify,
}

/// What one connection has taken of a [`Budget`]; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    /// Bytes of the message under way.
    len: usize,
    /// The part of `len` that is counted: what is above [`FREE_LEN`].
    taken: usize,
}

impl Budget {
    /// A budget of `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self {
            account: Arc::new(Account {
                spent: AtomicUsize::new(0),
                max,
                given_back: Notify::new(),
            }),
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

    /// Whether all of it is spent.
    pub(super) fn is_spent(&self) -> bool {
        self.account.spent.load(Ordering::Acquire) >= self.account.max
    }

    /// Waits until less than all is spent. False if that takes longer than `patience`.
    pub(super) async fn has_room(&self, patience: Duration) -> bool {
        let account = &*self.account;
        let room = async {
            let mut given_back = pin!(account.given_back.notified());
            loop {
                // Listened for before it is looked at, no return is missed.
                given_back.as_mut().enable();
                if !self.is_spent() {
                    return;
                }
                given_back.as_mut().await;
                given_back.set(account.given_back.notified());
            }
        };
        timeout(patience, room).await.is_ok()
    }
}

impl Share {
    /// Counts bytes of the message under way. False if the budget is overdrawn now.
    pub(super) fn grow(&mut self, len: usize) -> bool {
        self.len += len;
        let missing = self.len.saturating_sub(FREE_LEN) - self.taken;
        if missing == 0 {
            return true;
        }
        self.taken += missing;
        let account = &self.budget.account;
        account.spent.fetch_add(missing, Ordering::AcqRel) + missing <= account.max
    }

    /// The message is done with.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        if self.taken > 0 {
            let account = &self.budget.account;
            account.spent.fetch_sub(self.taken, Ordering::AcqRel);
            account.given_back.notify_waiters();
            self.taken = 0;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
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
        assert_eq!(budget.account.spent.load(Ordering::Acquire), 600);
        shares[0].clear();
        assert_eq!(budget.account.spent.load(Ordering::Acquire), 0);
        assert!(shares[0].grow(FREE_LEN + 10));
        assert_eq!(budget.account.spent.load(Ordering::Acquire), 10);
    }

    #[tokio::test]
    async fn who_waits_is_woken_when_something_is_given_back() {
        let budget = Budget::new(1000);
        let mut share = budget.share();
        assert!(budget.has_room(Duration::ZERO).await);
        assert!(share.grow(FREE_LEN + 1000), "all of it is not too much");
        assert!(!budget.has_room(Duration::from_millis(10)).await);
        let waiting = budget.clone();
        let waiting = tokio::spawn(async move { waiting.has_room(Duration::MAX).await });
        tokio::task::yield_now().await;
        drop(share);
        assert!(waiting.await.expect("no panic"));
    }
}
