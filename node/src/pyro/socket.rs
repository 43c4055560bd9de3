//! A client's socket, TCP or unix, and what the log calls its peer.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Silence after which a TCP peer is asked whether it is still there. One that vanished without a word
/// would otherwise keep its place for ever.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// One client's stream of bytes.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Who a client is, for the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl Peer {
    /// Whether the client runs on this machine.
    pub(super) fn is_on_this_machine(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix => true,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix socket"),
        }
    }
}

impl Socket {
    /// A TCP stream, set up for requests and replies: a reply is one write, so nothing is gained by
    /// waiting for more of it.
    pub(super) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Self::Tcp(stream))
    }

    /// Keeps what is written from now on until the stream is shut down, so that the last bytes and the end
    /// travel together where they fit into one segment.
    pub(super) fn hold_back(&self) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Self::Tcp(stream) = self {
            // Without it the end comes a moment later.
            let _ = socket2::SockRef::from(stream).set_tcp_cork(true);
        }
    }

    /// Whether the other side has ended its stream, and all that it sent was read. Has the task woken when that
    /// may have changed, unless something waits to be read.
    pub(super) fn poll_is_at_end(&self, cx: &mut Context<'_>) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        loop {
            let (ready, peeked) = match self {
                Self::Tcp(stream) => (
                    stream.poll_read_ready(cx),
                    stream.try_io(Interest::READABLE, || SockRef::from(stream).peek(&mut byte)),
                ),
                Self::Unix(stream) => (
                    stream.poll_read_ready(cx),
                    stream.try_io(Interest::READABLE, || SockRef::from(stream).peek(&mut byte)),
                ),
            };
            match (ready, peeked) {
                (Poll::Pending, _) => return false,
                // It was not ready after all, which is known now.
                (Poll::Ready(_), Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                (Poll::Ready(_), Ok(len)) => return len == 0,
                (Poll::Ready(_), Err(_)) => return true,
            }
        }
    }

    /// Writes as much as the socket takes now.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
