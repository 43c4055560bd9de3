//! The time at which this node last heard from its leader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The time of the last message from a leader.
#[derive(Debug)]
pub(crate) struct Contact {
    began: Instant,
    /// Milliseconds from `began` to the last message, plus one; 0 if there was none.
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
    /// Records that a message from a leader has arrived just now.
    pub(crate) fn heard(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.store(millis + 1, Ordering::Relaxed);
    }

    /// Returns the time since the last message from a leader. `None` if there was none.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let millis = self.heard.load(Ordering::Relaxed).checked_sub(1)?;
        let heard = Duration::from_millis(millis);
        Some(self.began.elapsed().saturating_sub(heard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn contact_grows_old() {
        let contact = Contact::default();
        let silence = Duration::from_secs(2);
        assert_eq!(contact.silence(), None);
        contact.heard();
        tokio::time::advance(silence).await;
        assert_eq!(contact.silence(), Some(silence));
        contact.heard();
        assert_eq!(contact.silence(), Some(Duration::ZERO));
    }
}
