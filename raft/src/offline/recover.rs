//! After a majority was lost for good: one survivor's state becomes a cluster of one.

use std::path::Path;
use std::sync::Arc;

use hearth_storage::{Home, Location, Registry, RocksOptions, RocksStore, Store, StoreError};

use super::alone::{LogEnd, last_membership, stand_alone};
use super::{NewCluster, OfflineError, index};
use crate::codec::{self, FolderRecord, Identity};
use crate::store::snapshot::Position;
use crate::types::Membership;

/// A folder whose node is to go on alone. Nothing is changed before [`Self::carry_out`].
///
/// **Which state?** All that is in the log is kept. An entry that was not applied here may have been acknowledged
/// to a client, by a leader that is gone, so it must not be dropped; and one that never was is a call whose
/// outcome its client does not know, which may come to have happened. What is lost is what this node never had.
#[derive(Debug)]
pub struct Recovery {
    store: RocksStore,
    identity: Identity,
    position: Position,
    membership: Membership,
    last_index: u64,
}

impl Recovery {
    /// Opens the folder as a start would.
    ///
    /// # Errors
    /// [`OfflineError`]: in use, damaged, of no node, or in no need of this.
    pub fn open(folder: &Path) -> Result<Self, OfflineError> {
        if !folder.join("rocksdb").is_dir() {
            return Err(OfflineError::Refused(format!(
                "{}: this is no data folder of Hearth",
                folder.display()
            )));
        }
        let location = Location::Folder(folder.to_owned());
        let store = RocksStore::open(&location, &RocksOptions::default())?;
        let refused = |reason: &str| {
            Err(OfflineError::Refused(format!(
                "{}: {reason}",
                folder.display()
            )))
        };
        let log = store.log();
        let record = match log.identity()? {
            Some(bytes) => codec::decode_folder(&bytes).map_err(StoreError::from)?,
            None => return refused("it does not say whose it is"),
        };
        let (identity, was_removed) = match record {
            FolderRecord::Blank { .. } => {
                return refused("its node never belonged to a cluster; start it as ever");
            }
            FolderRecord::Removed { identity, .. } => (identity, true),
            FolderRecord::Founder { identity, .. } | FolderRecord::Member(identity) => {
                (identity, false)
            }
        };
        let position = Position::read(|key| store.meta(key))?;
        let end = LogEnd::read(&log)?;
        let last_index = index(end.last).max(index(position.last_applied));
        let membership = last_membership(&log, &position)?;
        if position.last_applied.is_none() && end.last.is_none() {
            return refused("it holds nothing; empty it, and found or join a cluster");
        }
        let voters: Vec<u64> = membership.voter_ids().collect();
        if voters == [identity.node_id] && !was_removed {
            return refused(&format!(
                "node {} is the only voter of its cluster, so it starts without this",
                identity.node_id
            ));
        }
        Ok(Self {
            store,
            identity,
            position,
            membership,
            last_index,
        })
    }

    /// The data that is kept and the data that may be lost, as sentences for the operator who decides.
    ///
    /// # Errors
    /// [`OfflineError`].
    pub fn consequences(&self) -> Result<Vec<String>, OfflineError> {
        let me = self.identity.node_id;
        let applied = index(self.position.last_applied);
        let summary = self.store.summary()?;
        let voters: Vec<u64> = self.membership.voter_ids().collect();
        let mut others: Vec<u64> = self.membership.nodes().map(|(&id, _)| id).collect();
        others.retain(|&id| id != me);
        Ok(vec![
            format!(
                "This is node {me} of the cluster {:?} with the voters {voters:?}. It holds {} names, as of entry \
                 {applied} of the log.",
                self.identity.cluster_name, summary.entry_count
            ),
            match self.last_index - applied {
                0 => "All that is in its log is applied.".to_owned(),
                more => format!(
                    "{more} later entries of its log are kept as well: they may have been acknowledged to clients, \
                     or their outcome is unknown to them."
                ),
            },
            "Lost is what the other voters acknowledged without this node: nobody can tell from here whether there \
             is anything. If the folder of another voter is left, run hearthd verify on both, and recover the one \
             whose log goes further."
                .to_owned(),
            format!(
                "It becomes the only node of a new cluster of the same name. The nodes {others:?} must never run on \
                 their old folders again, since clients would find two registries; empty the folders, and start \
                 them with --join."
            ),
        ])
    }

    /// Does it.
    ///
    /// # Errors
    /// [`OfflineError`]; the folder can be recovered again then.
    pub fn carry_out(self) -> Result<NewCluster, OfflineError> {
        let identity = Identity {
            cluster_id: rand::random(),
            ..self.identity
        };
        let member = self.membership.get_node(&identity.node_id);
        let peer_addr = member.map_or("", |member| member.peer_addr.as_str());
        let registry = Registry::new(Arc::new(self.store.clone()));
        stand_alone(&self.store.log(), &registry, &identity, peer_addr)?;
        let summary = registry.summary()?;
        drop(registry);
        Home::close(&self.store)?;
        Ok(NewCluster::of(&identity, summary))
    }
}
