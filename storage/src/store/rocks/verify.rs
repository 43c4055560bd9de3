//! Verification of a database: it reads everything, even where a part cannot be read.

use std::ops::ControlFlow;
use std::str;
use std::sync::Arc;

use rocksdb::{DBRawIteratorWithThreadMode, ReadOptions};
use siphasher::sip::SipHasher13;

use super::log::index_in;
use super::state::{created_in, created_key, split_index_key};
use super::{Database, Db, Family, RocksStore};
use crate::error::StoreError;
use crate::format;
use crate::model::{Entry, Revision};
use crate::rules::{self, InForce};
use crate::summary::Summary;

/// Maximum number of problems that are reported one by one.
const PROBLEM_COUNT_MAX: usize = 20;

/// The result of [`RocksStore::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Counts and hash of the entries and extra records that could be read.
    pub summary: Summary,
    /// Number of pairs of a tag and a name.
    pub tag_count: u64,
    /// Indexes of the first and the last log entry; `None` if there is no entry.
    pub log: Option<(u64, u64)>,
    /// Index up to which the log was purged; `None` if it never was.
    pub purged: Option<u64>,
    /// The problems, as sentences.
    pub problems: Vec<String>,
}

/// Checks the payload of the log entry at an index, and returns the problem with it as an error.
pub type EntryJudge<'a> = dyn FnMut(u64, &[u8]) -> Result<(), String> + 'a;

/// Collects problems as sentences, a bounded number of them.
#[derive(Default)]
struct Problems {
    told: Vec<String>,
    more: u64,
}

impl Problems {
    fn add(&mut self, problem: impl Into<String>) {
        if self.told.len() < PROBLEM_COUNT_MAX {
            self.told.push(problem.into());
        } else {
            self.more += 1;
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.told.push(format!("and {} more", self.more));
        }
        self.told
    }
}

/// A result of a scan through tables that may be damaged.
enum Met<'a> {
    Record(&'a [u8], &'a [u8]),
    /// Some records cannot be read, for this reason.
    Damage(String),
}

