//! Activates the newest rules of the registry once every member supports them.
//!
//! A member with an older program applies the log by older rules and cannot read the commands that need the
//! newer ones; see [`hearth_storage::rules`]. The leader therefore waits until it is connected to all members
//! and all of them speak a protocol that is new enough. Then it proposes the change like any other command.
//! Every node applies the entries after that log entry by the newer rules, whenever it applies them. From then
//! on a program without these rules can no longer join.

use std::time::Duration;

use hearth_storage::{Command, RULES, Registry, StoreError};
use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, sleep};

use crate::rpc::Peers;
use crate::rpc::handshake::PROTOCOL;
use crate::store::Raft;
use crate::write::Writer;

/// The first protocol version whose programs support [`RULES`].
const PROTOCOL_MIN: u32 = 3;
const _: () = assert!(RULES == 2 && PROTOCOL >= PROTOCOL_MIN);

/// Interval at which the leader checks whether all members support the newest rules.
const INTERVAL: Duration = Duration::from_millis(250);

/// Timeout of one proposal, after which the leader checks again.
const WRITE_DURATION_MAX: Duration = Duration::from_secs(5);

/// Proposes the newest rules once every member supports them.
pub(crate) struct RulesKeeper {
    pub(crate) node_id: u64,
    pub(crate) raft: Raft,
    pub(crate) registry: Registry,
    pub(crate) writer: Writer,
    pub(crate) peers: Peers,
}

impl RulesKeeper {
    /// Runs until the newest rules are in force on this node.
    pub(crate) async fn run(self) {
        let mut explained = false;
        loop {
            match self.step().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    // The store also reports its failure to the replica, which stops the node.
                    tracing::error!(%error, "cannot read by which rules the registry works");
                    return;
                }
            }
            if let (false, Some((id, protocol))) = (explained, self.outdated()) {
                explained = true;
                tracing::info!(
                    node = id,
                    protocol,
                    "the cluster goes on by its earlier rules until every member has this version"
                );
            }
            sleep(INTERVAL).await;
        }
    }

    /// Proposes the newest rules if this node leads and every member supports them. Returns true if they are in
    /// force.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn step(&self) -> Result<bool, StoreError> {
        if self.registry.rules()? >= RULES {
            return Ok(true);
        }
        if !self.leads() || self.waits_for().is_some() {
            return Ok(false);
        }
        let command = Command::UseRules { rules: RULES };
        let deadline = Instant::now() + WRITE_DURATION_MAX;
        match self.writer.write(command, deadline).await {
            Ok(_) => tracing::debug!(rules = RULES, "the registry works by the newest rules"),
            Err(error) => tracing::debug!(%error, "the newest rules are not in force yet"),
        }
        Ok(self.registry.rules()? >= RULES)
    }

    fn leads(&self) -> bool {
        self.raft.metrics().borrow_watched().current_leader == Some(self.node_id)
    }

    /// Returns a member that is not known to support the newest rules, with its protocol version: 0 if it has
    /// not been connected yet.
    fn waits_for(&self) -> Option<(u64, u32)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership().nodes();
        let others = members.map(|(&id, _)| id).filter(|&id| id != self.node_id);
        first_without(others.map(|id| (id, self.peers.protocol(id))))
    }

    /// Returns a member that is known not to support the newest rules, if this node leads.
    fn outdated(&self) -> Option<(u64, u32)> {
        let waits_for = self.waits_for().filter(|&(_, protocol)| protocol > 0);
        waits_for.filter(|_| self.leads())
    }
}

/// Returns the first of the given nodes (id, protocol version) that is not known to support the newest rules.
fn first_without(mut nodes: impl Iterator<Item = (u64, u32)>) -> Option<(u64, u32)> {
    nodes.find(|&(_, protocol)| protocol < PROTOCOL_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_must_have_them_and_one_that_was_never_seen_may_not() {
        let without = |nodes: &[(u64, u32)]| first_without(nodes.iter().copied());
        assert_eq!(without(&[]), None);
        assert_eq!(without(&[(2, 3), (3, PROTOCOL)]), None);
        assert_eq!(without(&[(2, 3), (3, 2)]), Some((3, 2)));
        assert_eq!(without(&[(2, 0), (3, 3)]), Some((2, 0)));
    }
}
