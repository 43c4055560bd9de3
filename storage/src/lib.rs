//! The registry: what names stand for, the rules by which that changes, and where it is kept.
//!
//! [`Registry`] owns the rules of the name space and [`Store`] is where its data lives. Everything that
//! can be asked or changed is a value: [`Query`] → [`Answer`], [`Command`] → [`Reply`]. This crate
//! knows no Raft and no Pyro frames; it keeps a log of opaque entries for whoever replicates.

pub mod command;
pub mod error;
pub mod model;
pub mod pattern;
pub mod query;

pub use command::{Command, IfTaken, Refusal, Reply};
pub use error::StoreError;
pub use model::{Entry, Name, Tags};
pub use pattern::{Pattern, PatternError};
pub use query::{Answer, Filter, Query};
