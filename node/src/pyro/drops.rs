//! The log lines of connections that were refused or dropped: one each, unless there are too many.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines per [`WINDOW`]; what comes on top is counted and told later.
const LINE_COUNT_MAX: u32 = 20;
/// The time over which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Writes the lines, so that a peer that misbehaves cannot fill the disk with them.
#[derive(Debug, Default)]
pub(super) struct DropLog {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    line_count: u32,
    suppressed_count: u64,
}

impl DropLog {
    /// Logs that the connection of `peer` was refused or dropped.
    pub(super) fn note(&self, peer: &dyn fmt::Display, what: &str, reason: &dyn fmt::Display) {
        let Some(suppressed_count) = self.take_line(Instant::now()) else {
            return;
        };
        if suppressed_count > 0 {
            tracing::warn!("{suppressed_count} more connections were refused or dropped");
        }
        tracing::warn!(%peer, "connection {what}: {reason}");
    }

    /// Whether a line may be written now, and if so, how many were not since the last.
    fn take_line(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| now >= began + WINDOW) {
            window.began = Some(now);
            window.line_count = 0;
        }
        if window.line_count == LINE_COUNT_MAX {
            window.suppressed_count += 1;
            return None;
        }
        window.line_count += 1;
        Some(std::mem::take(&mut window.suppressed_count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let log = DropLog::default();
        let start = Instant::now();
        let written = (0..100).filter(|_| log.take_line(start).is_some()).count();
        assert_eq!(written, LINE_COUNT_MAX as usize);
        assert_eq!(log.take_line(start + WINDOW), Some(80));
        assert_eq!(log.take_line(start + WINDOW), Some(0));
    }
}
