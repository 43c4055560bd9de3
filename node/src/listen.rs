//! Binding the socket that clients connect to.
//!
//! The location under which it is known keeps what the person wrote (a host name stays a name, `0.0.0.0`
//! stays `0.0.0.0`), as Pyro's own does. Nothing is accepted here.
//!
//! A TCP socket is bound first, so that a port in use is told at once, and listened on only when the node
//! can serve: until then clients are refused, and those with several name servers to choose from go on
//! to the next.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use hearth_wire::uri::Location;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::config::{Bind, IpPreference, NodeConfig};
use crate::error::NodeError;
use crate::pyro::Listener;

/// Connections that wait to be accepted; the system's own maximum may be lower.
const BACKLOG: i32 = 4096;

const TCP_OPTION: &str = "-p/--port or -n/--host";
const UNIX_OPTION: &str = "-u/--unixsocket";

/// A socket that is bound, and the names that it goes by.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: BoundSocket,
    /// As it stands in a URI: `localhost:9090`, `[::1]:9090`, `./u:/run/ns.sock`.
    pub(crate) location: String,
    /// The same, taken apart.
    pub(crate) parts: Location,
    /// The address that it is bound to; none for a unix socket.
    pub(crate) address: Option<SocketAddr>,
    /// Removes the unix socket's file when it goes.
    pub(crate) file: Option<SocketFile>,
}

/// A socket for clients, who do not get in yet.
#[derive(Debug)]
pub(crate) enum BoundSocket {
    /// Nothing listens: the system refuses clients.
    Tcp(Socket, SocketAddr),
    /// It listens, so that nobody takes its file for one that was left behind; clients wait.
    Unix(UnixListener),
}

impl BoundSocket {
    /// Lets clients in.
    ///
    /// # Errors
    /// [`NodeError`] if another process has begun to listen there since this one was bound.
    pub(crate) fn listen(self) -> Result<Listener, NodeError> {
        match self {
            Self::Tcp(socket, address) => {
                let listener = socket
                    .listen(BACKLOG)
                    .and_then(|()| TcpListener::from_std(socket.into()));
                listener
                    .map(Listener::Tcp)
                    .map_err(|source| listen_error(address.to_string(), TCP_OPTION, source))
            }
            Self::Unix(listener) => Ok(Listener::Unix(listener)),
        }
    }
}

/// Makes the socket of `config`.
///
/// # Errors
/// [`NodeError`] with the address and the option that changes it.
pub(crate) async fn bind(config: &NodeConfig) -> Result<Bound, NodeError> {
    match &config.bind {
        Bind::Tcp { host, port } => {
            let address = resolve(host, *port, config.prefer_ip_version).await?;
            let (socket, address) = bind_tcp(address, config.sock_reuse)
                .map_err(|source| listen_error(address.to_string(), TCP_OPTION, source))?;
            if is_local(address.ip()) && !is_local_name(host) {
                tracing::warn!(
                    host,
                    address = %address.ip(),
                    "this host's name stands for an address that other machines cannot reach"
                );
            }
            let host = if host.is_empty() {
                address.ip().to_string()
            } else {
                host.clone()
            };
            Ok(Bound {
                location: location_text(&host, address.port()),
                parts: Location::Tcp {
                    host,
                    port: address.port().into(),
                },
                address: Some(address),
                socket: BoundSocket::Tcp(socket, address),
                file: None,
            })
        }
        Bind::Unix(path) => {
            let (listener, file) = bind_unix(Path::new(path))?;
            Ok(Bound {
                location: format!("./u:{path}"),
                parts: Location::Unix(path.clone()),
                address: None,
                socket: BoundSocket::Unix(listener),
                file: Some(file),
            })
        }
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn location_text(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The address to bind for `host`. An empty one means all IPv4 interfaces, whatever is preferred, as
/// with Pyro.
pub(crate) async fn resolve(
    host: &str,
    port: u16,
    preference: IpPreference,
) -> Result<SocketAddr, NodeError> {
    if host.is_empty() {
        return Ok(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| NodeError::Resolve {
            host: host.to_owned(),
            reason: error.to_string(),
        })?
        .collect();
    // A host with a colon is an IPv6 address, whatever is preferred.
    let preference = if host.contains(':') {
        IpPreference::System
    } else {
        preference
    };
    choose(&found, preference).ok_or_else(|| NodeError::Resolve {
        host: host.to_owned(),
        reason: match preference {
            IpPreference::V6 => "it has no IPv6 address, and PREFER_IP_VERSION is 6".to_owned(),
            IpPreference::V4 | IpPreference::System => "the resolver names none".to_owned(),
        },
    })
}

fn choose(found: &[SocketAddr], preference: IpPreference) -> Option<SocketAddr> {
    let first = found.first();
    match preference {
        IpPreference::V4 => found.iter().find(|address| address.is_ipv4()).or(first),
        IpPreference::V6 => found.iter().find(|address| address.is_ipv6()),
        IpPreference::System => first,
    }
    .copied()
}

fn bind_tcp(address: SocketAddr, reuse: bool) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(reuse)?;
    // Accepted connections take both over from the listening socket (on Linux), which saves two calls
    // per connection. Keep-alive finds clients that went without a word.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let address = socket
        .local_addr()?
        .as_socket()
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((socket, address))
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), NodeError> {
    let in_use = || NodeError::InUse {
        address: format!("unix socket {}", path.display()),
        option: UNIX_OPTION,
    };
    let failed = |source| listen_error(path.display().to_string(), UNIX_OPTION, source);
    let socket = match listen_unix(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let kind = std::fs::symlink_metadata(path).map_err(failed)?.file_type();
            if !kind.is_socket() {
                return Err(NodeError::NoSocket {
                    path: path.to_owned(),
                });
            }
            // A process that died leaves the file behind, and nobody answers there.
            match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tracing::info!(path = %path.display(), "replacing the socket of a process that is gone");
                    std::fs::remove_file(path).map_err(failed)?;
                    listen_unix(path)
                }
                _ => return Err(in_use()),
            }
        }
        other => other,
    }
    .map_err(|source| listen_error(path.display().to_string(), UNIX_OPTION, source))?;
    let file = SocketFile::new(path).map_err(failed)?;
    let listener = UnixListener::from_std(socket.into()).map_err(failed)?;
    Ok((listener, file))
}

