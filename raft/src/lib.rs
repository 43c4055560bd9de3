//! One registry out of many: openraft over the storage crate.
//!
//! openraft is named in this crate and nowhere else, and none of its types leaves it. What leaves is
//! [`Replica`]: commands in, replies out, and reads that saw every acknowledged write.

pub mod error;
pub mod replica;

pub use error::{ReadError, StartError, WriteError};
pub use replica::{Replica, ReplicaConfig, Status, StorageLocation};
