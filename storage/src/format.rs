//! The binary layouts of this crate's records, each drawn once.
//!
//! | format | written by | meaning |
//! |---|---|---|
//! | 1 | early builds | layout 1 of everything |
//! | 2 | 0.1 | layout 2 of an entry, `created_gN` and `removal/` (see [`crate::store::rocks`]) |
//!
//! A data directory of format 1 is marked as one of format 2 when it is opened; its records stay as they are.
//!
//! **Sealed record.** Every value on disk, and every chunk of a snapshot:
//! ```text
//! 0        version of the payload's layout, u8
//! 1..5     CRC-32 (IEEE) over byte 0 and the payload, big-endian
//! 5..      payload
//! ```
//! RocksDB has checksums of its own, per block and per record of its log. This one also covers the path through
//! memory, and tells a foreign value from a sealed one.
//!
//! **Entry**, the payload of a value in `state_gN`; the name is the key. Layout 1 holds an entry that has not
//! changed since it was created, at position 0 of a log entry. All entries from before there were positions
//! have this layout. Every other entry has layout 2:
//! ```text
//! layout 1                         layout 2
//! 0..8     revision.index, u64     0..8     revision.index, u64
//!                                  8..12    revision.position, u32
//!                                  12..20   created.index, u64
//!                                  20..24   created.position, u32
//! 8..12    uri_len, u32            24..28   uri_len, u32
//! ..       uri, UTF-8
//! ..       tag_count, u32, then tag_count times: tag_len u32, tag UTF-8; strictly ascending
//! ```
//! All integers are big-endian. Log entries, the vote, meta and extra records are payloads whose layout their
//! owner defines; this crate seals them and looks no further.

use crate::error::StoreError;
use crate::model::{Entry, Revision};

/// The format of data directories that this version writes, and the newest that it reads.
pub const FOLDER_FORMAT: u32 = 2;

/// The layout version of sealed records other than entries.
pub const RECORD_VERSION: u8 = 1;

/// The newest layout version of an entry.
pub const ENTRY_VERSION: u8 = 2;

/// Bytes before the payload of a sealed record.
const SEAL_LEN: usize = 5;

/// Seals the payload that `write` appends to the buffer. `payload_len` is its approximate length in bytes.
pub(crate) fn seal_with(payload_len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    seal_as(RECORD_VERSION, payload_len, write)
}

fn seal_as(version: u8, payload_len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut record = Vec::with_capacity(SEAL_LEN + payload_len);
    record.extend_from_slice(&[version, 0, 0, 0, 0]);
    write(&mut record);
    let (head, payload) = record.split_at_mut(SEAL_LEN);
    head[1..].copy_from_slice(&checksum(version, payload).to_be_bytes());
    record
}

/// Seals `payload`.
pub(crate) fn seal(payload: &[u8]) -> Vec<u8> {
    seal_with(payload.len(), |record| record.extend_from_slice(payload))
}

/// Returns the payload of a sealed record, or the problem with it.
pub(crate) fn unseal(record: &[u8]) -> Result<&[u8], String> {
    unseal_upto(RECORD_VERSION, record).map(|(_, payload)| payload)
}

/// Returns the layout and the payload of a sealed record whose layout is at most `known`, or the problem with
/// it.
fn unseal_upto(known: u8, record: &[u8]) -> Result<(u8, &[u8]), String> {
    let Some((&[version, c0, c1, c2, c3], payload)) = record.split_first_chunk::<SEAL_LEN>() else {
        return Err(format!("it has {} bytes, too few", record.len()));
    };
    if !(1..=known).contains(&version) {
        return Err(format!(
            "it has layout {version}, and this version knows {known}"
        ));
    }
    let stored = u32::from_be_bytes([c0, c1, c2, c3]);
    let computed = checksum(version, payload);
    if stored != computed {
        return Err(format!(
            "its checksum is {stored:#010x}, its bytes sum to {computed:#010x}"
        ));
    }
    Ok((version, payload))
}

/// Unseals as [`unseal`] does, with a [`StoreError::Corrupt`] that names the record.
pub(crate) fn unseal_named(
    record: &[u8],
    what: impl FnOnce() -> String,
) -> Result<&[u8], StoreError> {
    unseal(record).map_err(|reason| StoreError::corrupt(what(), reason))
}

fn checksum(version: u8, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[version]);
    crc.update(payload);
    crc.finalize()
}

