//! The replicated registry: openraft on top of the storage crate.
//!
//! openraft is named in this crate only, and none of its types leaves it. The crate's interface is [`Replica`]:
//! commands in, replies out, and reads that see every acknowledged write.
//!
//! A write passes `writer` (numbers, batches, retries), openraft, `log_store` (durability), and `state_machine`
//! (order, and exactly once by `session`). A read passes `gate` if this node is the only voter, and otherwise
//! `reads`.

pub mod config;
pub mod error;
pub mod offline;
pub mod replica;
pub mod status;

mod bootstrap;
mod codec;
#[cfg(feature = "defects")]
pub mod defect;
#[cfg(not(feature = "defects"))]
mod defect;
mod disk_space;
mod environment;
mod leader;
mod membership;
mod read;
mod replication;
mod report;
mod retention;
mod rpc;
mod service;
mod store;
mod types;
mod write;

pub use config::{
    Birth, ClusterConfig, ClusterKeys, DiskLimits, ReplicaConfig, StorageLocation, Tuning,
};
pub use environment::Ground;
pub use error::{ReadError, StartError, WriteError};
pub use replica::{Replica, Status};
pub use rpc::socket::{Connection, Listener, Pending, Reader, Sockets, Writer};
pub use status::{
    ClusterChange, ClusterError, ClusterReply, ClusterStatus, MemberInfo, MemberStatus, NodeReport,
    Role,
};
pub use store::saved_state::{SavedAbout, SavedState};
pub use write::limits::COMMAND_LEN_MAX;
