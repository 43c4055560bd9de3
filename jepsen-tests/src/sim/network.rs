//! Sockets on turmoil's simulated network, for the replication code.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hearth_raft::{Connection, Listener, Pending, Sockets};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use super::trace::Trace;

/// The sockets of node `node`.
#[derive(Debug, Clone)]
pub(super) struct Simulated {
    pub(super) node: u64,
    pub(super) trace: Trace,
}

impl Simulated {
    fn connection(&self, stream: TcpStream) -> Connection {
        let (reader, writer) = stream.into_split();
        let reader = Tap {
            stream: reader,
            of: self.clone(),
        };
        let writer = Tap {
            stream: writer,
            of: self.clone(),
        };
        Connection::new(Box::new(reader), Box::new(writer))
    }
}

impl Sockets for Simulated {
    fn listen<'a>(&'a self, addr: &'a str) -> Pending<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let port = addr
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse().ok());
            let port: u16 = port.ok_or(io::ErrorKind::InvalidInput)?;
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
            Ok(Box::new(Door {
                listener,
                of: self.clone(),
            }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> Pending<'a, io::Result<Connection>> {
        Box::pin(async move { Ok(self.connection(TcpStream::connect(addr).await?)) })
    }
}

struct Door {
    listener: TcpListener,
    of: Simulated,
}

impl Listener for Door {
    fn accept(&self) -> Pending<'_, io::Result<(Connection, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            Ok((self.of.connection(stream), from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One half of a connection, which records all bytes in the trace.
struct Tap<S> {
    stream: S,
    of: Simulated,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        let came = buffer.filled().get(before..).unwrap_or_default();
        self.of.trace.note("came", self.of.node, came);
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        if let Ok(len) = written {
            let sent = bytes.get(..len).unwrap_or_default();
            self.of.trace.note("sent", self.of.node, sent);
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
