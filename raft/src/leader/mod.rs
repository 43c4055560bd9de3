//! Tracks the leader, routes proposals and reads to it, and serves those of other nodes while this node leads.

pub(crate) mod contact;
pub(crate) mod failover;
pub(crate) mod proposals;
pub(crate) mod router;
pub(crate) mod tracker;
