//! A state as it was at one log id: built, described, installed.
//!
//! Building one costs the same whatever the number of entries: the store's view is taken when the builder
//! is made, while no entry is being applied, and what it is of is read from the view itself. So the
//! description is always exactly that of the data. Nothing is written: the "current snapshot" is the
//! applied state of the moment, which has everything up to it by the same write-ahead log that the purge
//! goes through.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use openraft::RaftSnapshotBuilder;

use hearth_storage::{Installation, Registry, SnapshotHeader, StateSnapshot, StoreError};

use crate::codec;
use crate::defect::{self, Defect};
use crate::store::log_store::io_error;
use crate::types::{LeaderId, LogId, Member, SnapshotMeta, StoredMembership, TypeConfig};

/// Meta records of a state: the log id that was applied last.
pub(crate) const LAST_APPLIED: &[u8] = b"raft/last_applied";
/// The membership that was applied last.
pub(crate) const MEMBERSHIP: &[u8] = b"raft/membership";
/// The log id of the snapshot that the state was installed from, if it was.
pub(crate) const INSTALLED: &[u8] = b"raft/installed";

/// Bytes of one chunk, about. Chunks share a connection with heartbeats, which wait for one at most.
pub(crate) const CHUNK_LEN: usize = 256 << 10;

/// openraft's snapshot with our data in it.
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, u64, Member, SnapshotData>;

/// The data of a snapshot.
#[derive(Debug)]
pub(crate) enum SnapshotData {
    /// A view of this node's own store.
    Local(Arc<StateSnapshot>),
    /// What came from a peer: complete and on disk, and not the state yet.
    Received(Box<Installation>),
}

/// What a state's own meta records say about it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    pub(crate) last_applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) installed: Option<LogId>,
}

impl Position {
    /// Reads the three records by `meta`.
    ///
    /// # Errors
    /// What `meta` returns, and [`StoreError::Corrupt`].
    pub(crate) fn read(
        meta: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Self, StoreError> {
        let log_id = |key| match meta(key)? {
            Some(bytes) => Ok::<_, StoreError>(Some(codec::decode_log_id(&bytes)?)),
            None => Ok(None),
        };
        let membership = match meta(MEMBERSHIP)? {
            Some(bytes) => codec::decode_membership(&bytes)?,
            None => StoredMembership::default(),
        };
        Ok(Self {
            last_applied: log_id(LAST_APPLIED)?,
            membership,
            installed: log_id(INSTALLED)?,
        })
    }

    fn of_records(records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Self, StoreError> {
        Self::read(|key| Ok(records.get(key).cloned()))
    }

    fn into_meta(self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership,
        }
    }
}

/// The applied state of the moment.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn take(registry: &Registry) -> Result<Snapshot, StoreError> {
    let view = registry.snapshot()?;
    let position = Position::of_records(&view.header().meta)?;
    Ok(Snapshot {
        meta: position.into_meta(),
        snapshot: SnapshotData::Local(Arc::new(view)),
    })
}

/// Replaces the state of `registry` by a snapshot, all of it at once and durably, or not at all.
///
/// # Errors
/// [`StoreError::Snapshot`] when the data is not what `meta` says, and what the store reports.
pub(crate) fn install(
    registry: &Registry,
    meta: &SnapshotMeta,
    data: SnapshotData,
) -> Result<(), StoreError> {
    if defect::is(Defect::NoSwitch) {
        return write_position(registry, meta);
    }
    match data {
        SnapshotData::Local(view) => {
            let header = header_to_install(view.header().clone(), meta)?;
            registry.install(header, view.chunks(CHUNK_LEN))
        }
        SnapshotData::Received(installation) => {
            check_is_of(installation.header(), meta)?;
            installation.finish()
        }
    }
}

/// [`Defect::NoSwitch`].
fn write_position(registry: &Registry, meta: &SnapshotMeta) -> Result<(), StoreError> {
    let mut change = registry.begin()?;
    if let Some(last) = &meta.last_log_id {
        let last = codec::encode_log_id(last);
        change.put_meta(LAST_APPLIED, last.clone());
        change.put_meta(INSTALLED, last);
    }
    let membership = codec::encode_membership(&meta.last_membership);
    change.put_meta(MEMBERSHIP, membership);
    registry.commit(change)
}

/// The header with which a snapshot of `meta` is installed: it also says that it was.
///
/// # Errors
/// [`StoreError::Snapshot`] when `header` is of another state.
pub(crate) fn header_to_install(
    mut header: SnapshotHeader,
    meta: &SnapshotMeta,
) -> Result<SnapshotHeader, StoreError> {
    check_is_of(&header, meta)?;
    if let Some(last) = &meta.last_log_id {
        header
            .meta
            .insert(INSTALLED.to_vec(), codec::encode_log_id(last));
    }
    Ok(header)
}

fn check_is_of(header: &SnapshotHeader, meta: &SnapshotMeta) -> Result<(), StoreError> {
    let position = Position::of_records(&header.meta)?;
    if position.clone().into_meta() == *meta {
        return Ok(());
    }
    Err(StoreError::snapshot(format!(
        "it was announced as {meta}, and is of {:?}",
        position.last_applied
    )))
}

/// A view that was taken, or why it could not be.
#[derive(Debug)]
pub(crate) struct SnapshotBuilder(Option<Result<Snapshot, StoreError>>);

impl SnapshotBuilder {
    /// Takes the view now.
    pub(crate) fn new(registry: &Registry) -> Self {
        Self(Some(take(registry)))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        match self.0.take() {
            Some(taken) => taken.map_err(io_error),
            None => Err(io::Error::other("a builder builds one snapshot")),
        }
    }
}
