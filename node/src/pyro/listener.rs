//! The accept loop and the connection limit.

use tokio::net::{TcpListener, UnixListener};

/// A bound socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// TCP, either IP version.
    Tcp(TcpListener),
    /// A unix socket; whoever bound it removes its file.
    Unix(UnixListener),
}
