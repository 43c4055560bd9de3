//! The format of the snapshot file, which holds a whole registry on the wire and on disk.
//!
//! ```text
//! 0..8     "HEARTHSN"
//! 8        version, u8: 1
//! 9..      sections, one after the other:
//!          kind u8, payload_len u32, payload, CRC-32 (IEEE) over kind, payload_len and payload
//! ```
//! | kind | payload |
//! |---|---|
//! | 1 | about: a JSON object that describes the snapshot; always the first section |
//! | 2 | the header of the state, as the storage wrote it; always the second section |
//! | 3 | a chunk of the state, as the storage wrote it; any number |
//! | 4 | SHA-256 over all bytes before this section; always the last section |
//!
//! Integers are big-endian. The checksum of a section finds changed bytes as soon as the section is read; the
//! hash finds lost sections. The state's own check values are in its header and are verified when the state is
//! restored. To this module, header and chunks are opaque bytes.

use flate2::Crc;
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"HEARTHSN";
const VERSION: u8 = 1;
const HEAD_LEN: usize = MAGIC.len() + 1;
/// Length of a section's kind and length fields in bytes.
const SECTION_HEAD_LEN: usize = 5;
const CRC_LEN: usize = 4;
/// Length of the last section's payload, a SHA-256, in bytes.
const HASH_LEN: u32 = 32;

/// Maximum length of a section's payload in bytes. A chunk holds at least one record, however large a client
/// has made that record.
const SECTION_LEN_MAX: usize = 512 << 20;

const ABOUT: u8 = 1;
const HEADER: u8 = 2;
const CHUNK: u8 = 3;
const END: u8 = 4;

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Section {
    /// A description of the snapshot, in JSON.
    About(Vec<u8>),
    /// The header of the state.
    Header(Vec<u8>),
    /// A part of the state.
    Chunk(Vec<u8>),
}

/// An error in the bytes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes do not begin with the magic letters.
    #[error("this is no snapshot of Hearth")]
    Foreign,
    /// A later version of the format. Holds the version found.
    #[error("it has version {0}, and this program reads version {VERSION}")]
    Version(u8),
    /// A section was changed, does not belong at its position, or is too long.
    #[error("it is damaged at byte {at}: {reason}")]
    Damaged {
        /// Offset at which the section begins, in bytes from the start.
        at: u64,
        /// The problem with the section.
        reason: String,
    },
    /// A section to be written is longer than a reader accepts. Nothing of it is written.
    #[error("a section of {0} bytes cannot be written: the limit is {SECTION_LEN_MAX}")]
    TooLong(usize),
    /// The end is missing. Holds the number of bytes found.
    #[error("it ends early, at byte {0}")]
    Cut(u64),
}

/// Writes a snapshot, one section at a time.
#[derive(Debug, Clone, Default)]
pub struct SnapshotWriter {
    hash: Sha256,
    has_begun: bool,
}

impl SnapshotWriter {
    /// Appends the next section to `out`. The caller keeps the order: about, header, chunks.
    ///
    /// # Errors
    /// [`SnapshotError::TooLong`] if [`SnapshotReader`] would refuse the section.
    pub fn section(&mut self, section: &Section, out: &mut Vec<u8>) -> Result<(), SnapshotError> {
        let (kind, payload) = match section {
            Section::About(payload) => (ABOUT, payload),
            Section::Header(payload) => (HEADER, payload),
            Section::Chunk(payload) => (CHUNK, payload),
        };
        let len = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= SECTION_LEN_MAX)
            .ok_or(SnapshotError::TooLong(payload.len()))?;
        self.write(kind, len, payload, out);
        Ok(())
    }

    /// Appends the last section, the hash, to `out`.
    pub fn end(mut self, out: &mut Vec<u8>) {
        let hash = self.hash.clone().finalize();
        self.write(END, HASH_LEN, hash.as_ref(), out);
    }

    fn write(&mut self, kind: u8, len: u32, payload: &[u8], out: &mut Vec<u8>) {
        let len = len.to_be_bytes();
        let mut crc = Crc::new();
        for part in [&[kind][..], &len, payload] {
            crc.update(part);
        }
        let crc = crc.sum().to_be_bytes();
        if !self.has_begun {
            self.has_begun = true;
            self.put(MAGIC, out);
            self.put(&[VERSION], out);
        }
        for part in [&[kind][..], &len, payload, &crc] {
            self.put(part, out);
        }
    }

    fn put(&mut self, part: &[u8], out: &mut Vec<u8>) {
        self.hash.update(part);
        out.extend_from_slice(part);
    }
}

