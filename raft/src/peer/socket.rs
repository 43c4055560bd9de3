//! The only place where sockets between nodes are made, so that a simulator can put its own here.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, lookup_host};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// A listener at the port of `addr`: on its host if that is an address of this machine, and otherwise
/// (a NAT, a name that only others resolve) on all interfaces.
///
/// # Errors
/// The system's own; `AddrInUse` in particular.
pub(crate) async fn listen(addr: &str) -> io::Result<TcpListener> {
    let (_, port) = split(addr)?;
    let mut candidates: Vec<SocketAddr> = match lookup_host(addr).await {
        Ok(found) => found.collect(),
        Err(_) => Vec::new(),
    };
    candidates.push(SocketAddr::from(([0, 0, 0, 0], port)));
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in candidates {
        let bound = bind(candidate);
        match bound {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => last = error,
            other => return other,
        }
    }
    Err(last)
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

/// Connects to `addr`, `HOST:PORT`.
///
/// # Errors
/// The system's own, and `TimedOut`.
pub(crate) async fn connect(addr: &str, timeout: Duration) -> io::Result<TcpStream> {
    match tokio::time::timeout(timeout, TcpStream::connect(addr)).await {
        Ok(connected) => prepare(connected?),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no connection within {timeout:?}"),
        )),
    }
}

/// What every connection between nodes is set to: small messages are not held back.
///
/// # Errors
/// The system's own.
pub(crate) fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Host and port of `HOST:PORT`; an IPv6 host keeps its brackets.
///
/// # Errors
/// `InvalidInput`.
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
        // Of a network that is for documentation only.
        let listener = listen("192.0.2.1:0").await.unwrap();
        let bound = listener.local_addr().unwrap();
        assert!(bound.ip().is_unspecified(), "{bound}");
        connect(
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

    #[tokio::test]
    async fn what_is_no_address_is_refused() {
        for addr in ["", "host", "host:", "host:99999", "host:x"] {
            let error = listen(addr).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{addr}");
        }
    }
}
