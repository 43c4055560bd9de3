//! Connections between nodes: one TCP connection in each direction, with many requests in flight on each.
//! ```text
//! node 1                              node 2
//! Peers ── Link ── requests ────────▶ server ── Incoming
//!             ◀─── responses ────────
//! server ◀──────── requests ──── Link ── Peers
//! ```
//! `frame` has the bytes of a message on the wire, `seal` signs them, `message` defines the requests and
//! responses, `handshake` authenticates the peer, `credentials` has this node's identity and its rules of
//! admission, `link` is one outgoing connection, `server` accepts the incoming ones, `socket` creates them all.

pub(crate) mod credentials;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod refusal;
pub(crate) mod server;
pub(crate) mod socket;

mod clear_handshake;
mod outbox;
mod patience;
mod seal;
mod turn_away;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

#[cfg(test)]
use crate::config::ClusterKeys;
use crate::types::Member;
use credentials::Credentials;
use handshake::HandshakeError;
use link::{Link, Timing};
use message::{Request, Response};
use refusal::Refusal;
use socket::Sockets;

/// The state of the connection to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// Not tried yet, or the first attempt is under way.
    Connecting,
    /// The connection is open and takes requests.
    Up,
    /// There is no connection.
    Down {
        /// True if the peer's operating system closed the connection and then refused a new one, so that its
        /// process has ended. False for mere silence.
        closed: bool,
        /// The reason, for logs.
        reason: String,
    },
    /// One side refuses the other although both have proved the cluster key: another cluster, or a removed or
    /// replaced node.
    Rejected {
        /// The reason.
        refusal: Refusal,
        /// True if the peer refuses this node.
        by_peer: bool,
    },
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("not connected yet"),
            Self::Up => f.write_str("connected"),
            Self::Down { reason, .. } => f.write_str(reason),
            Self::Rejected { refusal, .. } => refusal.fmt(f),
        }
    }
}

/// The reason why a request has no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// The request was certainly not handled.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The request may have been handled.
    #[error("no response: {0}")]
    Lost(String),
    /// The request may have been handled, or may still be.
    #[error("no response within {0:?}")]
    TimedOut(Duration),
}

/// Sends requests to members. Cheap to clone; all clones share the same links. Connections end with the last
/// clone, or by [`Self::close`].
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sockets: Arc<dyn Sockets>,
    credentials: Credentials,
    links: RwLock<Links>,
    /// Number of connections that each member has open to this node.
    guests: Mutex<BTreeMap<u64, usize>>,
}

#[derive(Debug, Default)]
struct Links {
    by_node: BTreeMap<u64, Arc<Link>>,
    closed: bool,
}

impl Peers {
    /// Creates a set of peers without any link.
    pub(crate) fn new(credentials: Credentials, sockets: Arc<dyn Sockets>) -> Self {
        Self {
            shared: Arc::new(Shared {
                sockets,
                credentials,
                links: RwLock::default(),
                guests: Mutex::default(),
            }),
        }
    }

    /// Creates peers for tests of a node that reaches no other node.
    #[cfg(test)]
    pub(crate) fn nobody() -> Self {
        let local = credentials::LocalNode {
            cluster_name: "hearth".to_owned(),
            cluster_id: Some(1),
            node_id: Some(1),
            incarnation: 1,
        };
        let credentials = Credentials::new(local, ClusterKeys::default(), Box::new(|_, _| Ok(())));
        Self::new(credentials, Arc::new(socket::Tcp))
    }

    /// Returns a client for nodes that are not members.
    pub(crate) fn strangers(&self) -> Strangers {
        Strangers {
            credentials: self.shared.credentials.clone(),
            sockets: Arc::clone(&self.shared.sockets),
        }
    }

