//! Proposes to this node's own Raft.
//!
//! Each node of a cluster packs the commands of its own clients into lists ([`crate::write`]); the leader proposes
//! the lists of all nodes here. There is no second layer of batching: openraft merges the proposals that wait for it
//! into one append, and the log syncs the appends that are under way together.

use std::fmt;

use futures::FutureExt;
use openraft::raft::ClientWriteResult;

use crate::store::Raft;
use crate::types::{Callback, Proposal, TypeConfig};

/// The outcome of a proposal; `None` if Raft stopped, so that the outcome stays unknown.
pub(crate) type Proposed = Option<ClientWriteResult<TypeConfig>>;

/// The handle through which this node proposes to its Raft. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposals {
    raft: Raft,
}

impl fmt::Debug for Proposals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proposals").finish_non_exhaustive()
    }
}

impl Proposals {
    pub(crate) fn new(raft: Raft) -> Self {
        Self { raft }
    }

    /// Proposes. `done` is called exactly once, on the task that learns the outcome, and must not block. Must be
    /// called on the Raft runtime.
    pub(crate) fn submit(&self, proposal: Proposal, done: impl FnOnce(Proposed) + Send + 'static) {
        let raft = self.raft.clone();
        let done = Callback::new(done);
        let mut submitting = Box::pin(async move {
            // If Raft has stopped, it drops the callback, which calls it with `None`.
            let _ = raft.client_write_ff(proposal, Some(done)).await;
        });
        // Raft's queue has room but in an emergency, and a task costs more than the proposal.
        if (&mut submitting).now_or_never().is_none() {
            tokio::spawn(submitting);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use openraft::raft::responder::Responder;

    use super::*;

    #[test]
    fn a_callback_runs_once_with_the_outcome_or_with_none() {
        let (told, tells) = mpsc::channel();
        let callback = || {
            let told = told.clone();
            Callback::new(move |outcome: Option<u32>| told.send(outcome).unwrap())
        };
        Responder::<TypeConfig, u32>::on_complete(callback(), 7);
        assert_eq!(tells.try_iter().collect::<Vec<_>>(), [Some(7)]);
        drop(callback());
        assert_eq!(tells.try_iter().collect::<Vec<_>>(), [None]);
    }
}
