//! Annotation chunks: their layout, order and limits.
//!
//! | Pyro4 | Pyro5 | Field |
//! |---|---|---|
//! | 0..4 | 0..4 | key, ASCII |
//! | 4..6 | 4..8 | length of the data in bytes, big-endian |
//! | 6.. | 8.. | data |

use crate::{DecodeError, Family};

/// Maximum number of chunks in one message. Pyro programs send a handful. The limit keeps a message
/// of empty chunks from taking many times its size in memory.
pub const ANNOTATION_COUNT_MAX: usize = 256;

/// Length of a chunk's key in bytes.
const KEY_LEN: usize = 4;

/// Extra data beside the payload, by four-letter ASCII key. If a key occurs twice, the later chunk
/// wins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Annotations {
    chunks: Vec<([u8; 4], Vec<u8>)>,
}

impl Annotations {
    /// The data under `key`.
    pub fn get(&self, key: [u8; 4]) -> Option<&[u8]> {
        self.chunks
            .iter()
            .find(|(found, _)| *found == key)
            .map(|(_, data)| data.as_slice())
    }

    /// Sets the data under `key` and replaces any earlier data.
    pub fn insert(&mut self, key: [u8; 4], data: Vec<u8>) {
        match self.chunks.iter_mut().find(|(found, _)| *found == key) {
            Some(chunk) => chunk.1 = data,
            None => self.chunks.push((key, data)),
        }
    }

    /// Removes the data under `key` and returns it.
    pub fn remove(&mut self, key: [u8; 4]) -> Option<Vec<u8>> {
        let index = self.chunks.iter().position(|(found, _)| *found == key)?;
        Some(self.chunks.remove(index).1)
    }

    /// All chunks, in the order of the first occurrence of their keys.
    pub fn iter(&self) -> impl Iterator<Item = ([u8; 4], &[u8])> {
        self.chunks
            .iter()
            .map(|(key, data)| (*key, data.as_slice()))
    }

    /// The number of chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Returns true if there are no chunks.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Reads the chunks in the first `len` bytes of `body`, a message without its header.
    ///
    /// If the last chunk is too long, Pyro4 truncates its data, and Pyro5 refuses it. Pyro5 reads
    /// the chunk's key first, even beyond the announced length, where the payload begins.
    ///
    /// # Errors
    /// [`DecodeError::ChunkCut`], [`DecodeError::ChunkTooLong`], [`DecodeError::ChunkKey`] or
    /// [`DecodeError::TooManyChunks`].
    pub(super) fn decode(family: Family, body: &[u8], len: usize) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        let announced = body.get(..len).unwrap_or(body);
        let mut at = 0;
        while at < announced.len() {
            let readable = match family {
                Family::Pyro4 => announced,
                Family::Pyro5 => body,
            };
            let chunk = readable.get(at..).unwrap_or(&[]);
            let header_len = header_len(family);
            if family == Family::Pyro4 && chunk.len() < header_len {
                return Err(DecodeError::ChunkCut);
            }
            let key = chunk.get(..KEY_LEN).unwrap_or(chunk);
            if let Some((position, byte)) = (0..).zip(key).find(|(_, byte)| !byte.is_ascii()) {
                let byte = *byte;
                return Err(DecodeError::ChunkKey {
                    family,
                    byte,
                    position,
                });
            }
            let data_len = chunk
                .get(KEY_LEN..header_len)
                .unwrap_or(&[])
                .iter()
                .fold(0, |len, byte| len << 8 | usize::from(*byte));
            let start = at + header_len;
            let end = start.saturating_add(data_len);
            if family == Family::Pyro5 && end > announced.len() {
                return Err(DecodeError::ChunkTooLong);
            }
            if found.len() == ANNOTATION_COUNT_MAX {
                let max = ANNOTATION_COUNT_MAX;
                return Err(DecodeError::TooManyChunks { family, max });
            }
            let data = announced
                .get(start..end.min(announced.len()))
                .unwrap_or(&[]);
            let key = key
                .try_into()
                .expect("a chunk with a whole header has a whole key");
            found.insert(key, data.to_vec());
            at = end;
        }
        Ok(found)
    }
}

/// Length of a chunk's key and length field in bytes.
pub(super) const fn header_len(family: Family) -> usize {
    match family {
        Family::Pyro4 => KEY_LEN + 2,
        Family::Pyro5 => KEY_LEN + 4,
    }
}

/// Appends one chunk. The caller has checked that the length fits its field.
pub(super) fn encode_chunk(family: Family, key: [u8; 4], data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&key);
    match family {
        Family::Pyro4 => out.extend_from_slice(&(data.len() as u16).to_be_bytes()),
        Family::Pyro5 => out.extend_from_slice(&(data.len() as u32).to_be_bytes()),
    }
    out.extend_from_slice(data);
}
