//! Log retention: decides how many entries the log keeps behind the last snapshot.
//!
//! Entries that a snapshot covers are needed only by members that do not have them yet. Some of them are always
//! kept, so that a short absence ends quickly. More are kept for a member that lags behind by no more than can
//! be sent quickly. More still are kept behind a snapshot that is being sent, so that a new member does not
//! need a second snapshot, however much is written meanwhile. A member that is absent for longer gets a
//! snapshot when it returns: the log has a limit in bytes in any case.
//!
//! openraft has its own policy, which counts entries and does not consider the members. It is switched off.

use std::collections::VecDeque;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use hearth_storage::LogHome;

use crate::config::Tuning;
use crate::replication::snapshot_send::Outgoing;
use crate::store::Raft;
use crate::types::LogId;

/// Interval at which the log is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Limit on the log's length in bytes if the log is in memory.
const LEN_MAX_IN_MEMORY: u64 = 16 << 20;

/// The limits of retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Entries that are always kept behind a snapshot.
    keep_entry_count: u64,
    /// Entries that are purged at once while the log is not too long.
    purge_entry_count: u64,
    /// Length in bytes beyond which the log is shortened to half of it.
    len_max: u64,
    /// Longest distance in bytes at which entries are kept for a lagging member.
    lag_len_max: u64,
    /// Longest distance in bytes at which entries are kept behind a snapshot that is being sent.
    sending_len_max: u64,
}

impl Limits {
    pub(crate) fn new(tuning: &Tuning, in_memory: bool) -> Self {
        let len_max = if in_memory {
            tuning.log_len_max.min(LEN_MAX_IN_MEMORY)
        } else {
            tuning.log_len_max
        };
        Self {
            keep_entry_count: tuning.log_keep_entry_count,
            purge_entry_count: tuning.purge_entry_count,
            len_max,
            // A lagging member may need everything that the log has.
            lag_len_max: len_max,
            sending_len_max: len_max.saturating_mul(4),
        }
    }
}

/// Purges the log for as long as Raft runs.
pub(crate) async fn keep_log_short(raft: Raft, log: LogHome, outgoing: Outgoing, limits: Limits) {
    let metrics = raft.metrics();
    let mut lengths = Lengths::new(log.stats().entry_len, limits.len_max / 16);
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let look = {
            let metrics = metrics.borrow_watched();
            let index = |id: &Option<LogId>| id.map_or(0, |id| id.index);
            let members = metrics.replication.iter().flatten();
            Look {
                last: metrics.last_log_index.unwrap_or(0),
                snapshot: index(&metrics.snapshot),
                purged: index(&metrics.purged),
                members: members
                    .filter_map(|(_, matching)| matching.as_ref().map(|id| id.index))
                    .collect(),
                sending_after: outgoing.needed_after(),
            }
        };
        lengths.look(&look, log.stats().entry_len);
        let Some(upto) = purge_upto(&look, &lengths, &limits) else {
            continue;
        };
        let result = if look.snapshot < upto {
            // Needs a snapshot first. The next check then finds it and purges.
            raft.trigger().snapshot().await
        } else {
            raft.trigger().purge_log(upto).await
        };
        if result.is_err() {
            return;
        }
    }
}

/// The log at one moment, in indexes; 0 stands for none.
#[derive(Debug, Clone, Default)]
struct Look {
    last: u64,
    /// The last entry that a snapshot covers.
    snapshot: u64,
    /// The last entry that was purged.
    purged: u64,
    /// On a leader: the last index that each member is known to have.
    members: Vec<u64>,
    /// The lowest index behind which a member needs the log, because a snapshot is on its way to it.
    sending_after: Option<u64>,
}

/// Estimates how many bytes the log has behind an index.
#[derive(Debug)]
struct Lengths {
    /// Rising pairs of an index and the bytes that had been appended when the log ended at that index.
    marks: VecDeque<(u64, u64)>,
    /// Bytes between two marks, approximately.
    step: u64,
    /// Bytes that have been appended so far.
    len: u64,
}

impl Lengths {
    /// Creates the estimate. Entries from an earlier run count as 0 bytes.
    fn new(len: u64, step: u64) -> Self {
        Self {
            marks: VecDeque::from([(0, len)]),
            step,
            len,
        }
    }

    fn look(&mut self, look: &Look, len: u64) {
        self.len = len;
        let back = self.marks.back();
        if back.is_none_or(|&(_, back)| len.saturating_sub(back) > self.step) {
            self.marks.push_back((look.last, len));
        }
        while (self.marks.get(1)).is_some_and(|&(index, _)| index <= look.purged) {
            self.marks.pop_front();
        }
    }

    /// Returns the bytes behind `index`, or somewhat more.
    fn behind(&self, index: u64) -> u64 {
        let before = self.marks.iter().rev().find(|&&(mark, _)| mark <= index);
        let first = before.or(self.marks.front());
        first.map_or(0, |&(_, at)| self.len.saturating_sub(at))
    }

    /// Returns an index behind which there are about `len` bytes; above `purged`, or 0.
    fn index_before(&self, len: u64, purged: u64) -> u64 {
        let goes = |&&(_, at): &&(u64, u64)| self.len.saturating_sub(at) >= len;
        let index = (self.marks.iter().rev().find(goes)).map_or(0, |&(index, _)| index);
        if index > purged {
            return index;
        }
        // After a burst between two checks, the mark may be purged already. The next mark is then too far
        // ahead, which is better than a log that stays too long.
        let beyond = self.marks.iter().find(|&&(index, _)| index > purged);
        beyond.map_or(0, |&(index, _)| index)
    }
}

