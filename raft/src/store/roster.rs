//! The members and node ids of the cluster, as far as this node has applied the log. The handshake uses them to
//! refuse nodes that were removed or that came back without their data.
//!
//! Unknown nodes are accepted: this node may lag behind, and the unknown node may be its leader.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::defect::{self, Defect};
use crate::store::node_ids::{Holder, NodeIds};
use crate::types::{Member, StoredMembership};

/// The roster. The state machine writes it; all others read it.
#[derive(Debug)]
pub(crate) struct Roster {
    known: watch::Sender<Known>,
}

#[derive(Debug, Default)]
struct Known {
    members: BTreeMap<u64, Member>,
    ids: NodeIds,
}

/// The reason why a node is refused for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Turned {
    /// The node with this id was removed from the cluster.
    #[error(
        "node {0} was removed from this cluster; empty its data folder, and it can join as a new node"
    )]
    Removed(u64),
    /// The id belongs to a node with another data directory.
    #[error(
        "node {0} of this cluster had another data folder; remove it with nsctl cluster remove {0} and join \
         as a new node"
    )]
    Replaced(u64),
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            known: watch::Sender::new(Known::default()),
        }
    }
}

impl Roster {
    /// Replaces the roster. Must be called after the membership or the node ids changed in the applied state.
    pub(crate) fn set(&self, membership: &StoredMembership, ids: &NodeIds) {
        self.known.send_if_modified(|known| {
            let nodes = membership.membership().nodes();
            let members: BTreeMap<u64, Member> =
                nodes.map(|(&id, member)| (id, member.clone())).collect();
            let modified = known.members != members || known.ids != *ids;
            known.members = members;
            known.ids = ids.clone();
            modified
        });
    }

    /// Returns the reason to refuse the node with this id and incarnation, or `None` if it is accepted.
    pub(crate) fn turned_away(&self, id: u64, incarnation: u128) -> Option<Turned> {
        if defect::is(Defect::ReusedId) {
            return None;
        }
        let known = self.known.borrow();
        if let Some(member) = known.members.get(&id) {
            // Incarnation 0 is a member of a single-node cluster that an earlier build created without one: any
            // node with its id and the cluster key is accepted.
            let same = [0, incarnation].contains(&member.incarnation);
            return (!same).then_some(Turned::Replaced(id));
        }
        match known.ids.holder(id)? {
            Holder::Removed { .. } => Some(Turned::Removed(id)),
            Holder::Given { incarnation: given } | Holder::Member { incarnation: given } => {
                (given != incarnation).then_some(Turned::Replaced(id))
            }
            Holder::Reserved => None,
        }
    }

    /// Returns the members.
    pub(crate) fn members(&self) -> BTreeMap<u64, Member> {
        self.known.borrow().members.clone()
    }

    /// Returns a subscription to the changes of the roster.
    pub(crate) fn changes(&self) -> RosterChanges {
        RosterChanges(self.known.subscribe())
    }
}

/// A subscription to changes of the roster.
#[derive(Debug)]
pub(crate) struct RosterChanges(watch::Receiver<Known>);

impl RosterChanges {
    /// Resolves at the next change. Never resolves if the roster is gone.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Membership;

    fn member(incarnation: u128) -> Member {
        Member {
            incarnation,
            ..Member::default()
        }
    }

    fn stored(members: &[(u64, u128)]) -> StoredMembership {
        let nodes: BTreeMap<u64, Member> = members
            .iter()
            .map(|&(id, incarnation)| (id, member(incarnation)))
            .collect();
        let membership = Membership::new(vec![[1].into()], nodes).unwrap();
        StoredMembership::new(None, membership)
    }

    #[test]
    fn it_turns_away_the_removed_and_the_replaced_and_nobody_else() {
        let roster = Roster::default();
        assert_eq!(roster.turned_away(2, 12), None);
        let mut ids = NodeIds::default();
        ids.use_rules(2);
        let before = stored(&[(1, 0), (2, 12), (3, 13)]);
        ids.set_members(before.membership());
        let now = stored(&[(1, 0), (2, 12)]);
        ids.set_members(now.membership());
        ids.take(None, Some(14)).unwrap();
        ids.take(None, None).unwrap();
        roster.set(&now, &ids);
        for (id, incarnation, turned) in [
            (1, 11, None),
            (2, 12, None),
            (2, 99, Some(Turned::Replaced(2))),
            (3, 13, Some(Turned::Removed(3))),
            (3, 99, Some(Turned::Removed(3))),
            (4, 14, None),
            (4, 99, Some(Turned::Replaced(4))),
            (5, 15, None),
            (6, 16, None),
            (0, 16, None),
        ] {
            assert_eq!(roster.turned_away(id, incarnation), turned, "{id}");
        }
    }

    #[tokio::test]
    async fn changes_are_told() {
        let roster = Roster::default();
        let mut changes = roster.changes();
        let now = stored(&[(1, 11)]);
        roster.set(&now, &NodeIds::default());
        changes.next().await;
        roster.set(&now, &NodeIds::default());
        let again = tokio::time::timeout(std::time::Duration::from_millis(10), changes.next());
        assert!(again.await.is_err(), "nothing changed");
        assert_eq!(roster.members()[&1], member(11));
    }
}
