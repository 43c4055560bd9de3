//! A byte stream to a server, over TCP or a unix socket.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::{Address, IpVersion};

#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Connects; tries each address of the host name.
    pub(crate) async fn connect(address: &Address, ip_version: IpVersion) -> io::Result<Self> {
        match address {
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            Address::Tcp { host, port } => {
                let mut error = None;
                for address in resolve_host(host, *port, ip_version).await? {
                    match TcpStream::connect(address).await {
                        Ok(stream) => {
                            // A call is one write and then a wait, which Nagle's algorithm can only delay.
                            stream.set_nodelay(true)?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(failure) => error = Some(failure),
                    }
                }
                Err(error.unwrap_or_else(|| {
                    io::Error::new(io::ErrorKind::NotFound, "the host name has no address")
                }))
            }
        }
    }

    /// Appends received bytes to `input`, at most its spare capacity, and returns their number. 0 means that
    /// the peer has closed.
    pub(crate) async fn read(&mut self, input: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read_buf(input).await,
            Self::Unix(stream) => stream.read_buf(input).await,
        }
    }

    /// Returns true if the peer has closed or has sent unexpected bytes. It asks the operating system, because
    /// the reactor's readiness may be out of date if this thread had to wait.
    pub(crate) fn has_ended(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
        };
        let peeked = socket.peek(&mut [MaybeUninit::uninit()]);
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Unix(stream) => stream.write_all(bytes).await,
        }
    }
}

/// The addresses of `host`, those of the preferred IP version first. An empty host means this machine, as in
/// Python's `connect(('', port))`.
async fn resolve_host(host: &str, port: u16, ip_version: IpVersion) -> io::Result<Vec<SocketAddr>> {
    if host.is_empty() {
        return Ok(vec![(Ipv4Addr::UNSPECIFIED, port).into()]);
    }
    let mut addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    match ip_version {
        IpVersion::System => {}
        IpVersion::V4 => addresses.sort_by_key(SocketAddr::is_ipv6),
        IpVersion::V6 => addresses.sort_by_key(SocketAddr::is_ipv4),
    }
    Ok(addresses)
}
