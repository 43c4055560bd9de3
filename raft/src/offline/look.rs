//! Reading a folder, all of it.

use std::ops::ControlFlow;
use std::path::Path;

use hearth_storage::{Entry, FolderCopy, Registry, RocksStore, StoreError};

use super::{OfflineError, index};
use crate::codec::{self, FolderRecord};
use crate::store::snapshot::Position;

/// The contents of a data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The findings, as lines.
    pub lines: Vec<String>,
    /// The problems found, as sentences.
    pub problems: Vec<String>,
}

/// Reads everything in `folder` with its checksums, and compares what must fit together. Changes nothing.
///
/// # Errors
/// [`OfflineError`] when it cannot even be looked at. That it does not open is a problem in [`Verified`].
pub fn verify(folder: &Path) -> Result<Verified, OfflineError> {
    let copy = FolderCopy::of(folder)?;
    let mut verified = Verified::default();
    let opened = copy.open_remains(&mut |reason| verified.problems.push(reason.to_owned()));
    match opened {
        Ok(store) => verify_store(&store, &copy, &mut verified)?,
        Err(error) => verified.problems.push(copy.tell(&error)),
    }
    Ok(verified)
}

fn verify_store(
    store: &RocksStore,
    copy: &FolderCopy,
    verified: &mut Verified,
) -> Result<(), OfflineError> {
    let findings = store.verify(&mut |index, payload| {
        let entry = codec::decode_log_entry(index, payload);
        entry.map(drop).map_err(|error| error.to_string())
    })?;
    let lines = &mut verified.lines;
    let mut problem = |error: StoreError| verified.problems.push(copy.tell(&error));
    let log = store.log();
    match log.identity() {
        Ok(Some(bytes)) => match codec::decode_folder(&bytes) {
            Ok(record) => lines.push(whose(&record)),
            Err(error) => problem(error.into()),
        },
        Ok(None) => lines.push("belongs to no node yet".to_owned()),
        Err(error) => problem(error),
    }
    match log.vote() {
        Ok(Some(bytes)) => {
            if let Err(error) = codec::decode_vote(&bytes) {
                problem(error.into());
            }
        }
        Ok(None) => {}
        Err(error) => problem(error),
    }
    let summary = findings.summary;
    lines.push(format!(
        "{} names with {} tags, {} records beside them, state hash {}",
        summary.entry_count, findings.tag_count, summary.extra_count, summary.hash
    ));
    match findings.log {
        Some((first, last)) => lines.push(format!("log entries {first} to {last}")),
        None => lines.push("no log entries".to_owned()),
    }
    let last = findings.log.map(|(_, last)| last).or(findings.purged);
    match Position::read(|key| hearth_storage::Store::meta(store, key)) {
        Ok(position) => {
            let applied = index(position.last_applied);
            lines.push(format!("applied up to entry {applied}"));
            let was_installed = position.last_applied == position.installed;
            if last.unwrap_or(0) < applied && !was_installed {
                verified.problems.push(format!(
                    "the log ends at {}, and the state has {applied} applied",
                    last.unwrap_or(0)
                ));
            }
        }
        Err(error) => problem(error),
    }
    let told = findings.problems.iter().map(|problem| copy.tell(problem));
    verified.problems.extend(told);
    Ok(())
}

fn whose(record: &FolderRecord) -> String {
    let (identity, more) = match record {
        FolderRecord::Blank { .. } => return "belongs to no node yet".to_owned(),
        FolderRecord::Founder { identity, .. } => (identity, " (being founded)".to_owned()),
        FolderRecord::Member(identity) => (identity, String::new()),
        FolderRecord::Removed { identity, reason } => (identity, format!(" ({reason})")),
    };
    format!(
        "belongs to node {} of the cluster {:?}, {:032x}{more}",
        identity.node_id, identity.cluster_name, identity.cluster_id
    )
}

/// Hands each name that can be read to `found`, also of a folder that does not start. `damaged` hears of
/// everything that cannot. Changes nothing.
///
/// # Errors
/// [`OfflineError`] when nothing can be read, or what `found` returns.
pub fn dump(
    folder: &Path,
    found: &mut dyn FnMut(&str, &Entry) -> Result<(), OfflineError>,
    damaged: &mut dyn FnMut(&str),
) -> Result<(), OfflineError> {
    let copy = FolderCopy::of(folder)?;
    let store = copy
        .open_remains(damaged)
        .map_err(|error| OfflineError::Refused(copy.tell(&error)))?;
    let registry = Registry::new(std::sync::Arc::new(store.clone()));
    let mut result = Ok(());
    let mut count = 0;
    store.read_entries(
        &mut |name, entry| {
            count += 1;
            result = found(name, &entry);
            match result {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        },
        &mut |reason| damaged(&copy.tell(&reason)),
    );
    result?;
    if let Ok(summary) = registry.summary()
        && summary.entry_count != count
    {
        damaged(&format!(
            "{count} names could be read, and there should be {}",
            summary.entry_count
        ));
    }
    Ok(())
}