impl RocksStore {
    /// Reads everything with its checksums, and compares the parts that must agree: entries, tag index,
    /// creation order and summary, and the log with its purged index. Damage is reported in
    /// [`Findings::problems`].
    ///
    /// # Errors
    /// [`StoreError`] for failures that are not the data's fault.
    pub fn verify(&self, log_entry: &mut EntryJudge<'_>) -> Result<Findings, StoreError> {
        let mut problems = Problems::default();
        let mut summary = Summary::default();
        let (mut pairs, mut pair_count) = (0u64, 0);
        let (mut created, mut created_count) = (0u64, 0);
        // The creation order is complete behind this revision. A data directory of format 1 had none.
        let since = match self.ordered_since() {
            Ok(since) => since,
            Err(error) => {
                problems.add(error.to_string());
                None
            }
        };
        let is_ordered = |at: Revision| since.is_some_and(|since| at > since);
        self.stored_entries(
            &mut |name, entry, is_hidden| {
                // A hidden entry is found under its tags until it is erased, but does not count in the summary.
                if !is_hidden {
                    summary.add_entry(name, &entry);
                }
                if is_ordered(entry.created) {
                    created = created.wrapping_add(hash(&[&created_key(entry.created, name)]));
                    created_count += 1;
                }
                for tag in &entry.tags {
                    pairs = pairs.wrapping_add(hash(&[tag.as_bytes(), name.as_bytes()]));
                    pair_count += 1;
                }
                ControlFlow::Continue(())
            },
            &mut |damage| problems.add(damage),
        );
        let generation = Arc::clone(&self.shared.current().generation);
        let families = generation.families();
        self.walk(&families.extra, &mut |met| {
            let problem = match met {
                Met::Record(key, record) => match format::unseal(record) {
                    Ok(value) => {
                        summary.add_extra(key, value);
                        return ControlFlow::Continue(());
                    }
                    Err(reason) => format!("the record {}: {reason}", key.escape_ascii()),
                },
                Met::Damage(reason) => reason,
            };
            problems.add(problem);
            ControlFlow::Continue(())
        });
        let (mut indexed, mut indexed_count) = (0u64, 0);
        self.walk(&families.index, &mut |met| {
            match met {
                Met::Record(key, _) => match split_index_key(key) {
                    Some((tag, name)) => {
                        indexed = indexed.wrapping_add(hash(&[tag.as_bytes(), name.as_bytes()]));
                        indexed_count += 1;
                    }
                    None => problems.add(format!("the index has the key {}", key.escape_ascii())),
                },
                Met::Damage(reason) => problems.add(reason),
            }
            ControlFlow::Continue(())
        });
        if (pairs, pair_count) != (indexed, indexed_count) {
            problems.add(format!(
                "the index by tag does not fit the entries: it has {indexed_count} pairs, and they have {pair_count}"
            ));
        }
        let (mut ordered, mut ordered_count) = (0u64, 0);
        self.walk(&families.created, &mut |met| {
            match met {
                Met::Record(key, _) => match created_in(key) {
                    Ok((at, _)) if is_ordered(at) => {
                        ordered = ordered.wrapping_add(hash(&[key]));
                        ordered_count += 1;
                    }
                    Ok(_) => {}
                    Err(error) => problems.add(error.to_string()),
                },
                Met::Damage(reason) => problems.add(reason),
            }
            ControlFlow::Continue(())
        });
        if (created, created_count) != (ordered, ordered_count) {
            problems.add(format!(
                "the order of first registration does not fit the entries: it has {ordered_count} names, and they \
                 are {created_count}"
            ));
        }
        match crate::store::Store::summary(self) {
            Ok(kept) if kept == summary => {}
            Ok(kept) => problems.add(format!(
                "counts and hash should be {} names, {} records, {}, and are {}, {}, {}",
                kept.entry_count,
                kept.extra_count,
                kept.hash,
                summary.entry_count,
                summary.extra_count,
                summary.hash
            )),
            Err(error) => problems.add(error.to_string()),
        }
        let log = self.verify_log(log_entry, &mut problems);
        let purged = match self.log().last_purged() {
            Ok(purged) => purged.map(|(index, _)| index),
            Err(error) => {
                problems.add(error.to_string());
                None
            }
        };
        if let (Some(purged), Some((first, _))) = (purged, log)
            && first != purged + 1
        {
            problems.add(format!(
                "the log begins at {first}, and is purged up to {purged}"
            ));
        }
        Ok(Findings {
            summary,
            tag_count: pair_count,
            log,
            purged,
            problems: problems.finish(),
        })
    }

    /// Reads all entries that can be read; where some cannot, the others come in no order. Calls `damaged` with
    /// the reason for each place that cannot be read.
    pub fn read_entries(
        &self,
        found: &mut dyn FnMut(&str, Entry) -> ControlFlow<()>,
        damaged: &mut dyn FnMut(String),
    ) {
        let mut visit = |name: &str, entry, is_hidden| match is_hidden {
            true => ControlFlow::Continue(()),
            false => found(name, entry),
        };
        self.stored_entries(&mut visit, damaged);
    }

    /// Reads entries as [`Self::read_entries`] does, including those that a large removal hides; for these the
    /// last argument of `found` is true.
    fn stored_entries(
        &self,
        found: &mut dyn FnMut(&str, Entry, bool) -> ControlFlow<()>,
        damaged: &mut dyn FnMut(String),
    ) {
        let (generation, removals) = {
            let current = self.shared.current();
            (Arc::clone(&current.generation), current.removals.clone())
        };
        self.walk(&generation.families().state, &mut |met| {
            let (key, record) = match met {
                Met::Record(key, record) => (key, record),
                Met::Damage(reason) => {
                    damaged(reason);
                    return ControlFlow::Continue(());
                }
            };
            let entry = str::from_utf8(key)
                .map_err(|_| format!("the name {} is not UTF-8", key.escape_ascii()))
                .and_then(|name| {
                    let entry = format::unseal_entry(name, record);
                    entry
                        .map(|entry| (name, entry))
                        .map_err(|error| error.to_string())
                });
            match entry {
                Ok((name, entry)) => {
                    let is_hidden = removals.take(name, entry.created);
                    found(name, entry, is_hidden)
                }
                Err(reason) => {
                    damaged(reason);
                    ControlFlow::Continue(())
                }
            }
        });
    }

