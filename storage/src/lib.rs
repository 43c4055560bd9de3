//! The registry of the name server: its entries, the rules by which they change, and the store that holds them.
//!
//! [`Registry`] owns the rules of the name space; a [`Store`] holds its data. Every query and every change is a
//! value: [`Query`] → [`Answer`], [`Command`] → [`Reply`]. This crate knows no Raft and no Pyro frames. It
//! keeps a log of opaque entries ([`LogHome`]) for the replication layer, in the same database as the registry,
//! so that one sync covers both.

pub mod change;
pub mod command;
pub mod conformance;
mod crash;
pub mod entries;
pub mod error;
pub mod format;
pub mod list;
pub mod model;
pub mod pattern;
pub mod query;
pub mod registry;
pub mod removal;
pub mod rules;
pub mod snapshot;
pub mod space;
pub mod store;
pub mod summary;

pub use change::Change;
pub use command::{Command, IfTaken, Refusal, Reply};
pub use entries::Entries;
pub use error::StoreError;
pub use list::{Bounds, ListRefusal};
pub use model::{Entry, Extras, Name, Revision, RevisionError, Tags};
pub use pattern::{Pattern, PatternError, Steps};
pub use query::{Answer, Filter, Query};
pub use registry::Registry;
pub use removal::Removal;
pub use rules::RULES;
pub use snapshot::{ChunkCursor, Installation, SnapshotHeader, StateSnapshot};
pub use space::{DiskSpace, Reserve};
pub use store::rocks::{EntryJudge, Findings, FolderCopy, Location, RocksOptions, RocksStore};
pub use store::{
    Batch, EntryChange, Home, Install, Log, LogHome, LogStats, NameCursor, Store, StoredEntry,
    SyncDone, View,
};
pub use summary::{StateHash, Summary};