/// Returns the last entry to purge, or `None` if it is too early to purge.
fn purge_upto(look: &Look, lengths: &Lengths, limits: &Limits) -> Option<u64> {
    let mut upto = look.snapshot.saturating_sub(limits.keep_entry_count);
    let too_long = lengths.behind(look.purged) > limits.len_max;
    if too_long {
        upto = upto.max(lengths.index_before(limits.len_max / 2, look.purged));
    }
    let lagging = (look.members.iter().copied())
        .filter(|&index| index >= look.purged && lengths.behind(index) <= limits.lag_len_max);
    let sending =
        (look.sending_after).filter(|&index| lengths.behind(index) <= limits.sending_len_max);
    if let Some(needed) = lagging.chain(sending).min() {
        upto = upto.min(needed);
    }
    let enough = if too_long {
        1
    } else {
        limits.purge_entry_count
    };
    (upto >= look.purged.saturating_add(enough)).then_some(upto)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        keep_entry_count: 100,
        purge_entry_count: 10,
        len_max: 100_000,
        lag_len_max: 25_000,
        sending_len_max: 200_000,
    };

    /// Returns the lengths of a log that grew to `last` entries of ten bytes each, in small steps.
    fn lengths(last: u64, purged: u64) -> Lengths {
        let mut lengths = Lengths::new(0, LIMITS.len_max / 16);
        for last in (0..=last).step_by(50) {
            let look = Look {
                last,
                purged: purged.min(last),
                ..Look::default()
            };
            lengths.look(&look, last * 10);
        }
        lengths
    }

    fn look(last: u64, purged: u64) -> Look {
        Look {
            last,
            snapshot: last,
            purged,
            ..Look::default()
        }
    }

    fn upto(look: &Look) -> Option<u64> {
        purge_upto(look, &lengths(look.last, look.purged), &LIMITS)
    }

    #[test]
    fn what_a_snapshot_covers_goes_but_for_some() {
        assert_eq!(upto(&look(1000, 0)), Some(900));
        assert_eq!(upto(&look(1000, 890)), Some(900));
        assert_eq!(upto(&look(1000, 891)), None, "not worth it yet");
        assert_eq!(upto(&look(50, 0)), None);
        let uncovered = Look {
            snapshot: 0,
            ..look(5000, 0)
        };
        assert_eq!(upto(&uncovered), None);
    }

    #[test]
    fn a_member_that_lags_a_little_keeps_its_entries() {
        let lagging = |index| Look {
            members: vec![3000, index],
            ..look(3000, 500)
        };
        assert_eq!(upto(&lagging(2990)), Some(2900));
        assert_eq!(upto(&lagging(1900)), Some(1900));
        // 25,000 bytes are 2,500 entries, with a mark every 625 bytes or more.
        assert_eq!(upto(&lagging(1250)), Some(1250));
        let near = Look {
            members: vec![505],
            ..look(2000, 500)
        };
        assert_eq!(upto(&near), None);
        let far = Look {
            members: vec![9000, 600],
            ..look(9000, 500)
        };
        assert_eq!(upto(&far), Some(8900), "it gets a snapshot");
        let lost = Look {
            members: vec![3000, 400],
            ..look(3000, 500)
        };
        assert_eq!(upto(&lost), Some(2900), "it needs one anyway");
    }

    #[test]
    fn behind_a_snapshot_on_its_way_everything_stays_up_to_a_limit() {
        let sending = |last, index| Look {
            sending_after: Some(index),
            ..look(last, 500)
        };
        assert_eq!(
            upto(&sending(12_000, 1000)),
            Some(1000),
            "beyond the usual limit"
        );
        assert_eq!(upto(&sending(18_000, 500)), None);
        let long = upto(&sending(22_000, 1000)).unwrap();
        assert!((21_000..22_000).contains(&long), "{long}");
    }

    #[test]
    fn a_log_of_large_entries_is_halved() {
        let mut lengths = Lengths::new(0, LIMITS.len_max / 16);
        for last in 0..=90 {
            lengths.look(&look(last, 0), last * 2000);
        }
        let upto = purge_upto(&look(90, 0), &lengths, &LIMITS).unwrap();
        assert!((60..=66).contains(&upto), "{upto}");
        // Nothing is purged before a snapshot covers it, but a snapshot is requested.
        let uncovered = Look {
            snapshot: 10,
            ..look(90, 0)
        };
        assert_eq!(purge_upto(&uncovered, &lengths, &LIMITS), Some(upto));
        // A burst of entries between two checks.
        let mut lengths = Lengths::new(0, LIMITS.len_max / 16);
        lengths.look(&look(5, 0), 100);
        lengths.look(&look(5, 5), 100);
        lengths.look(&look(95, 5), 300_000);
        assert_eq!(purge_upto(&look(95, 5), &lengths, &LIMITS), Some(95));
    }

    #[test]
    fn a_log_in_memory_is_shorter() {
        let tuning = Tuning::default();
        let disk = Limits::new(&tuning, false);
        let memory = Limits::new(&tuning, true);
        assert_eq!(disk.len_max, tuning.log_len_max);
        assert!(memory.sending_len_max <= disk.len_max);
    }
}
