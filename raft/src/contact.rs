//! When this node last heard from its leader: what it can say about whether it could serve, without asking
//! anyone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use crate::gate::Gate;
use crate::type_config::Raft;

/// The last sign of life of a leader.
#[derive(Debug)]
pub(crate) struct Contact {
    began: Instant,
    /// Milliseconds after `began`, plus one; 0 for never.
    heard: AtomicU64,
}

impl Default for Contact {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }
}

impl Contact {
    /// A leader has just spoken.
    pub(crate) fn heard(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.store(millis + 1, Ordering::Relaxed);
    }

    /// How long ago that was. `None` when no leader has ever spoken.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let millis = self.heard.load(Ordering::Relaxed).checked_sub(1)?;
        let heard = Duration::from_millis(millis);
        Some(self.began.elapsed().saturating_sub(heard))
    }

    fn is_fresh(&self, silence_max: Duration) -> bool {
        self.silence().is_some_and(|silence| silence <= silence_max)
    }
}

/// Says whether this node could serve linearizable reads and writes now: it leads, and a majority has
/// answered it lately, or it follows a leader that has spoken lately.
pub(crate) fn readiness(
    raft: &Raft,
    gate: Arc<Gate>,
    contact: Arc<Contact>,
    silence_max: Duration,
) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let metrics = raft.metrics();
    Arc::new(move || {
        if gate.is_open() {
            return true;
        }
        let metrics = metrics.borrow_watched();
        let lately = match metrics.current_leader {
            Some(id) if id == metrics.id => metrics
                .last_quorum_acked
                .is_some_and(|acked| acked.elapsed() <= silence_max),
            Some(_) => contact.is_fresh(silence_max),
            None => false,
        };
        lately && metrics.running_state.is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn contact_grows_old() {
        let contact = Contact::default();
        let silence_max = Duration::from_secs(2);
        assert!(!contact.is_fresh(silence_max));
        contact.heard();
        tokio::time::advance(Duration::from_millis(1900)).await;
        assert!(contact.is_fresh(silence_max));
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(!contact.is_fresh(silence_max));
    }
}
