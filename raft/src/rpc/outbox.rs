//! The frames of a connection that wait to be written. Waiting frames are written by one system
//! call, without copying them. Frames are made here because a signed frame has a number, and their
//! order is known here.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::frame::{Message, Packed};
use super::seal::Sealer;

/// Maximum number of frames in one write.
const SLICE_COUNT_MAX: usize = 64;

/// Frames that wait to be written.
#[derive(Debug)]
pub(crate) struct Outbox {
    sealer: Sealer,
    frames: VecDeque<Packed>,
    /// Bytes of the first frame that are already written.
    written: usize,
    /// Bytes of all frames that are not written yet.
    len: usize,
}

impl Outbox {
    /// Creates an empty outbox whose frames `sealer` makes.
    pub(crate) fn new(sealer: Sealer) -> Self {
        Self {
            sealer,
            frames: VecDeque::new(),
            written: 0,
            len: 0,
        }
    }

    /// Packs a message into a frame and appends it.
    pub(crate) fn push(&mut self, message: Message) {
        let frame = self.sealer.seal(message);
        self.len += frame.as_slice().len();
        self.frames.push_back(frame);
    }

    /// Returns the number of bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes all waiting frames and flushes the stream.
    ///
    /// # Errors
    /// The errors of the stream.
    pub(crate) async fn write_to<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
    ) -> io::Result<()> {
        while self.len > 0 {
            let mut slices = [IoSlice::new(&[]); SLICE_COUNT_MAX];
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                let skip = if count == 0 { self.written } else { 0 };
                *slice = IoSlice::new(frame.as_slice().get(skip..).unwrap_or_default());
                count += 1;
            }
            let written = writer.write_vectored(&slices[..count]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        writer.flush().await
    }

    fn advance(&mut self, written: usize) {
        self.len = self.len.saturating_sub(written);
        self.written += written;
        while let Some(first) = self.frames.front()
            && self.written >= first.as_slice().len()
        {
            self.written -= first.as_slice().len();
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use proptest::prelude::*;

    use super::super::frame::Kind;
    use super::super::seal::Seals;
    use super::*;

    /// Accepts the configured number of bytes at each write, and counts the writes.
    #[derive(Debug, Default)]
    struct Sink {
        takes: Vec<usize>,
        calls: usize,
        got: Vec<u8>,
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let takes = self.takes.get(self.calls).copied().unwrap_or(all.len());
            let takes = takes.clamp(1, all.len().max(1)).min(all.len());
            self.calls += 1;
            self.got.extend_from_slice(&all[..takes]);
            Poll::Ready(Ok(takes))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn message(body: &[u8]) -> Message {
        Message::new(Kind::Request, 1, 0, |out| out.extend_from_slice(body)).unwrap()
    }

    /// Returns the bytes of clear frames with these bodies.
    fn frames(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut sealer = Seals::clear().sealer;
        let frames = bodies.iter().map(|body| sealer.seal(message(body)));
        frames.flat_map(|frame| frame.as_slice().to_vec()).collect()
    }

    fn write_all(bodies: &[Vec<u8>], takes: Vec<usize>) -> Sink {
        let mut sink = Sink {
            takes,
            ..Sink::default()
        };
        let mut out = Outbox::new(Seals::clear().sealer);
        for body in bodies {
            out.push(message(body));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(out.write_to(&mut sink)).unwrap();
        assert_eq!((out.len(), out.frames.len(), out.written), (0, 0, 0));
        sink
    }

    proptest! {
        #[test]
        fn everything_arrives_in_order(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..200),
            takes in prop::collection::vec(1_usize..100, 0..100),
        ) {
            let sink = write_all(&bodies, takes);
            prop_assert_eq!(sink.got, frames(&bodies));
        }
    }

    #[test]
    fn many_frames_take_one_call() {
        let bodies = vec![vec![7; 100]; SLICE_COUNT_MAX];
        assert_eq!(write_all(&bodies, Vec::new()).calls, 1);
    }
}
