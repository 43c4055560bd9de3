//! Implements openraft's storage: the log, the state machine, and the records that they keep in a store.

pub(crate) mod log_store;
pub(crate) mod node_ids;
pub(crate) mod roster;
pub(crate) mod saved_state;
pub(crate) mod session;
pub(crate) mod snapshot;
pub(crate) mod sole_voter;
pub(crate) mod state_machine;

use crate::types::TypeConfig;

/// openraft over this storage.
pub(crate) type Raft = openraft::Raft<TypeConfig, state_machine::StateMachine>;
