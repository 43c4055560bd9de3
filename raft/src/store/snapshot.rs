//! Snapshots: the state at one log id, and how it is built, described and installed.
//!
//! The cost of building a snapshot does not depend on the number of entries. The builder takes a view of the
//! store when it is created, while no entry is being applied, and reads the description from that view, so the
//! description always matches the data. Nothing is written. The "current snapshot" is the applied state of the
//! moment. The purge of the log goes through the same write-ahead log as the state, so everything that is
//! purged is in the state.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use openraft::RaftSnapshotBuilder;

use hearth_storage::{Installation, Registry, SnapshotHeader, StateSnapshot, StoreError};

use crate::codec;
use crate::defect::{self, Defect};
use crate::store::log_store::io_error;
use crate::types::{LeaderId, LogId, Member, SnapshotMeta, StoredMembership, TypeConfig};

/// Key of the meta record with the log id that was applied last.
pub(crate) const LAST_APPLIED: &[u8] = b"raft/last_applied";
/// Key of the meta record with the membership that was applied last.
pub(crate) const MEMBERSHIP: &[u8] = b"raft/membership";
/// Key of the meta record with the log id of the snapshot that the state was installed from, if any.
pub(crate) const INSTALLED: &[u8] = b"raft/installed";

/// Bytes of one chunk, approximately. Chunks share a connection with heartbeats, each of which waits for at
/// most one chunk.
pub(crate) const CHUNK_LEN: usize = 256 << 10;

/// openraft's snapshot type with [`SnapshotData`].
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, u64, Member, SnapshotData>;

/// The data of a snapshot.
#[derive(Debug)]
pub(crate) enum SnapshotData {
    /// A view of this node's own store.
    Local(Arc<StateSnapshot>),
    /// A snapshot that was received from a peer: complete and on disk, but not yet the state.
    Received(Box<Installation>),
}

/// The position of a state, from its own meta records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    pub(crate) last_applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) installed: Option<LogId>,
}

impl Position {
    /// Reads the three records through `meta`.
    ///
    /// # Errors
    /// The errors of `meta`, and [`StoreError::Corrupt`] if a record cannot be decoded.
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

/// Takes a snapshot of the applied state of the moment.
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

/// Replaces the state of `registry` by a snapshot, atomically and durably.
///
/// # Errors
/// [`StoreError::Snapshot`] if the data does not match `meta`, and the errors of the store.
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

/// Writes the position without the state. The injected fault [`Defect::NoSwitch`].
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

/// Returns the header with which the snapshot `meta` is installed: `header` with the [`INSTALLED`] record
/// added.
///
/// # Errors
/// [`StoreError::Snapshot`] if `header` describes another state.
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

/// The builder of one snapshot: the view that was taken, or the error.
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
