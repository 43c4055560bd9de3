//! Puts the registry's newest rules in force, once every member has them.
//!
//! A member with an older program applies the log by older rules, and cannot read the commands that came
//! with the newer ones; see [`hearth_storage::rules`]. So the leader waits until it is connected to all members
//! and all of them speak a protocol that is new enough, and then proposes the change like any command. From
//! that log entry on every node applies what follows by the newer rules, whenever it does so. A program that
//! does not have them cannot join any more.

use std::time::Duration;

use hearth_storage::{Command, RULES, Registry, StoreError};
use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, sleep};

use crate::rpc::Peers;
use crate::rpc::handshake::PROTOCOL;
use crate::store::Raft;
use crate::write::Writer;

/// The protocol since which members have [`RULES`].
const PROTOCOL_MIN: u32 = 3;
const _: () = assert!(RULES == 2 && PROTOCOL >= PROTOCOL_MIN);

/// How often a leader looks whether the time has come.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long a proposal may take before the leader looks again.
const WRITE_DURATION_MAX: Duration = Duration::from_secs(5);

/// Proposes the newest rules when it is time.
pub(crate) struct RulesKeeper {
    pub(crate) node_id: u64,
    pub(crate) raft: Raft,
    pub(crate) registry: Registry,
    pub(crate) writer: Writer,
    pub(crate) peers: Peers,
}

impl RulesKeeper {
    /// Returns when the newest rules are in force here.
    pub(crate) async fn run(self) {
        let mut explained = false;
        loop {
            match self.step().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    // The store has told its owner, too, who stops the node.
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

    /// Proposes the newest rules if that is for this node to do now; whether they are in force.
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

    /// A member that is not known to have the newest rules, and the protocol that it speaks: 0 when it was
    /// not connected yet.
    fn waits_for(&self) -> Option<(u64, u32)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership().nodes();
        let others = members.map(|(&id, _)| id).filter(|&id| id != self.node_id);
        first_without(others.map(|id| (id, self.peers.protocol(id))))
    }

    /// A member that is known not to have them, if this node leads.
    fn outdated(&self) -> Option<(u64, u32)> {
        let waits_for = self.waits_for().filter(|&(_, protocol)| protocol > 0);
        waits_for.filter(|_| self.leads())
    }
}

/// The first of these nodes, each with the protocol that it speaks, that is not known to have the newest rules.
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