/// Returns the layout of an entry: the first one that can hold it, so that equal entries have equal bytes.
pub(crate) fn entry_version(entry: &Entry) -> u8 {
    if entry.revision.position == 0 && entry.created == entry.revision {
        1
    } else {
        ENTRY_VERSION
    }
}

/// Seals an entry.
pub(crate) fn seal_entry(entry: &Entry) -> Vec<u8> {
    seal_as(entry_version(entry), entry_len(entry), |record| {
        write_entry(record, entry);
    })
}

/// Returns the bytes of the payload of a sealed record.
pub(crate) fn sealed_len(record: &[u8]) -> usize {
    record.len().saturating_sub(SEAL_LEN)
}

/// Returns the entry in a sealed record.
pub(crate) fn unseal_entry(name: &str, record: &[u8]) -> Result<Entry, StoreError> {
    Ok(unseal_entry_ref(name, record)?.entry.into_owned())
}

/// An entry, and the bytes that encode it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedEntry<'a> {
    /// The layout of the bytes.
    pub(crate) version: u8,
    pub(crate) bytes: &'a [u8],
    pub(crate) entry: EntryRef<'a>,
}

/// Returns the entry in a sealed record without copying it.
pub(crate) fn unseal_entry_ref<'a>(
    name: &str,
    record: &'a [u8],
) -> Result<PackedEntry<'a>, StoreError> {
    unseal_upto(ENTRY_VERSION, record)
        .and_then(|(version, bytes)| {
            let mut reader = Reader(bytes);
            let entry = EntryRef::read(version, &mut reader)?;
            reader.end()?;
            Ok(PackedEntry {
                version,
                bytes,
                entry,
            })
        })
        .map_err(|reason| StoreError::corrupt(format!("the entry of {name:?}"), reason))
}

/// Returns the number of bytes that [`write_entry`] appends.
pub(crate) fn entry_len(entry: &Entry) -> usize {
    let tags: usize = entry.tags.iter().map(|tag| 4 + tag.len()).sum();
    let revisions = if entry_version(entry) == 1 { 8 } else { 24 };
    revisions + 4 + entry.uri.len() + 4 + tags
}

/// Appends an entry in the layout that [`entry_version`] selects.
pub(crate) fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    if entry_version(entry) == 1 {
        out.extend_from_slice(&entry.revision.index.to_be_bytes());
    } else {
        out.extend_from_slice(&entry.revision.to_be_bytes());
        out.extend_from_slice(&entry.created.to_be_bytes());
    }
    write_bytes(out, entry.uri.as_bytes());
    out.extend_from_slice(&length(entry.tags.len()).to_be_bytes());
    for tag in &entry.tags {
        write_bytes(out, tag.as_bytes());
    }
}

/// An entry that borrows its encoded bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryRef<'a> {
    pub(crate) uri: &'a str,
    /// Bytes of all tags, without their lengths.
    pub(crate) tags_len: usize,
    pub(crate) tag_count: usize,
    pub(crate) revision: Revision,
    pub(crate) created: Revision,
    /// Each tag behind its length; validated.
    tags: &'a [u8],
}

impl<'a> EntryRef<'a> {
    /// Reads an entry in this layout, and validates all of it.
    pub(crate) fn read(version: u8, reader: &mut Reader<'a>) -> Result<Self, String> {
        let (revision, created) = if version == 1 {
            let revision = Revision::new(reader.u64()?, 0);
            (revision, revision)
        } else {
            (reader.revision()?, reader.revision()?)
        };
        let uri = reader.text()?;
        let tag_count = reader.u32()? as usize;
        let start = reader.0;
        let (mut tags_len, mut last) = (0, None);
        for _ in 0..tag_count {
            let tag = reader.text()?;
            if last.is_some_and(|last| last >= tag) {
                return Err("its tags are not in order".to_owned());
            }
            last = Some(tag);
            tags_len += tag.len();
        }
        let tags = start.len() - reader.0.len();
        Ok(Self {
            uri,
            tags_len,
            tag_count,
            revision,
            created,
            tags: &start[..tags],
        })
    }

    /// Returns an entry that owns its texts.
    pub(crate) fn into_owned(self) -> Entry {
        let mut reader = Reader(self.tags);
        let tags = (0..self.tag_count).map_while(|_| reader.text().ok());
        Entry {
            uri: self.uri.to_owned(),
            tags: tags.map(str::to_owned).collect(),
            revision: self.revision,
            created: self.created,
        }
    }
}

