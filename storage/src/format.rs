//! The bytes of this crate's records, drawn once.
//!
//! | format | written by | what it means |
//! |---|---|---|
//! | 1 | 0.1 | everything on this page |
//!
//! **Sealed record.** Every value on disk, and every chunk of a snapshot:
//! ```text
//! 0        version of the payload's layout, u8
//! 1..5     CRC-32 (IEEE) over byte 0 and the payload, big-endian
//! 5..      payload
//! ```
//! RocksDB has checksums of its own, per block and per record of its log; this one also covers the
//! way through memory, and tells a foreign value from ours.
//!
//! **Entry**, the payload of a value in `state_gN`; the name is the key:
//! ```text
//! 0..8     revision, u64
//! 8..12    uri_len, u32
//! ..       uri, UTF-8
//! ..       tag_count, u32, then tag_count times: tag_len u32, tag UTF-8; strictly ascending
//! ```
//! All integers are big-endian. Log entries, the vote, meta and extra records are payloads that
//! their owner lays out; this crate seals them and looks no further.

use crate::error::StoreError;
use crate::model::{Entry, Tags};

/// The format of a data folder that this version writes, and the newest that it reads.
pub const FOLDER_FORMAT: u32 = 1;

/// The layout of sealed records that this version writes, and the newest that it reads.
pub const RECORD_VERSION: u8 = 1;

/// Bytes before the payload of a sealed record.
const SEAL_LEN: usize = 5;

/// Seals what `write` appends to the buffer, whose payload will have about `payload_len` bytes.
pub(crate) fn seal_with(payload_len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut record = Vec::with_capacity(SEAL_LEN + payload_len);
    record.extend_from_slice(&[RECORD_VERSION, 0, 0, 0, 0]);
    write(&mut record);
    let (head, payload) = record.split_at_mut(SEAL_LEN);
    head[1..].copy_from_slice(&checksum(RECORD_VERSION, payload).to_be_bytes());
    record
}

/// Seals `payload`.
pub(crate) fn seal(payload: &[u8]) -> Vec<u8> {
    seal_with(payload.len(), |record| record.extend_from_slice(payload))
}

/// The payload of a sealed record, or what is wrong with it.
pub(crate) fn unseal(record: &[u8]) -> Result<&[u8], String> {
    let Some((&[version, c0, c1, c2, c3], payload)) = record.split_first_chunk::<SEAL_LEN>() else {
        return Err(format!("it has {} bytes, too few", record.len()));
    };
    if version != RECORD_VERSION {
        return Err(format!(
            "it has layout {version}, and this version knows {RECORD_VERSION}"
        ));
    }
    let stored = u32::from_be_bytes([c0, c1, c2, c3]);
    let computed = checksum(version, payload);
    if stored != computed {
        return Err(format!(
            "its checksum is {stored:#010x}, its bytes sum to {computed:#010x}"
        ));
    }
    Ok(payload)
}

/// [`unseal`], with a [`StoreError::Corrupt`] that names the record.
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

/// A sealed entry.
pub(crate) fn seal_entry(entry: &Entry) -> Vec<u8> {
    seal_with(entry_len(entry), |record| write_entry(record, entry))
}

/// The entry in a sealed record.
pub(crate) fn unseal_entry(name: &str, record: &[u8]) -> Result<Entry, StoreError> {
    unseal(record)
        .and_then(|payload| {
            let mut reader = Reader(payload);
            let entry = read_entry(&mut reader)?;
            reader.end()?;
            Ok(entry)
        })
        .map_err(|reason| StoreError::corrupt(format!("the entry of {name:?}"), reason))
}

/// Bytes that [`write_entry`] appends.
pub(crate) fn entry_len(entry: &Entry) -> usize {
    let tags: usize = entry.tags.iter().map(|tag| 4 + tag.len()).sum();
    8 + 4 + entry.uri.len() + 4 + tags
}

/// Appends the layout of an entry.
pub(crate) fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.extend_from_slice(&entry.revision.to_be_bytes());
    write_bytes(out, entry.uri.as_bytes());
    out.extend_from_slice(&length(entry.tags.len()).to_be_bytes());
    for tag in &entry.tags {
        write_bytes(out, tag.as_bytes());
    }
}

/// Reads the layout of an entry.
pub(crate) fn read_entry(reader: &mut Reader<'_>) -> Result<Entry, String> {
    let revision = reader.u64()?;
    let uri = reader.text()?.to_owned();
    let tag_count = reader.u32()?;
    let mut tags = Tags::new();
    for _ in 0..tag_count {
        let tag = reader.text()?;
        if tags
            .last()
            .is_some_and(|last: &String| last.as_str() >= tag)
        {
            return Err("its tags are not in order".to_owned());
        }
        tags.insert(tag.to_owned());
    }
    Ok(Entry {
        uri,
        tags,
        revision,
    })
}

/// Appends a length and the bytes.
pub(crate) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A length as it is stored.
fn length(len: usize) -> u32 {
    u32::try_from(len).expect("a message that brings a text has fewer than 2^32 bytes")
}

/// Takes a payload apart from its front. Lengths are checked against what is there before anything is
/// allocated.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `len` bytes.
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

    /// A u8.
    pub(crate) fn u8(&mut self) -> Result<u8, String> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// A big-endian u32.
    pub(crate) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A big-endian u64.
    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A big-endian u128.
    pub(crate) fn u128(&mut self) -> Result<u128, String> {
        Ok(u128::from_be_bytes(self.array()?))
    }

    /// Bytes with their length before them.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], String> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// UTF-8 text with its length before it.
    pub(crate) fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|error| format!("its text is not UTF-8: {error}"))
    }

    /// Nothing may be left.
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
            revision: 7,
        }
    }

    #[test]
    fn an_entry_survives_sealing() {
        let sealed = seal_entry(&entry());
        assert_eq!(unseal_entry("n", &sealed).unwrap(), entry());
    }

    #[test]
    fn the_bytes_of_format_1_stay_as_they_are() {
        let entry = Entry {
            uri: "PYRO:o@h:1".to_owned(),
            tags: ["t"].map(str::to_owned).into(),
            revision: 258,
        };
        let mut payload = vec![0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 10];
        payload.extend_from_slice(b"PYRO:o@h:1\0\0\0\x01\0\0\0\x01t");
        let sealed = seal_entry(&entry);
        assert_eq!(sealed[0], 1);
        assert_eq!(sealed[5..], payload);
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