/// Reads a snapshot from bytes as they arrive. Holds one section at a time.
#[derive(Debug, Default)]
pub struct SnapshotReader {
    hash: Sha256,
    input: Vec<u8>,
    /// Number of bytes consumed before `input`.
    position: u64,
    next_kind: Expected,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Expected {
    #[default]
    Begin,
    About,
    Header,
    ChunkOrEnd,
    Nothing,
}

impl SnapshotReader {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Returns the next section; `None` if more bytes are needed or the end has been read.
    ///
    /// # Errors
    /// [`SnapshotError`] as soon as the bytes show the error.
    pub fn next_section(&mut self) -> Result<Option<Section>, SnapshotError> {
        if self.next_kind == Expected::Begin {
            if !self.begin()? {
                return Ok(None);
            }
            self.next_kind = Expected::About;
        }
        if self.next_kind == Expected::Nothing {
            return match self.input.len() {
                0 => Ok(None),
                more => Err(self.damaged(format!("{more} bytes follow its end"))),
            };
        }
        let Some(&[kind, l0, l1, l2, l3]) = self.input.first_chunk::<SECTION_HEAD_LEN>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let next_kind = match (self.next_kind, kind) {
            (Expected::About, ABOUT) => Expected::Header,
            (Expected::Header, HEADER) | (Expected::ChunkOrEnd, CHUNK) => Expected::ChunkOrEnd,
            (Expected::ChunkOrEnd, END) => Expected::Nothing,
            _ => {
                return Err(self.damaged(format!("a section of kind {kind} does not belong there")));
            }
        };
        if len > SECTION_LEN_MAX {
            return Err(self.damaged(format!(
                "a section of {len} bytes; there are at most {SECTION_LEN_MAX}"
            )));
        }
        let end = SECTION_HEAD_LEN + len;
        let Some(section) = self.input.get(..end + CRC_LEN) else {
            return Ok(None);
        };
        let (content, crc) = section.split_at(end);
        if checksum(content).to_be_bytes() != *crc {
            return Err(self.damaged("a checksum does not fit".to_owned()));
        }
        let payload = content.get(SECTION_HEAD_LEN..).unwrap_or_default().to_vec();
        if kind == END && self.hash.clone().finalize().as_slice() != payload {
            return Err(self.damaged("its hash does not fit".to_owned()));
        }
        self.hash.update(section);
        self.take(end + CRC_LEN);
        self.next_kind = next_kind;
        Ok(match kind {
            ABOUT => Some(Section::About(payload)),
            HEADER => Some(Section::Header(payload)),
            CHUNK => Some(Section::Chunk(payload)),
            _ => None,
        })
    }

    /// Returns true if the end has been read and no bytes follow it.
    pub fn is_complete(&self) -> bool {
        self.next_kind == Expected::Nothing && self.input.is_empty()
    }

    /// Checks that the snapshot is complete. Call it when there are no more bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Cut`] if the end is missing.
    pub fn finish(&self) -> Result<(), SnapshotError> {
        if self.is_complete() {
            return Ok(());
        }
        Err(SnapshotError::Cut(self.position + self.input.len() as u64))
    }

    fn begin(&mut self) -> Result<bool, SnapshotError> {
        if self
            .input
            .iter()
            .zip(MAGIC)
            .any(|(found, byte)| found != byte)
        {
            return Err(SnapshotError::Foreign);
        }
        match self.input.get(MAGIC.len()) {
            None => return Ok(false),
            Some(&VERSION) => {}
            Some(&version) => return Err(SnapshotError::Version(version)),
        }
        self.hash.update(MAGIC);
        self.hash.update([VERSION]);
        self.take(HEAD_LEN);
        Ok(true)
    }

    fn take(&mut self, len: usize) {
        self.input.drain(..len);
        self.position += len as u64;
    }

    fn damaged(&self, reason: String) -> SnapshotError {
        SnapshotError::Damaged {
            at: self.position,
            reason,
        }
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections() -> Vec<Section> {
        vec![
            Section::About(b"{}".to_vec()),
            Section::Header(vec![1, 2, 3]),
            Section::Chunk(vec![7; 300]),
            Section::Chunk(Vec::new()),
        ]
    }

    fn written() -> Vec<u8> {
        let mut writer = SnapshotWriter::default();
        let mut out = Vec::new();
        for section in sections() {
            writer.section(&section, &mut out).unwrap();
        }
        writer.end(&mut out);
        out
    }

    fn read(bytes: &[u8], piece_len: usize) -> Result<Vec<Section>, SnapshotError> {
        let mut reader = SnapshotReader::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(piece_len) {
            reader.push(piece);
            while let Some(section) = reader.next_section()? {
                found.push(section);
            }
        }
        reader.finish().map(|()| found)
    }

    #[test]
    fn what_was_written_is_read_in_pieces_of_any_length() {
        let bytes = written();
        for piece_len in [1, 2, 7, 64, bytes.len()] {
            assert_eq!(read(&bytes, piece_len), Ok(sections()), "{piece_len}");
        }
    }

    #[test]
    fn every_flipped_bit_every_cut_and_every_addition_is_noticed() {
        let bytes = written();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(read(&bad, 64).is_err(), "byte {at} bit {bit}");
            }
            assert!(read(&bytes[..at], 64).is_err(), "cut at {at}");
        }
        assert!(read(&[&bytes[..], &[0]].concat(), 64).is_err());
    }

    #[test]
    fn a_chunk_that_is_lost_whole_is_noticed() {
        let bytes = written();
        // The empty chunk takes 9 bytes and the end 41.
        let at = bytes.len() - 41 - 9;
        let lost = [&bytes[..at], &bytes[at + 9..]].concat();
        let error = read(&lost, 64).expect_err("a chunk less");
        assert!(error.to_string().contains("hash"), "{error}");
    }

    #[test]
    fn a_section_that_no_reader_takes_is_not_written() {
        let mut writer = SnapshotWriter::default();
        let mut out = Vec::new();
        let chunk = Section::Chunk(vec![0; SECTION_LEN_MAX + 1]);
        let error = writer.section(&chunk, &mut out).unwrap_err();
        assert_eq!(error, SnapshotError::TooLong(SECTION_LEN_MAX + 1));
        assert!(out.is_empty());
    }

    #[test]
    fn other_files_and_later_versions_are_named() {
        assert_eq!(read(b"PK\x03\x04", 64), Err(SnapshotError::Foreign));
        let mut later = written();
        later[8] = 2;
        assert_eq!(read(&later, 64), Err(SnapshotError::Version(2)));
        let mut long = written()[..9].to_vec();
        long.extend_from_slice(&[1, 0xff, 0xff, 0xff, 0xff]);
        let error = read(&long, 64).expect_err("too long");
        assert!(error.to_string().contains("at most"), "{error}");
    }
}
