//! Annotation chunks: order and bounds.
//!
//! | Pyro4 | Pyro5 | Field |
//! |---|---|---|
//! | 0..4 | 0..4 | key, ASCII |
//! | 4..6 | 4..8 | length of the data in bytes, big-endian |
//! | 6.. | 8.. | data |

use crate::{DecodeError, Family};

/// Chunks that one message may carry. Pyro programs send a handful; the bound keeps a message of
/// empty chunks from costing many times its size in memory.
pub const ANNOTATION_COUNT_MAX: usize = 256;

/// Bytes of a chunk's key.
const KEY_LEN: usize = 4;

/// Extra data beside the payload, by four-letter ASCII key. A later chunk with the same key wins.
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

    /// Sets the data under `key`, replacing what was there.
    pub fn insert(&mut self, key: [u8; 4], data: Vec<u8>) {
        match self.chunks.iter_mut().find(|(found, _)| *found == key) {
            Some(chunk) => chunk.1 = data,
            None => self.chunks.push((key, data)),
        }
    }

    /// Takes the data under `key` out.
    pub fn remove(&mut self, key: [u8; 4]) -> Option<Vec<u8>> {
        let index = self.chunks.iter().position(|(found, _)| *found == key)?;
        Some(self.chunks.remove(index).1)
    }

    /// All chunks, in the order of their first appearance.
    pub fn iter(&self) -> impl Iterator<Item = ([u8; 4], &[u8])> {
        self.chunks
            .iter()
            .map(|(key, data)| (*key, data.as_slice()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Reads the chunks in the first `len` bytes of `body`, a message without its header.
    ///
    /// Pyro4 cuts the data of a last chunk that is too long; Pyro5 refuses it, but reads its key
    /// first, into the payload if need be.
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

/// Bytes of a chunk before its data.
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
