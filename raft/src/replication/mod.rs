//! Carries openraft's messages to the other members: appends, votes and snapshots.

pub(crate) mod network;
pub(crate) mod snapshot_receive;
pub(crate) mod snapshot_send;
