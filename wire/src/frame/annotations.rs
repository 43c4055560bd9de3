//! Annotation chunks: order and bounds.

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

    /// All chunks, in the order of their first appearance.
    pub fn iter(&self) -> impl Iterator<Item = ([u8; 4], &[u8])> {
        self.chunks
            .iter()
            .map(|(key, data)| (*key, data.as_slice()))
    }
}
