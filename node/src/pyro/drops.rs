//! The log lines of connections that were refused or dropped: one each, unless there are too many.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::logging::excerpt;

/// Lines per [`WINDOW`] and cause; what comes on top is counted and told later.
const LINE_COUNT_MAX: u32 = 20;
/// The time over which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Why a connection ended in a way that is worth a line. Each cause has its own window, whatever its text
/// says: a flood of one does not hide another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Closed without a word.
    Dropped,
    /// The client was told why.
    Refused,
    /// There was no place for it.
    NoPlace,
    /// It was the longest idle when a place was needed.
    GaveWay,
    /// It stays, but may not do what it asked for.
    Denied,
}

const CAUSE_COUNT: usize = 5;

impl Cause {
    fn what(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Refused => "refused",
            Self::NoPlace => "turned away",
            Self::GaveWay => "closed",
            Self::Denied => "denied",
        }
    }
}

/// Writes the lines, so that a peer that misbehaves cannot fill the disk with them.
#[derive(Debug, Default)]
pub(super) struct DropLog {
    windows: Mutex<[Window; CAUSE_COUNT]>,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    line_count: u32,
    suppressed_count: u64,
}

impl DropLog {
    /// Logs how the connection of `peer` ended. `reason` may hold what the client sent.
    pub(super) fn note(&self, cause: Cause, peer: &dyn fmt::Display, reason: &str) {
        let Some(suppressed_count) = self.take_line(cause, Instant::now()) else {
            return;
        };
        let what = cause.what();
        if suppressed_count > 0 {
            tracing::warn!("{suppressed_count} more connections were {what}");
        }
        tracing::warn!(%peer, reason = &*excerpt(reason), "connection {what}");
    }

    /// Logs that `peer` may not do what it asked for.
    pub(super) fn note_denial(&self, peer: &dyn fmt::Display, call: &dyn fmt::Display) {
        let Some(suppressed_count) = self.take_line(Cause::Denied, Instant::now()) else {
            return;
        };
        if suppressed_count > 0 {
            tracing::warn!("{suppressed_count} more calls were denied");
        }
        tracing::warn!(%peer, %call, "denied");
    }

    /// Whether a line may be written now, and if so, how many were not since the last.
    fn take_line(&self, cause: Cause, now: Instant) -> Option<u64> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = &mut windows[cause as usize];
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
    fn a_flood_is_cut_and_counted_and_hides_no_other_cause() {
        let log = DropLog::default();
        let start = Instant::now();
        let take = |now| log.take_line(Cause::Dropped, now);
        let written = (0..100).filter(|_| take(start).is_some()).count();
        assert_eq!(written, LINE_COUNT_MAX as usize);
        assert_eq!(log.take_line(Cause::GaveWay, start), Some(0));
        assert_eq!(take(start + WINDOW), Some(80));
        assert_eq!(take(start + WINDOW), Some(0));
    }
}