fn listen_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn listen_error(address: String, option: &'static str, source: io::Error) -> NodeError {
    if source.kind() == io::ErrorKind::AddrInUse {
        NodeError::InUse { address, option }
    } else {
        NodeError::Listen {
            address,
            option,
            source,
        }
    }
}

/// The file of a unix socket that this process made. Dropping it removes the file, unless another
/// process has put its own there meanwhile.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.dev() == self.device && metadata.ino() == self.inode);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file stays behind");
        }
    }
}

/// Whether only programs on this machine reach this address. Pyro goes by the text `127.` and `::1`.
pub(crate) fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] == 127,
        IpAddr::V6(address) => address.is_loopback(),
    }
}

/// Whether whoever wrote this host meant this machine only.
fn is_local_name(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> NodeConfig {
        NodeConfig {
            bind: Bind::Tcp {
                host: host.to_owned(),
                port,
            },
            ..NodeConfig::default()
        }
    }

    fn unix(path: &Path) -> NodeConfig {
        NodeConfig {
            bind: Bind::Unix(path.display().to_string()),
            ..NodeConfig::default()
        }
    }

    #[tokio::test]
    async fn the_location_keeps_what_was_written() {
        for (host, start, address) in [
            ("localhost", "localhost:", "127.0.0.1"),
            ("127.0.0.1", "127.0.0.1:", "127.0.0.1"),
            ("0.0.0.0", "0.0.0.0:", "0.0.0.0"),
            ("", "0.0.0.0:", "0.0.0.0"),
        ] {
            let bound = bind(&tcp(host, 0)).await.unwrap();
            let bound_to = bound.address.unwrap();
            assert_eq!(bound.location, format!("{start}{}", bound_to.port()));
            assert_eq!(bound_to.ip().to_string(), address);
            assert_ne!(bound_to.port(), 0);
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_option() {
        let first = bind(&tcp("127.0.0.1", 0)).await.unwrap();
        let port = first.address.unwrap().port();
        // While neither of two has begun to serve, the first one that does wins.
        let early = bind(&tcp("127.0.0.1", port)).await.unwrap();
        let _listener = first.socket.listen().unwrap();
        for error in [
            bind(&tcp("127.0.0.1", port)).await.unwrap_err(),
            early.socket.listen().unwrap_err(),
        ] {
            let error = error.to_string();
            assert!(
                error.contains(&format!("127.0.0.1:{port} is in use")),
                "{error}"
            );
            assert!(error.contains("--port"), "{error}");
        }
    }

    #[tokio::test]
    async fn clients_are_refused_until_the_node_can_serve() {
        let bound = bind(&tcp("127.0.0.1", 0)).await.unwrap();
        let address = bound.address.unwrap();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let _listener = bound.socket.listen().unwrap();
        std::net::TcpStream::connect(address).unwrap();
    }

    #[tokio::test]
    async fn a_host_without_address_is_named() {
        let error = bind(&tcp("no-such-host.invalid", 0)).await.unwrap_err();
        assert!(
            error.to_string().contains("'no-such-host.invalid'"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ns.sock");
        // Dropping a plain listener leaves the file behind, as a crash does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());

        let bound = bind(&unix(&path)).await.unwrap();
        assert_eq!(bound.location, format!("./u:{}", path.display()));
        let error = bind(&unix(&path)).await.unwrap_err();
        assert!(matches!(error, NodeError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("--unixsocket"), "{error}");

        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = bind(&unix(&path)).await.unwrap_err();
        assert!(matches!(error, NodeError::NoSocket { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[tokio::test]
    async fn the_file_of_a_successor_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ns.sock");
        let first = bind(&unix(&path)).await.unwrap();
        // Renamed, not removed: a file system may use a freed inode number again at once.
        std::fs::rename(&path, dir.path().join("old.sock")).unwrap();
        let second = bind(&unix(&path)).await.unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn local_names_are_told_from_others() {
        for host in ["localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "::1"] {
            assert!(is_local_name(host), "{host}");
        }
        for host in ["neptune", "0.0.0.0", "192.0.2.1", "::", "localhost.example"] {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[test]
    fn addresses_are_chosen_by_preference() {
        let v4: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:1".parse().unwrap();
        assert_eq!(choose(&[v6, v4], IpPreference::V4), Some(v4));
        assert_eq!(choose(&[v6], IpPreference::V4), Some(v6));
        assert_eq!(choose(&[v4, v6], IpPreference::V6), Some(v6));
        assert_eq!(choose(&[v4], IpPreference::V6), None);
        assert_eq!(choose(&[v6, v4], IpPreference::System), Some(v6));
        assert_eq!(choose(&[], IpPreference::System), None);
    }
}
