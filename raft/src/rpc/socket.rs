//! Sockets between nodes. All of them are created here: [`Sockets`] is the interface, implemented by the
//! system's TCP and by a simulated network.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, lookup_host};

/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// The boxed future that a method of a trait object returns.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Creates connections between nodes, through the operating system or a simulated network. Addresses are
/// `HOST:PORT`.
pub trait Sockets: fmt::Debug + Send + Sync {
    /// Listens on `addr`.
    fn listen<'a>(&'a self, addr: &'a str) -> Pending<'a, io::Result<Box<dyn Listener>>>;

    /// Connects to `addr`. Has no timeout.
    fn connect<'a>(&'a self, addr: &'a str) -> Pending<'a, io::Result<Connection>>;
}

/// Accepts the connections that other nodes open.
pub trait Listener: Send + Sync {
    /// Accepts the next connection, and returns it with the address of its peer. Cancel safe.
    fn accept(&self) -> Pending<'_, io::Result<(Connection, SocketAddr)>>;

    /// Returns the address that it listens on.
    ///
    /// # Errors
    /// The errors of the system.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A connection, whose halves may be used by different tasks.
pub struct Connection {
    reader: Reader,
    writer: Writer,
}

/// The half of a [`Connection`] for reading.
pub type Reader = Box<dyn AsyncRead + Send + Sync + Unpin>;

/// The half of a [`Connection`] for writing. Dropping it tells the peer that no more data follows.
pub type Writer = Box<dyn AsyncWrite + Send + Sync + Unpin>;

impl Connection {
    /// Creates a connection from its halves.
    pub fn new(reader: Reader, writer: Writer) -> Self {
        Self { reader, writer }
    }

    /// Returns the halves.
    pub(crate) fn into_split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }
}

/// The operating system's TCP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tcp;

impl Sockets for Tcp {
    fn listen<'a>(&'a self, addr: &'a str) -> Pending<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = listen(addr).await?;
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> Pending<'a, io::Result<Connection>> {
        Box::pin(async move { prepare(TcpStream::connect(addr).await?) })
    }
}

impl Listener for TcpListener {
    fn accept(&self) -> Pending<'_, io::Result<(Connection, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.accept().await?;
            // A connection that has already ended may return an error here; its reader will notice that.
            let _ = stream.set_nodelay(true);
            Ok((halves(stream), from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

/// Listens on the port of `addr`. It listens on the host alone if the host is an address of this machine that
/// others can reach, or if it was given as an address of this machine only (a loopback address, `localhost`).
///
/// Otherwise it listens on all interfaces, and logs the reason: behind a NAT the address belongs to another
/// machine; a name may be known to other machines only; and the hosts file of Debian maps the machine's own
/// name to 127.0.1.1, where no other machine reaches this node.
///
/// # Errors
/// The errors of the system, in particular `AddrInUse`; `InvalidInput` if `addr` is not `HOST:PORT`.
pub(crate) async fn listen(addr: &str) -> io::Result<TcpListener> {
    let (host, port) = split(addr)?;
    let found: Vec<SocketAddr> = match lookup_host(addr).await {
        Ok(found) => found.collect(),
        Err(_) => Vec::new(),
    };
    let stays_here = is_meant_for_this_machine(host);
    let candidates = found
        .iter()
        .filter(|found| stays_here || !found.ip().is_loopback());
    for candidate in candidates {
        match bind(*candidate) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            other => return other,
        }
    }
    let reason = match found.first() {
        None => "it cannot be resolved here".to_owned(),
        Some(found) if found.ip().is_loopback() => format!(
            "here it is {}, where other machines do not find this node; give it the address of a network, \
             in /etc/hosts",
            found.ip()
        ),
        Some(found) => format!("{} is no address of this machine", found.ip()),
    };
    tracing::warn!(
        peer_addr = addr,
        reason,
        "listening for the other nodes on all interfaces"
    );
    if found.iter().any(SocketAddr::is_ipv6)
        && let Ok(listener) = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    {
        return Ok(listener);
    }
    bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
}

/// Returns true if `host`, as it was given, names this machine only to itself.
fn is_meant_for_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    if host.parse::<IpAddr>().is_ok() {
        // An address of another machine cannot be bound.
        return true;
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host == "ip6-localhost"
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Connects to `addr`.
///
/// # Errors
/// The errors of the system, and `TimedOut` after `timeout`.
pub(crate) async fn connect(
    sockets: &dyn Sockets,
    addr: &str,
    timeout: Duration,
) -> io::Result<Connection> {
    match tokio::time::timeout(timeout, sockets.connect(addr)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no connection within {timeout:?}"),
        )),
    }
}

/// Sets the options of a connection between nodes: small messages are not delayed.
fn prepare(stream: TcpStream) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    Ok(halves(stream))
}

fn halves(stream: TcpStream) -> Connection {
    let (reader, writer) = stream.into_split();
    Connection::new(Box::new(reader), Box::new(writer))
}

/// Splits `HOST:PORT` into host and port. An IPv6 host keeps its brackets.
///
/// # Errors
/// `InvalidInput` if `addr` is not `HOST:PORT`.
pub(crate) fn split(addr: &str) -> io::Result<(&str, u16)> {
    let parts = addr
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parts.ok_or_else(|| {
        let text = format!("{addr:?} is not HOST:PORT");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_foreign_address_is_listened_to_on_all_interfaces() {
        // An address from a network that is reserved for documentation.
        let listener = listen("192.0.2.1:0").await.unwrap();
        let bound = listener.local_addr().unwrap();
        assert!(bound.ip().is_unspecified(), "{bound}");
        connect(
            &Tcp,
            &format!("127.0.0.1:{}", bound.port()),
            Duration::from_secs(10),
        )
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn an_own_address_is_listened_to_alone_and_only_once() {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let bound = listener.local_addr().unwrap();
        assert!(bound.ip().is_loopback(), "{bound}");
        let error = listen(&bound.to_string()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn only_loopback_and_localhost_are_for_this_machine_alone() {
        for host in [
            "127.0.0.1",
            "[::1]",
            "localhost",
            "LocalHost.",
            "a.localhost",
        ] {
            assert!(is_meant_for_this_machine(host), "{host}");
        }
        for host in ["alpha", "localhost.example", "alpha.localdomain"] {
            assert!(!is_meant_for_this_machine(host), "{host}");
        }
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused() {
        for addr in ["", "host", "host:", "host:99999", "host:x"] {
            let error = listen(addr).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{addr}");
        }
    }
}
