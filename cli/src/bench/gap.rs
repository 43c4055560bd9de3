//! The longest time without a correct reply.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Measures the longest time between two correct replies, which any number of threads report.
#[derive(Debug)]
pub(super) struct Gap {
    start: Instant,
    /// Nanoseconds from `start` to the latest correct reply.
    last: AtomicU64,
    /// The longest gap in nanoseconds.
    longest: AtomicU64,
}

impl Gap {
    /// Creates a measurement that begins at `start`. Replies before that are ignored.
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            last: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }

    /// Reports a correct reply, or the end of the measurement.
    pub(super) fn end_at(&self, instant: Instant) {
        let Some(since) = instant.checked_duration_since(self.start) else {
            return;
        };
        let now = super::nanoseconds(since);
        let last = self.last.fetch_max(now, Ordering::Relaxed);
        self.longest
            .fetch_max(now.saturating_sub(last), Ordering::Relaxed);
    }

    pub(super) fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_counts_from_the_start_and_whoever_answers() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let gap = Gap::new(at(100));
        gap.end_at(at(50));
        assert_eq!(gap.longest(), Duration::ZERO, "not yet started");
        gap.end_at(at(130));
        // Another thread reports late.
        gap.end_at(at(120));
        gap.end_at(at(150));
        assert_eq!(gap.longest(), Duration::from_millis(30));
        gap.end_at(at(1_150));
        assert_eq!(gap.longest(), Duration::from_secs(1));
    }
}
