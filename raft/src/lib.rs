//! One registry out of many: openraft over the storage crate.
//!
//! openraft is named in this crate and nowhere else, and none of its types leaves it. What leaves is
//! [`Replica`]: commands in, replies out, and reads that saw every acknowledged write.
//!
//! A write passes `writer` (numbers, packing, retries), openraft, `log_store` (durability), and
//! `state_machine` (order, `session`: exactly once). A read passes `gate`, or else `reads`.

pub mod cluster;
pub mod error;
pub mod offline;
pub mod replica;
pub mod tuning;

mod aside;
mod birth;
mod cluster_keys;
mod codec;
mod contact;
#[cfg(feature = "defects")]
pub mod defect;
#[cfg(not(feature = "defects"))]
mod defect;
mod disk;
mod divergence;
mod failover;
mod forward;
mod gate;
mod ground;
mod ids;
mod incoming;
mod leadership;
mod limits;
mod log_store;
mod membership;
mod network;
mod peer;
mod proposals;
mod reads;
mod report;
mod retention;
mod roster;
mod rules;
mod save;
mod session;
mod snapshot;
mod snapshot_receive;
mod snapshot_send;
mod start;
mod state_machine;
mod type_config;
mod writer;

pub use cluster::{
    Birth, ClusterChange, ClusterConfig, ClusterError, ClusterReply, ClusterStatus, MemberInfo,
    MemberStatus, NodeReport, Role,
};
pub use cluster_keys::ClusterKeys;
pub use disk::DiskLimits;
pub use error::{ReadError, StartError, WriteError};
pub use ground::Ground;
pub use limits::COMMAND_LEN_MAX;
pub use peer::socket::{Connection, Listener, Pending, Reader, Sockets, Writer};
pub use replica::{Replica, ReplicaConfig, Status, StorageLocation};
pub use save::{SavedAbout, SavedState};
pub use tuning::Tuning;