/// Reads an entry in this layout.
pub(crate) fn read_entry(version: u8, reader: &mut Reader<'_>) -> Result<Entry, String> {
    EntryRef::read(version, reader).map(EntryRef::into_owned)
}

/// Appends the length of `bytes`, then `bytes`.
pub(crate) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Converts a length to its stored form.
pub(crate) fn length(len: usize) -> u32 {
    u32::try_from(len).expect("a message that brings a text has fewer than 2^32 bytes")
}

/// Reads a payload from its front. Lengths are checked against the remaining bytes before anything is
/// allocated.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// Reads the next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let Some((head, rest)) = self.0.split_at_checked(len) else {
            return Err(format!("it ends {} bytes early", len - self.0.len()));
        };
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let Some((head, rest)) = self.0.split_first_chunk::<N>() else {
            return Err(format!("it ends {} bytes early", N - self.0.len()));
        };
        self.0 = rest;
        Ok(*head)
    }

    /// Reads a u8.
    pub(crate) fn u8(&mut self) -> Result<u8, String> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Reads a big-endian u32.
    pub(crate) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Reads a big-endian u64.
    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Reads a revision in the layout of [`Revision::to_be_bytes`].
    pub(crate) fn revision(&mut self) -> Result<Revision, String> {
        Ok(Revision::new(self.u64()?, self.u32()?))
    }

    /// Reads a big-endian u128.
    pub(crate) fn u128(&mut self) -> Result<u128, String> {
        Ok(u128::from_be_bytes(self.array()?))
    }

    /// Reads bytes that follow their length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], String> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// Reads UTF-8 text that follows its length.
    pub(crate) fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|error| format!("its text is not UTF-8: {error}"))
    }

    /// Checks that nothing is left.
    pub(crate) fn end(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(format!("it has {} bytes too many", self.0.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            uri: "PYRO:obj@host:1".to_owned(),
            tags: ["", "a\0b", "ü"].map(str::to_owned).into(),
            revision: Revision::new(7, 2),
            created: Revision::new(5, 1),
        }
    }

    #[test]
    fn an_entry_survives_sealing() {
        let (entry, at) = (entry(), Revision::new(7, 0));
        for (revision, created, version) in [
            (entry.revision, entry.created, 2),
            (entry.revision, entry.revision, 2),
            (at, entry.created, 2),
            (at, at, 1),
        ] {
            let entry = Entry {
                revision,
                created,
                ..entry.clone()
            };
            let sealed = seal_entry(&entry);
            assert_eq!(sealed[0], version);
            assert_eq!(sealed.len(), SEAL_LEN + entry_len(&entry));
            assert_eq!(unseal_entry("n", &sealed).unwrap(), entry);
        }
    }

    #[test]
    fn the_bytes_of_layouts_1_and_2_stay_as_they_are() {
        let mut entry = Entry {
            uri: "PYRO:o@h:1".to_owned(),
            tags: ["t"].map(str::to_owned).into(),
            revision: Revision::new(258, 0),
            created: Revision::new(258, 0),
        };
        let rest = b"\0\0\0\x0aPYRO:o@h:1\0\0\0\x01\0\0\0\x01t";
        let sealed = seal_entry(&entry);
        assert_eq!(sealed[0], 1);
        assert_eq!(sealed[5..], [&[0, 0, 0, 0, 0, 0, 1, 2][..], rest].concat());

        entry.revision = Revision::new(259, 4);
        let sealed = seal_entry(&entry);
        let revision = [0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0, 4];
        let created = [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0];
        assert_eq!(sealed[0], 2);
        assert_eq!(sealed[5..], [&revision[..], &created, rest].concat());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let sealed = seal_entry(&entry());
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut bad = sealed.clone();
                bad[at] ^= 1 << bit;
                assert!(unseal_entry("n", &bad).is_err(), "byte {at} bit {bit}");
            }
            assert!(unseal_entry("n", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused_without_allocating() {
        let sealed = seal_with(0, |out| {
            out.extend_from_slice(&0u64.to_be_bytes());
            out.extend_from_slice(&u32::MAX.to_be_bytes());
        });
        let error = unseal_entry("n", &sealed).unwrap_err().to_string();
        assert!(error.contains("bytes early"), "{error}");
    }
}
