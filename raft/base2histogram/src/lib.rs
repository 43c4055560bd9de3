//! Stands in for the crate of this name, which openraft counts its batch sizes with.
//!
//! The original computes tables for each of its sixteen resolutions when the first histogram is made,
//! 26 MB that stay in memory for as long as the process lives. That is most of what an idle node may
//! use, and nobody reads the figures: openraft shows them under its `runtime-stats` feature only. So the
//! workspace's `Cargo.toml` puts this one in its place, with the part of the interface that openraft
//! compiles against. Written anew; it can go as soon as the original keeps its tables small.

use std::fmt;
use std::marker::PhantomData;

/// Bucket 0 holds zero; bucket n holds the values of n bits.
const BUCKET_COUNT: usize = 65;

/// Counts of values, by their number of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKET_COUNT],
    data: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            counts: [0; BUCKET_COUNT],
            data: PhantomData,
        }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts the same value so many times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let bits = (u64::BITS - value.leading_zeros()) as usize;
        if let Some(count) = self.counts.get_mut(bits) {
            *count += times;
        }
    }

    /// Returns the number of values counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The usual percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.permille(1),
            p1: self.permille(10),
            p5: self.permille(50),
            p10: self.permille(100),
            p50: self.permille(500),
            p90: self.permille(900),
            p99: self.permille(990),
            p99_9: self.permille(999),
        }
    }

    /// The least value of the bucket that so many thousandths of all values reach into; zero when
    /// there are none.
    fn permille(&self, part: u64) -> u64 {
        let rank = self.total().saturating_mul(part).div_ceil(1000);
        let mut seen = 0;
        for (bits, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return if bits == 0 { 0 } else { 1 << (bits - 1) };
            }
        }
        0
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Percentiles of a [`Histogram`], each the least value of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PercentileStats {
    /// Returns the number of values counted.
    pub samples: u64,
    /// 0.1 %.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// 50 %.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            samples,
            p50,
            p90,
            p99,
            p99_9,
            ..
        } = self;
        write!(f, "n={samples} p50={p50} p90={p90} p99={p99} p99.9={p99_9}")
    }
}

/// Several histograms by name. The original draws them; this one prints their percentiles.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    rows: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// An empty chart.
    pub fn new() -> Self {
        Self::default()
    }

    /// The chart with one more histogram.
    // The original's name, which has nothing to do with the operator.
    #[allow(clippy::should_implement_trait)]
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> Self {
        self.rows.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, stats) in &self.rows {
            writeln!(f, "{name}: {stats}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_again_within_their_power_of_two() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        for value in 0..1000 {
            histogram.record(value);
        }
        histogram.record(u64::MAX);
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1001);
        assert_eq!(stats.p0_1, 1);
        assert_eq!(stats.p50, 256);
        assert_eq!(stats.p99, 512);
        assert_eq!(stats.p99_9, 512);
    }
}
