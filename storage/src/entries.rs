//! The entries of a list, packed: a list of a million names has a hundred megabytes and not five times as many.

use std::fmt;

use crate::error::StoreError;
use crate::format::{self, EntryRef, Reader};
use crate::model::{Entry, Name, Revision};
use crate::store::StoredEntry;

/// Entries with their names, in an order of their own. Each is unpacked when it is its turn.
#[derive(Clone, Default)]
pub struct Entries {
    /// One behind the other: the name behind its length, the layout of the entry, the entry behind its length.
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// Where in [`Entries::bytes`] an entry is, and what it is sorted by.
#[derive(Debug, Clone, Copy)]
struct Place {
    created: Revision,
    start: usize,
}

/// How long the name, the URI and the tags of an entry are, in bytes, and how many texts that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Texts {
    /// Bytes of all of them.
    pub len: usize,
    /// How many they are.
    pub count: usize,
}

impl Entries {
    /// Number of the entries.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds an entry at the end. Returns how long its texts are.
    pub fn push(&mut self, name: &str, entry: &Entry) -> Texts {
        let start = self.begin(name, format::entry_version(entry));
        let len = format::length(format::entry_len(entry));
        self.bytes.extend_from_slice(&len.to_be_bytes());
        format::write_entry(&mut self.bytes, entry);
        let created = entry.created;
        self.places.push(Place { created, start });
        let tags_len: usize = entry.tags.iter().map(String::len).sum();
        Texts {
            len: name.len() + entry.uri.len() + tags_len,
            count: 2 + entry.tags.len(),
        }
    }

    /// [`Self::push`] of an entry that a scan has met: it is checked, and not unpacked.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub(crate) fn push_stored(
        &mut self,
        name: &str,
        entry: &StoredEntry<'_>,
    ) -> Result<Texts, StoreError> {
        let Some(packed) = entry.packed()? else {
            return Ok(self.push(name, &entry.read()?));
        };
        let start = self.begin(name, packed.version);
        format::write_bytes(&mut self.bytes, packed.bytes);
        let entry = packed.entry;
        let created = entry.created;
        self.places.push(Place { created, start });
        Ok(Texts {
            len: name.len() + entry.uri.len() + entry.tags_len,
            count: 2 + entry.tag_count,
        })
    }

    fn begin(&mut self, name: &str, version: u8) -> usize {
        let start = self.bytes.len();
        format::write_bytes(&mut self.bytes, name.as_bytes());
        self.bytes.push(version);
        start
    }

    /// Puts them in the order of creation; by name where that is the same.
    pub(crate) fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |place: &Place| unpack(bytes, place).map(|(name, _)| name).ok();
        self.places.sort_unstable_by(|one, other| {
            let by_creation = one.created.cmp(&other.created);
            by_creation.then_with(|| name(one).cmp(&name(other)))
        });
    }

    /// The entries in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Name, Entry)> {
        self.places.iter().map(|place| {
            let (name, entry) = unpack(&self.bytes, place).expect("it was packed here");
            (name.to_owned(), entry.into_owned())
        })
    }
}

fn unpack<'a>(bytes: &'a [u8], place: &Place) -> Result<(&'a str, EntryRef<'a>), String> {
    let mut reader = Reader(bytes.get(place.start..).unwrap_or_default());
    let name = reader.text()?;
    let version = reader.u8()?;
    let entry = EntryRef::read(version, &mut Reader(reader.bytes()?))?;
    Ok((name, entry))
}

/// The entries one after the other, each unpacked when it is its turn.
#[derive(Debug)]
pub struct IntoIter {
    entries: Entries,
    next: usize,
}

impl Iterator for IntoIter {
    type Item = (Name, Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let place = self.entries.places.get(self.next)?;
        self.next += 1;
        let (name, entry) = unpack(&self.entries.bytes, place).expect("it was packed here");
        Some((name.to_owned(), entry.into_owned()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.entries.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for IntoIter {}

impl IntoIterator for Entries {
    type Item = (Name, Entry);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter {
            entries: self,
            next: 0,
        }
    }
}

impl FromIterator<(Name, Entry)> for Entries {
    fn from_iter<I: IntoIterator<Item = (Name, Entry)>>(items: I) -> Self {
        let mut entries = Self::default();
        for (name, entry) in items {
            entries.push(&name, &entry);
        }
        entries
    }
}

impl PartialEq for Entries {
    /// Whether both have the same entries in the same order.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Entries {}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> Entry {
        Entry {
            uri: format!("PYRO:o@h:{number}"),
            tags: (0..number % 4).map(|tag| format!("tag {tag}")).collect(),
            revision: Revision::new(number, (number % 3) as u32),
            created: Revision::new(100 - number, 0),
        }
    }

    #[test]
    fn entries_come_out_as_they_went_in() {
        let plain: Vec<_> = (0..50).map(|n| (format!("name {n}"), entry(n))).collect();
        let mut packed = Entries::default();
        for (number, (name, entry)) in plain.iter().enumerate() {
            let sealed = format::seal_entry(entry);
            let stored = match number % 2 {
                0 => StoredEntry::sealed(name, &sealed),
                _ => StoredEntry::plain(entry),
            };
            let texts = packed.push_stored(name, &stored).unwrap();
            assert_eq!(texts, Entries::default().push(name, entry));
        }
        assert_eq!(packed.iter().collect::<Vec<_>>(), plain);
        assert_eq!(packed, plain.iter().cloned().collect());
        assert_ne!(packed, plain.iter().rev().cloned().collect());
        packed.sort();
        let sorted = plain.into_iter().rev();
        assert_eq!(packed.len(), 50);
        assert!(packed.into_iter().eq(sorted));
    }

    #[test]
    fn a_record_that_is_damaged_is_not_packed() {
        let mut sealed = format::seal_entry(&entry(7));
        sealed[8] ^= 1;
        let mut entries = Entries::default();
        let stored = StoredEntry::sealed("n", &sealed);
        assert!(entries.push_stored("n", &stored).is_err());
        assert!(entries.is_empty());
    }
}
