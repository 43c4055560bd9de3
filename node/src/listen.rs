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

use dns_lookup::{AddrFamily, AddrInfoHints, SockType};
use hearth_wire::uri::Location;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::config::{Bind, IpPreference, NodeConfig};
use crate::error::NodeError;
use crate::pyro::Listener;

/// Connections that wait to be accepted; the system's own maximum may be lower.
const BACKLOG: i32 = 4096;

/// How often a free port is looked for that is free at every address.
const FREE_PORT_ATTEMPT_COUNT: usize = 16;

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
    /// The address that it is bound to, of two the one for Pyro4; none for a unix socket.
    pub(crate) address: Option<SocketAddr>,
    /// Removes the unix socket's file when it goes.
    pub(crate) file: Option<SocketFile>,
}

/// A socket for clients, who do not get in yet.
#[derive(Debug)]
pub(crate) enum BoundSocket {
    /// Nothing listens: the system refuses clients. A host name may stand for two addresses.
    Tcp(Vec<(Socket, SocketAddr)>),
    /// It listens, so that nobody takes its file for one that was left behind; clients wait.
    Unix(UnixListener),
}

impl BoundSocket {
    /// Lets clients in.
    ///
    /// # Errors
    /// [`NodeError`] if another process has begun to listen there since this one was bound.
    pub(crate) fn listen(self) -> Result<Vec<Listener>, NodeError> {
        match self {
            Self::Tcp(sockets) => sockets
                .into_iter()
                .map(|(socket, address)| {
                    socket
                        .listen(BACKLOG)
                        .and_then(|()| TcpListener::from_std(socket.into()))
                        .map(Listener::Tcp)
                        .map_err(|source| listen_error(address.to_string(), TCP_OPTION, source))
                })
                .collect(),
            Self::Unix(listener) => Ok(vec![Listener::Unix(listener)]),
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
            let addresses = resolve(host, *port, config.prefer_ip_version).await?;
            let sockets =
                bind_addresses(addresses, config.sock_reuse).map_err(|(address, source)| {
                    listen_error(address.to_string(), TCP_OPTION, source)
                })?;
            let address = sockets.first().map_or(addresses.first, |(_, bound)| *bound);
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
                socket: BoundSocket::Tcp(sockets),
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

/// The addresses that a host name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Where Pyro4 programs look, or the only one.
    pub(crate) first: SocketAddr,
    /// Where Pyro5 programs look, if that is another one.
    pub(crate) second: Option<SocketAddr>,
}

/// The addresses to bind for `host`. An empty one means all IPv4 interfaces, whatever is preferred, as
/// with Pyro.
pub(crate) async fn resolve(
    host: &str,
    port: u16,
    preference: IpPreference,
) -> Result<Addresses, NodeError> {
    if host.is_empty() {
        return Ok(Addresses {
            first: SocketAddr::from(([0, 0, 0, 0], port)),
            second: None,
        });
    }
    let is_ipv6_address = host.contains(':');
    let (first, second) = if is_ipv6_address || preference == IpPreference::V6 {
        (lookup(host, port, Some(AddrFamily::Inet6)).await, None)
    } else {
        // Asked for IPv4 as such, the resolver may name an address that stands in no other list, such as
        // 127.0.0.1 where the hosts file knows localhost as ::1 only.
        match lookup(host, port, Some(AddrFamily::Inet)).await {
            Ok(v4) if preference == IpPreference::V4 => (Ok(v4), None),
            Ok(v4) => {
                let system = lookup(host, port, None).await;
                (Ok(v4), system.ok().filter(|address| *address != v4))
            }
            Err(_) => (lookup(host, port, None).await, None),
        }
    };
    match first {
        Ok(first) => Ok(Addresses { first, second }),
        Err(error) => Err(NodeError::Resolve {
            host: host.to_owned(),
            reason: match preference {
                IpPreference::V6 if !is_ipv6_address => {
                    format!("PREFER_IP_VERSION is 6, and it has no IPv6 address: {error}")
                }
                _ => error.to_string(),
            },
        }),
    }
}

/// The first address of `host` that the system's resolver names, asked as Pyro asks.
async fn lookup(host: &str, port: u16, family: Option<AddrFamily>) -> io::Result<SocketAddr> {
    let hints = AddrInfoHints {
        address: family.map_or(0, Into::into),
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let host = host.to_owned();
    let lookup = move || {
        let mut found = dns_lookup::getaddrinfo(Some(&host), None, Some(hints))?;
        found.next().ok_or(io::ErrorKind::NotFound)?
    };
    let mut address = tokio::task::spawn_blocking(lookup).await??.sockaddr;
    address.set_port(port);
    Ok(address)
}

/// Sockets and what they are bound to.
type Sockets = Vec<(Socket, SocketAddr)>;

/// Binds one or two addresses to one port. On failure it says which one failed.
fn bind_addresses(addresses: Addresses, reuse: bool) -> Result<Sockets, (SocketAddr, io::Error)> {
    for _ in 1..FREE_PORT_ATTEMPT_COUNT {
        match try_bind(addresses, reuse) {
            // What was free at the one address is taken at the other: another port may be free at both.
            Err((_, error))
                if addresses.first.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            done => return done,
        }
    }
    try_bind(addresses, reuse)
}

fn try_bind(addresses: Addresses, reuse: bool) -> Result<Sockets, (SocketAddr, io::Error)> {
    let Addresses { first, second } = addresses;
    let Some(mut second) = second else {
        let socket = bind_tcp(first, reuse, false);
        return socket
            .map(|socket| vec![socket])
            .map_err(|error| (first, error));
    };
    let (mut sockets, absent) = match bind_tcp(first, reuse, true) {
        Ok((socket, bound)) => {
            second.set_port(bound.port());
            (vec![(socket, bound)], None)
        }
        Err(error) if is_absent(&error) => (Vec::new(), Some(error)),
        Err(error) => return Err((first, error)),
    };
    match (bind_tcp(second, reuse, true), absent) {
        (Ok(socket), _) => sockets.push(socket),
        (Err(error), None) if is_absent(&error) => {
            tracing::info!(address = %second, %error, "this machine does not have one address of the host");
        }
        (Err(error), Some(absent)) if is_absent(&error) => return Err((first, absent)),
        (Err(error), _) => return Err((second, error)),
    }
    Ok(sockets)
}

/// Whether an address cannot be bound because it, or its IP version, is not there.
fn is_absent(error: &io::Error) -> bool {
    let no_such_version = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(no_such_version)
}

fn bind_tcp(
    address: SocketAddr,
    reuse: bool,
    is_one_of_two: bool,
) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(reuse)?;
    if address.is_ipv6() && is_one_of_two {
        // The other one has IPv4.
        socket.set_only_v6(true)?;
    }
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

    #[tokio::test]
    async fn an_address_is_what_it_is_whatever_is_preferred() {
        use IpPreference::{Any, V4, V6};
        for (host, preference) in [
            ("127.0.0.1", V4),
            ("127.0.0.1", Any),
            ("::1", V4),
            ("::1", V6),
            ("::1", Any),
        ] {
            let addresses = resolve(host, 7, preference).await.unwrap();
            let expected = Addresses {
                first: SocketAddr::new(host.parse().unwrap(), 7),
                second: None,
            };
            assert_eq!(addresses, expected, "{host} {preference:?}");
        }
        assert!(resolve("127.0.0.1", 7, V6).await.is_err());
        assert!(resolve("localhost", 7, V4).await.unwrap().first.is_ipv4());
    }

    fn pair(first: &str, second: &str) -> Addresses {
        Addresses {
            first: first.parse().unwrap(),
            second: Some(second.parse().unwrap()),
        }
    }

    #[test]
    fn two_addresses_get_one_port() {
        let sockets = bind_addresses(pair("127.0.0.1:0", "127.0.0.2:0"), true).unwrap();
        let bound: Vec<String> = sockets
            .iter()
            .map(|(_, address)| address.to_string())
            .collect();
        let port = sockets[0].1.port();
        assert_ne!(port, 0);
        assert_eq!(
            bound,
            [format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}")]
        );
    }

    #[test]
    fn of_two_addresses_one_is_enough_unless_the_other_is_in_use() {
        // From the block for documentation, so that nobody has it.
        let (own, absent) = ("127.0.0.1:0", "192.0.2.1:0");
        for addresses in [pair(own, absent), pair(absent, own)] {
            let sockets = bind_addresses(addresses, true).unwrap();
            assert_eq!(sockets.len(), 1);
            assert!(sockets[0].1.ip().is_loopback());
        }
        let (address, _) = bind_addresses(pair(absent, absent), true).unwrap_err();
        assert_eq!(address.to_string(), absent);

        let other = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
        let taken = other.local_addr().unwrap();
        let free = format!("127.0.0.1:{}", taken.port());
        let (address, error) = bind_addresses(pair(&free, &taken.to_string()), true).unwrap_err();
        assert_eq!(address, taken);
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