    /// Returns the revision behind which all entries are in the creation order; `None` if that order is not
    /// kept yet.
    fn ordered_since(&self) -> Result<Option<Revision>, StoreError> {
        let record = crate::store::Store::extra(self, rules::RECORD_KEY)?;
        let in_force = InForce::from_record(record.as_deref())?;
        Ok((in_force.rules >= 2).then(|| Revision::end_of(in_force.since)))
    }

    fn verify_log(
        &self,
        log_entry: &mut EntryJudge<'_>,
        problems: &mut Problems,
    ) -> Option<(u64, u64)> {
        let mut ends: Option<(u64, u64)> = None;
        self.walk(&self.shared.families().log, &mut |met| {
            let (key, record) = match met {
                Met::Record(key, record) => (key, record),
                Met::Damage(reason) => {
                    problems.add(reason);
                    return ControlFlow::Continue(());
                }
            };
            let index = match index_in(key) {
                Ok(index) => index,
                Err(error) => {
                    problems.add(error.to_string());
                    return ControlFlow::Continue(());
                }
            };
            let payload = format::unseal(record);
            if let Err(reason) = payload.and_then(|payload| log_entry(index, payload)) {
                problems.add(format!("log entry {index}: {reason}"));
            }
            if let Some((_, last)) = ends
                && index != last + 1
            {
                problems.add(format!("the log has {index} after {last}"));
            }
            ends = Some((ends.map_or(index, |(first, _)| first), index));
            ControlFlow::Continue(())
        });
        ends
    }

    /// Visits all records of a column family that can be read, and continues behind those that cannot.
    fn walk(&self, family: &Family<'_>, visit: &mut dyn FnMut(Met<'_>) -> ControlFlow<()>) {
        let database: &Database = self.shared.database();
        let iterator = || {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            database.db.raw_iterator_cf_opt(family, options)
        };
        let mut walk = iterator();
        walk.seek_to_first();
        let mut last: Vec<u8> = Vec::new();
        loop {
            while let Some((key, record)) = walk.item() {
                if visit(Met::Record(key, record)).is_break() {
                    return;
                }
                last.clear();
                last.extend_from_slice(key);
                walk.next();
            }
            let Err(error) = walk.status() else { return };
            let after = String::from_utf8_lossy(&last).into_owned();
            let reason = format!("what follows {after:?} cannot be read: {error}");
            if visit(Met::Damage(reason)).is_break() {
                return;
            }
            let mut behind = iterator();
            if !seek_behind(&mut behind, &last) {
                return;
            }
            let Some(next) = behind.key().map(<[u8]>::to_vec) else {
                return;
            };
            // Visits the records between the damage and the position that was found, backwards.
            behind.prev();
            while let Some((key, record)) = behind.item().filter(|(key, _)| *key > &last[..]) {
                if visit(Met::Record(key, record)).is_break() {
                    return;
                }
                behind.prev();
            }
            walk = iterator();
            walk.seek(&next);
        }
    }
}

/// Moves the iterator to a readable record behind `key`. Returns false if there is none.
fn seek_behind(iterator: &mut DBRawIteratorWithThreadMode<'_, Db>, key: &[u8]) -> bool {
    for len in (0..key.len().max(1)).rev() {
        let next = key.get(len).map_or(0, |byte| u16::from(*byte) + 1);
        for byte in next..=0xff {
            let mut place = key.get(..len).unwrap_or_default().to_vec();
            place.extend(u8::try_from(byte));
            iterator.seek(&place);
            if iterator.valid() {
                return true;
            }
            if iterator.status().is_ok() {
                break;
            }
        }
    }
    false
}

/// Returns a hash of the parts. Equal sets of such hashes have equal sums.
fn hash(parts: &[&[u8]]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write(part);
        // This byte occurs in no UTF-8 text, so it separates the parts.
        hasher.write_u8(0xff);
    }
    hasher.finish()
}
