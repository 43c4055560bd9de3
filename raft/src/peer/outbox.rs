//! Frames on their way out: small ones go together in one write.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Frames up to this size are copied together.
const SMALL_LEN: usize = 16 << 10;

/// Bytes that are gathered before a write, about.
const GATHERED_LEN_MAX: usize = 256 << 10;

/// Frames that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    parts: Vec<Vec<u8>>,
}

impl Outbox {
    /// Adds a frame.
    pub(crate) fn push(&mut self, bytes: Vec<u8>) {
        match self.parts.last_mut() {
            Some(last)
                if bytes.len() <= SMALL_LEN && last.len() + bytes.len() <= GATHERED_LEN_MAX =>
            {
                last.extend_from_slice(&bytes);
            }
            _ => self.parts.push(bytes),
        }
    }

    /// Writes everything.
    ///
    /// # Errors
    /// The stream's own.
    pub(crate) async fn write_to<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
    ) -> io::Result<()> {
        for part in self.parts.drain(..) {
            writer.write_all(&part).await?;
        }
        writer.flush().await
    }
}
