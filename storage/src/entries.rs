//! The entries of a list in packed form: a list of a million names takes a hundred megabytes and not five times
//! as many.

use std::fmt;

use crate::error::StoreError;
use crate::format::{self, EntryRef, Reader};
use crate::model::{Entry, Name, Revision};
use crate::store::StoredEntry;

/// Bytes for which a chunk has room; a longer entry has a chunk of its own. jemalloc returns memory of this
/// size and above to the system as soon as it is freed (`oversize_threshold`).
const CHUNK_LEN: usize = 8 << 20;

/// Entries with their names, in an order of their own. Each is unpacked when it is reached.
#[derive(Clone, Default)]
pub struct Entries {
    /// Packed entries, one behind the other: the name behind its length, the layout of the entry, the entry
    /// behind its length. They are in chunks because a buffer that doubles exists twice while it is copied.
    chunks: Vec<Vec<u8>>,
    places: Vec<Place>,
}

/// The position of an entry in [`Entries::chunks`], and the key by which it is sorted.
#[derive(Debug, Clone, Copy)]
struct Place {
    created: Revision,
    chunk: u32,
    start: u32,
}

/// The length of the name, the URI and the tags of an entry, and the number of these texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Texts {
    /// Bytes of all texts.
    pub len: usize,
    /// Number of texts.
    pub count: usize,
}

impl Entries {
    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns true if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns the bytes of all entries, packed.
    pub fn packed_len(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    /// Adds an entry at the end. Returns the length of its texts.
    pub fn push(&mut self, name: &str, entry: &Entry) -> Texts {
        let entry_len = format::entry_len(entry);
        let out = self.begin(name, format::entry_version(entry), entry.created, entry_len);
        out.extend_from_slice(&format::length(entry_len).to_be_bytes());
        format::write_entry(out, entry);
        let tags_len: usize = entry.tags.iter().map(String::len).sum();
        Texts {
            len: name.len() + entry.uri.len() + tags_len,
            count: 2 + entry.tags.len(),
        }
    }

    /// Adds an entry of a scan, as [`Self::push`] does. It is checked, but not unpacked.
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
        let entry = packed.entry;
        let out = self.begin(name, packed.version, entry.created, packed.bytes.len());
        format::write_bytes(out, packed.bytes);
        Ok(Texts {
            len: name.len() + entry.uri.len() + entry.tags_len,
            count: 2 + entry.tag_count,
        })
    }

    /// Begins an entry: writes its name and layout to a chunk that has room for all of it, and returns the
    /// chunk.
    fn begin(
        &mut self,
        name: &str,
        version: u8,
        created: Revision,
        entry_len: usize,
    ) -> &mut Vec<u8> {
        let len = 4 + name.len() + 1 + 4 + entry_len;
        let has_room = |chunk: &Vec<u8>| chunk.len() + len <= CHUNK_LEN;
        if !self.chunks.last().is_some_and(has_room) {
            // Most lists are short, so the first chunk grows with its entries.
            let is_first = self.chunks.is_empty();
            let capacity = if is_first { len } else { len.max(CHUNK_LEN) };
            self.chunks.push(Vec::with_capacity(capacity));
        }
        let last = self.chunks.len() - 1;
        let out = &mut self.chunks[last];
        self.places.push(Place {
            created,
            chunk: format::length(last),
            start: format::length(out.len()),
        });
        format::write_bytes(out, name.as_bytes());
        out.push(version);
        out
    }

    /// Sorts the entries by creation; by name where that is the same.
    pub(crate) fn sort(&mut self) {
        let chunks = &self.chunks;
        let name = |place: &Place| unpack(chunks, place).map(|(name, _)| name).ok();
        self.places.sort_unstable_by(|one, other| {
            let by_creation = one.created.cmp(&other.created);
            by_creation.then_with(|| name(one).cmp(&name(other)))
        });
    }

    /// Returns the entries in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Name, Entry)> {
        self.places.iter().map(|place| {
            let (name, entry) = unpack(&self.chunks, place).expect("it was packed here");
            (name.to_owned(), entry.into_owned())
        })
    }
}

fn unpack<'a>(chunks: &'a [Vec<u8>], place: &Place) -> Result<(&'a str, EntryRef<'a>), String> {
    let chunk = chunks.get(place.chunk as usize);
    let packed = chunk.and_then(|chunk| chunk.get(place.start as usize..));
    let mut reader = Reader(packed.unwrap_or_default());
    let name = reader.text()?;
    let version = reader.u8()?;
    let entry = EntryRef::read(version, &mut Reader(reader.bytes()?))?;
    Ok((name, entry))
}

/// An iterator over the entries in their order. Each is unpacked when it is reached, and a chunk is freed with
/// its last entry.
#[derive(Debug)]
pub struct IntoIter {
    entries: Entries,
    next: usize,
    /// For each chunk, the number of its entries that are still to come.
    left: Vec<u32>,
    packed_len: usize,
}

impl IntoIter {
    /// Returns [`Entries::packed_len`] of all entries, including those already taken.
    pub const fn packed_len(&self) -> usize {
        self.packed_len
    }
}

impl Iterator for IntoIter {
    type Item = (Name, Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let place = *self.entries.places.get(self.next)?;
        self.next += 1;
        let chunks = &mut self.entries.chunks;
        let (name, entry) = unpack(chunks, &place).expect("it was packed here");
        let item = (name.to_owned(), entry.into_owned());
        let chunk = place.chunk as usize;
        self.left[chunk] -= 1;
        if self.left[chunk] == 0 {
            chunks[chunk] = Vec::new();
        }
        Some(item)
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
        let mut left = vec![0; self.chunks.len()];
        for place in &self.places {
            left[place.chunk as usize] += 1;
        }
        IntoIter {
            packed_len: self.packed_len(),
            entries: self,
            next: 0,
            left,
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
    /// Returns true if both have the same entries in the same order.
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
    fn entries_of_any_length_share_chunks() {
        let half = CHUNK_LEN / 2;
        let uri_lens = [2 * CHUNK_LEN, 10, half, half, CHUNK_LEN, 0, half];
        let number = |(number, len)| {
            let uri = "u".repeat(len);
            let entry = entry(number);
            (format!("name {number}"), Entry { uri, ..entry })
        };
        let plain: Vec<_> = (0..).zip(uri_lens).map(number).collect();
        let packed: Entries = plain.iter().cloned().collect();
        assert!(packed.iter().eq(plain.iter().cloned()));
        let chunks = packed.places.iter().map(|place| place.chunk);
        assert_eq!(chunks.collect::<Vec<_>>(), [0, 1, 1, 2, 3, 4, 4]);
        assert!(packed.packed_len() > uri_lens.iter().sum());
        let mut taken = packed.into_iter();
        assert!(taken.by_ref().take(3).eq(plain[..3].iter().cloned()));
        let chunk_lens = taken.entries.chunks.iter().map(Vec::len);
        assert_eq!(chunk_lens.take_while(|len| *len == 0).count(), 2);
        assert!(taken.eq(plain[3..].iter().cloned()));
        let short: Entries = plain[1..2].iter().cloned().collect();
        assert!(short.chunks[0].capacity() < 100);
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
