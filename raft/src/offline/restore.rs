//! A snapshot, of whatever cluster, becomes a cluster of one.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use hearth_storage::{Home, Location, Registry, RocksOptions, RocksStore, SnapshotHeader};

use super::alone::stand_alone;
use super::{NewCluster, OfflineError};
use crate::codec::{self, FolderRecord, Identity};
use crate::store::snapshot::{INSTALLED, LAST_APPLIED};

/// The identity of the restored node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreAs {
    /// Its number.
    pub node_id: u64,
    /// The name of its cluster.
    pub cluster_name: String,
}

const INTERRUPTED: &str =
    "a restore into this data folder was not completed; empty the folder, and restore again";

/// Brings the state with this header and these chunks, in their order, into the empty or missing `folder`.
///
/// # Errors
/// [`OfflineError`]: a folder that is not empty is left alone; one that was is empty again.
pub fn restore(
    folder: &Path,
    who: RestoreAs,
    header: &[u8],
    chunks: &mut dyn Iterator<Item = Result<Vec<u8>, OfflineError>>,
) -> Result<NewCluster, OfflineError> {
    let io = |source| OfflineError::Io {
        what: folder.display().to_string(),
        source,
    };
    match fs::read_dir(folder) {
        Ok(mut files) => {
            if files.next().is_some() {
                return Err(OfflineError::Refused(format!(
                    "{} is not empty; a snapshot is restored into an empty folder",
                    folder.display()
                )));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let restored = fill(folder, who, header, chunks);
    if restored.is_err()
        && let Err(error) = empty(folder)
    {
        tracing::warn!(%error, folder = %folder.display(), "cannot empty the folder again");
    }
    restored
}

fn fill(
    folder: &Path,
    who: RestoreAs,
    header: &[u8],
    chunks: &mut dyn Iterator<Item = Result<Vec<u8>, OfflineError>>,
) -> Result<NewCluster, OfflineError> {
    let mut header = SnapshotHeader::decode(header)?;
    let identity = Identity {
        cluster_id: rand::random(),
        cluster_name: who.cluster_name,
        node_id: who.node_id,
        incarnation: rand::random_range(1..=u128::MAX),
    };
    let location = Location::Folder(folder.to_owned());
    let store = RocksStore::open(&location, &RocksOptions::default())?;
    let log = store.log();
    // A start on half of it must not take it for an empty registry.
    log.save_identity(&codec::encode_folder(&FolderRecord::Removed {
        identity: identity.clone(),
        reason: INTERRUPTED.to_owned(),
    }))?;
    // A log that begins behind the state is one that was installed.
    if let Some(applied) = header.meta.get(LAST_APPLIED).cloned() {
        header.meta.insert(INSTALLED.to_vec(), applied);
    }
    let registry = Registry::new(Arc::new(store.clone()));
    let mut installation = registry.begin_install(header)?;
    for chunk in chunks {
        installation.chunk(&chunk?)?;
    }
    installation.finish()?;
    stand_alone(&log, &registry, &identity, "")?;
    let summary = registry.summary()?;
    drop(registry);
    Home::close(&store)?;
    Ok(NewCluster::of(&identity, summary))
}

fn empty(folder: &Path) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        let file = file?;
        if file.file_type()?.is_dir() {
            fs::remove_dir_all(file.path())?;
        } else {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}
