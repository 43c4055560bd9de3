//! A stream with a read and write timeout that limits silence, not the duration of a message.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream that fails if it makes no progress for too long.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    stream: S,
    silence_max: Duration,
    /// Set while `waits`.
    alarm: Pin<Box<Sleep>>,
    waits: bool,
}

impl<S> Patient<S> {
    /// Wraps `stream`. An operation on it that makes no progress for `silence_max` fails with `TimedOut`.
    pub(crate) fn new(stream: S, silence_max: Duration) -> Self {
        Self {
            stream,
            silence_max,
            alarm: Box::pin(sleep(silence_max)),
            waits: false,
        }
    }

    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waits = false;
            return poll;
        }
        if !self.waits {
            self.waits = true;
            self.alarm.as_mut().reset(Instant::now() + self.silence_max);
        }
        match self.alarm.as_mut().poll(context) {
            Poll::Ready(()) => {
                self.waits = false;
                let text = format!("nothing moved for {:?}", self.silence_max);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_read(context, buffer);
        this.watch(context, poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.watch(context, poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.watch(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_flush(context);
        this.watch(context, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_moves_slowly_may_take_as_long_as_it_likes() {
        let (mut near, far) = tokio::io::duplex(4);
        let mut far = Patient::new(far, SECOND);
        let slow = async {
            for byte in 0..20 {
                tokio::time::sleep(SECOND * 3 / 4).await;
                near.write_all(&[byte]).await.unwrap();
            }
            near
        };
        let mut got = [0; 20];
        let (near, read) = tokio::join!(slow, far.read_exact(&mut got));
        read.unwrap();
        assert_eq!(got[19], 19);
        let start = Instant::now();
        let error = far.read_exact(&mut got).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!((SECOND..SECOND * 2).contains(&start.elapsed()));
        drop(near);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_reads() {
        let (near, far) = tokio::io::duplex(4);
        let mut far = Patient::new(far, SECOND);
        // The timeout does not run while no operation waits.
        tokio::time::sleep(SECOND * 5).await;
        let error = far.write_all(&[0; 5]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(near);
    }
}
