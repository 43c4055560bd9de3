//! The summary of a whole state: two counts and a hash.
//!
//! Two nodes that have applied the same log have the same [`Summary`], whatever their store. The summary is
//! updated by each change and written with it, so that reading it costs nothing. It is defined on names, URIs,
//! tags and revisions, not on the bytes of a store.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::error::StoreError;
use crate::format::{self, Reader};
use crate::model::Entry;

/// A sum over all entries and extra records. The order in which they are added does not matter, and each of
/// them can be subtracted again.
///
/// Each one counts with its SipHash-2-4-128 under a fixed key, added up modulo 2^128. The hash tells states
/// apart that differ by mistake. It does not withstand an attacker who searches for two equal sums.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StateHash(pub u128);

/// Counts and hash of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Number of entries.
    pub entry_count: u64,
    /// Number of extra records.
    pub extra_count: u64,
    /// Hash of both.
    pub hash: StateHash,
}

impl Summary {
    /// Adds an entry.
    pub fn add_entry(&mut self, name: &str, entry: &Entry) {
        self.entry_count = self.entry_count.wrapping_add(1);
        self.hash.0 = self.hash.0.wrapping_add(entry_hash(name, entry));
    }

    /// Subtracts an entry that was added.
    pub fn remove_entry(&mut self, name: &str, entry: &Entry) {
        self.entry_count = self.entry_count.wrapping_sub(1);
        self.hash.0 = self.hash.0.wrapping_sub(entry_hash(name, entry));
    }

    /// Adds an extra record.
    pub fn add_extra(&mut self, key: &[u8], value: &[u8]) {
        self.extra_count = self.extra_count.wrapping_add(1);
        self.hash.0 = self.hash.0.wrapping_add(extra_hash(key, value));
    }

    /// Subtracts an extra record that was added.
    pub fn remove_extra(&mut self, key: &[u8], value: &[u8]) {
        self.extra_count = self.extra_count.wrapping_sub(1);
        self.hash.0 = self.hash.0.wrapping_sub(extra_hash(key, value));
    }

    /// Appends `entry_count` u64, `extra_count` u64 and `hash` u128, big-endian.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.entry_count.to_be_bytes());
        out.extend_from_slice(&self.extra_count.to_be_bytes());
        out.extend_from_slice(&self.hash.0.to_be_bytes());
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, String> {
        Ok(Self {
            entry_count: reader.u64()?,
            extra_count: reader.u64()?,
            hash: StateHash(reader.u128()?),
        })
    }

    /// Returns the summary as a sealed record, for a store to keep.
    pub fn to_record(&self) -> Vec<u8> {
        format::seal_with(32, |out| self.write(out))
    }

    /// Reads a record that [`Self::to_record`] returned.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn from_record(record: &[u8]) -> Result<Self, StoreError> {
        format::unseal(record)
            .and_then(|payload| {
                let mut reader = Reader(payload);
                let summary = Self::read(&mut reader)?;
                reader.end()?;
                Ok(summary)
            })
            .map_err(|reason| StoreError::corrupt("the summary of the state", reason))
    }
}

/// Returns the hash of an entry. Each text is fed with its length, so that no two entries feed the same bytes.
/// Fields that layout 1 omits are omitted here, too, so that such an entry counts as it did before layout 2.
fn entry_hash(name: &str, entry: &Entry) -> u128 {
    let mut hasher = SipHasher24::new();
    let is_first = format::entry_version(entry) == 1;
    hasher.write(if is_first { b"e" } else { b"E" });
    feed(&mut hasher, name.as_bytes());
    feed(&mut hasher, entry.uri.as_bytes());
    hasher.write(&entry.revision.index.to_le_bytes());
    if !is_first {
        hasher.write(&entry.revision.position.to_le_bytes());
        hasher.write(&entry.created.index.to_le_bytes());
        hasher.write(&entry.created.position.to_le_bytes());
    }
    for tag in &entry.tags {
        feed(&mut hasher, tag.as_bytes());
    }
    hasher.finish128().as_u128()
}

fn extra_hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = SipHasher24::new();
    hasher.write(b"x");
    feed(&mut hasher, key);
    feed(&mut hasher, value);
    hasher.finish128().as_u128()
}

fn feed(hasher: &mut SipHasher24, bytes: &[u8]) {
    hasher.write(&(bytes.len() as u64).to_le_bytes());
    hasher.write(bytes);
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Revision;

    fn entry(uri: &str, tags: &[&str], index: u64) -> Entry {
        Entry {
            uri: uri.to_owned(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            revision: Revision::new(index, 0),
            created: Revision::new(index, 0),
        }
    }

    fn changed(position: u32, created: (u64, u32)) -> Entry {
        Entry {
            revision: Revision::new(1, position),
            created: Revision::new(created.0, created.1),
            ..entry("u", &["ab"], 1)
        }
    }

    #[test]
    fn the_hash_is_the_same_in_every_release() {
        // A change here makes nodes of two releases disagree about equal states.
        let mut summary = Summary::default();
        summary.add_entry("name", &entry("PYRO:o@h:1", &["a", "b"], 3));
        summary.add_extra(b"k", b"v");
        assert_eq!(summary.hash.to_string(), "24e39c5714725323a17e6a6a4bf00b1d");
    }

    #[test]
    fn order_does_not_matter_and_what_goes_leaves_nothing() {
        let (a, b) = (entry("u", &["t"], 1), entry("v", &[], 2));
        let mut one = Summary::default();
        one.add_entry("a", &a);
        one.add_entry("b", &b);
        let mut two = Summary::default();
        two.add_entry("b", &b);
        two.add_extra(b"x", b"y");
        two.add_entry("a", &a);
        two.remove_extra(b"x", b"y");
        assert_eq!(one, two);
        two.remove_entry("a", &a);
        two.remove_entry("b", &b);
        assert_eq!(two, Summary::default());
    }

    #[test]
    fn every_field_counts() {
        let mut hashes = Vec::new();
        for (name, entry) in [
            ("n", entry("u", &["ab"], 1)),
            ("m", entry("u", &["ab"], 1)),
            ("n", entry("v", &["ab"], 1)),
            ("n", entry("u", &["a", "b"], 1)),
            ("n", entry("u", &["ab"], 2)),
            ("nu", entry("", &["ab"], 1)),
            ("n", changed(1, (1, 0))),
            ("n", changed(1, (1, 1))),
            ("n", changed(0, (0, 1))),
            ("n", changed(0, (0, 0))),
        ] {
            hashes.push(entry_hash(name, &entry));
        }
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }
}
