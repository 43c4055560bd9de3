//! Connections between nodes: one TCP connection each way, many requests in flight on each.
//!
//! ```text
//! node 1                              node 2
//! Peers ── Link ── requests ────────▶ server ── Incoming
//!             ◀─── responses ────────
//! server ◀──────── requests ──── Link ── Peers
//! ```
//! `frame` is how a message lies on the wire, `message` what it says, `handshake` who may speak,
//! `link` one outgoing connection, `server` the incoming ones.

pub(crate) mod message;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

use crate::type_config::Member;
use message::{Request, Response};

/// How the connection to a member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// Not tried yet, or under way.
    Connecting,
    /// Requests go through.
    Up,
    /// It is down. `closed` when the other side's system said so (closed, reset or refused), and not
    /// mere silence: then its process has ended.
    Down {
        /// See above.
        closed: bool,
        /// For logs.
        reason: String,
    },
    /// The other side does not take us: another cluster, a wrong key, a removed or replaced node.
    Rejected(String),
}

/// Why a request has no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// It was certainly not handled.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It may have been handled.
    #[error("no response: {0}")]
    Lost(String),
    /// It may have been, or will be, handled.
    #[error("no response within {0:?}")]
    TimedOut(Duration),
}

/// Sends requests to members. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers {}

impl Peers {
    /// Whom to be connected to: every member but this node. Links to others are closed, new ones opened.
    pub(crate) fn set_members(&self, _members: &BTreeMap<u64, Member>) {}

    /// Sends `request` to member `to` and waits for its response. Fails at once when it is not connected.
    ///
    /// # Errors
    /// [`CallError`]
    pub(crate) async fn call(
        &self,
        to: u64,
        _request: Request,
        _timeout: Duration,
    ) -> Result<Response, CallError> {
        Err(CallError::Unreachable(format!(
            "node {to}: there is no way yet to call another node"
        )))
    }

    /// The state of the link to `to`, now and from now on. `None` when there is no such member.
    pub(crate) fn link_state(&self, _to: u64) -> Option<watch::Receiver<LinkState>> {
        None
    }
}