    /// Returns this node's credentials.
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.shared.credentials
    }

    /// Sets the members to connect to, without this node. Closes the links to other nodes and starts the
    /// missing ones. Must be called on the runtime that the connections run on.
    pub(crate) fn set_members(&self, members: &BTreeMap<u64, Member>) {
        let local = self.shared.credentials.local().node_id;
        let wanted = |id: u64, addr: &str| {
            let member = members.get(&id);
            Some(id) != local && member.is_some_and(|member| member.peer_addr == addr)
        };
        let mut links = self.write();
        if links.closed {
            return;
        }
        links.by_node.retain(|&id, link| wanted(id, link.addr()));
        for (&id, member) in members {
            if Some(id) != local && !member.peer_addr.is_empty() {
                links.by_node.entry(id).or_insert_with(|| {
                    let (addr, credentials) =
                        (member.peer_addr.clone(), self.credentials().clone());
                    let sockets = Arc::clone(&self.shared.sockets);
                    let timing = Timing::default();
                    Arc::new(Link::start(id, addr, sockets, credentials, timing))
                });
            }
        }
    }

    /// Closes all connections for good.
    pub(crate) fn close(&self) {
        let mut links = self.write();
        links.closed = true;
        links.by_node.clear();
    }

    /// Sends `request` to member `to` and waits for its response. Fails at once if the member is not connected.
    ///
    /// # Errors
    /// [`CallError`]: also if there is no response within `timeout`.
    pub(crate) async fn call(
        &self,
        to: u64,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, CallError> {
        match self.link(to) {
            Some(link) => link.call(&request, timeout).await,
            None => Err(CallError::Unreachable(format!(
                "no member has the number {to}"
            ))),
        }
    }

    /// Returns the protocol version that member `to` spoke on its last connection; 0 if there was none. A
    /// message that a peer's version does not have must not be sent: the peer would end the connection.
    pub(crate) fn protocol(&self, to: u64) -> u32 {
        self.link(to).map_or(0, |link| link.protocol())
    }

    /// Returns a watch on the state of the link to `to`; `None` if there is no such member.
    pub(crate) fn link_state(&self, to: u64) -> Option<watch::Receiver<LinkState>> {
        self.link(to).map(|link| link.state())
    }

    /// Counts a connection that member `id` has opened, until the returned guest is dropped.
    pub(crate) fn receive(&self, id: u64) -> Guest {
        *self.shared.guests().entry(id).or_default() += 1;
        Guest {
            shared: Arc::clone(&self.shared),
            id,
        }
    }

    /// Returns true if member `id` has a connection to this node open, from whatever address.
    pub(crate) fn is_here(&self, id: u64) -> bool {
        self.shared.guests().contains_key(&id)
    }

    /// Makes the link to `to` retry at once if it is waiting: there was a sign of life from that member.
    pub(crate) fn hurry(&self, to: u64) {
        if let Some(link) = self.link(to) {
            link.hurry();
        }
    }

    fn link(&self, to: u64) -> Option<Arc<Link>> {
        let links = self.shared.links.read();
        let links = links.unwrap_or_else(PoisonError::into_inner);
        links.by_node.get(&to).cloned()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Links> {
        let links = self.shared.links.write();
        links.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn guests(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        // Each change of the map is one step, so a poisoned map is consistent.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A member that has a connection to this node open.
#[derive(Debug)]
pub(crate) struct Guest {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.shared.guests();
        if let Some(count) = guests.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&self.id);
            }
        }
    }
}

/// Sends a request to any node at an address, without a membership that says which node that is.
#[derive(Debug, Clone)]
pub(crate) struct Strangers {
    credentials: Credentials,
    sockets: Arc<dyn Sockets>,
}

impl Strangers {
    /// Sends `request` to `addr` and waits for its response.
    ///
    /// # Errors
    /// [`HandshakeError`]; nothing is known then of what became of the request.
    pub(crate) async fn call(
        &self,
        addr: &str,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, HandshakeError> {
        link::ask(addr, &*self.sockets, &self.credentials, &request, timeout).await
    }
}

#[cfg(test)]
#[path = "transport_test.rs"]
mod tests;
