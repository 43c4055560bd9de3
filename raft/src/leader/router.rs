//! The leader router, which brings this node's proposals and reads to the leader, and the leader service, which
//! answers those of other nodes. The leader may be this node.
//!
//! A request without an answer is given up as soon as another leader is known. The outcome of a proposal is
//! then unknown; the new leader can answer for the old one.

use std::future::Future;
use std::time::Duration;

use openraft::errors::{
    ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError,
};

use crate::leader::proposals::{Proposals, Proposed};
use crate::leader::tracker::Leadership;
use crate::rpc::message::{ProposalRecord, ProposeAnswer, ReadIndexAnswer, Request, Response};
use crate::rpc::{CallError, Peers};
use crate::store::Raft;
use crate::store::log_store::LogStore;
use crate::types::{Outcome, Proposal, TypeConfig};

/// Limit on the wait for one proposal. After that it is sent again, under the same numbers.
pub(crate) const PROPOSAL_DURATION_MAX: Duration = Duration::from_secs(5);

/// Limit on the wait for a leader's confirmation that it still leads.
const READ_INDEX_DURATION_MAX: Duration = Duration::from_secs(2);

/// Routes proposals and reads to the leader. Implemented by [`Route`], and by replacements in tests.
pub(crate) trait Way: Clone + Send + Sync + 'static {
    /// Returns the known leader.
    fn leadership(&self) -> &Leadership;

    /// Proposes through this node's own Raft. `done` is called exactly once, on the task that gets the answer,
    /// and with `None` if Raft has stopped and there will never be an answer.
    fn propose_here(
        &self,
        proposal: Proposal,
        done: impl FnOnce(Option<ProposeAnswer>) + Send + 'static,
    );

    /// Proposes through the leader `to`, and returns the outcome.
    fn propose_at(
        &self,
        to: u64,
        record: ProposalRecord,
    ) -> impl Future<Output = ProposeAnswer> + Send;

    /// Returns the index that must be applied here before a read that began before this call may be answered.
    ///
    /// # Errors
    /// The reason why no leader could confirm an index.
    fn read_index(&self) -> impl Future<Output = Result<u64, String>> + Send;
}

/// Finds the leader and sends requests to it.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) leadership: Leadership,
    pub(crate) raft: Raft,
    pub(crate) proposals: Proposals,
    pub(crate) peers: Peers,
    pub(crate) log_store: LogStore,
}

impl Way for Route {
    fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    fn propose_here(
        &self,
        proposal: Proposal,
        done: impl FnOnce(Option<ProposeAnswer>) + Send + 'static,
    ) {
        self.proposals
            .submit(proposal, move |proposed| done(propose_answer(proposed)));
    }

    async fn propose_at(&self, to: u64, record: ProposalRecord) -> ProposeAnswer {
        let request = Request::Propose(record);
        let called = tokio::select! {
            biased;
            called = self.peers.call(to, request, PROPOSAL_DURATION_MAX) => called,
            next = self.leadership.passes_from(to) => {
                return ProposeAnswer::Unknown(format!("node {next} leads in place of node {to}"));
            }
        };
        match called {
            Ok(Response::Propose(answer)) => answer,
            Ok(Response::Unavailable(reason)) | Err(CallError::Unreachable(reason)) => {
                ProposeAnswer::NotProposed(format!("the leader, node {to}: {reason}"))
            }
            Ok(_) => ProposeAnswer::Unknown(format!("node {to} answered another question")),
            Err(error @ (CallError::Lost(_) | CallError::TimedOut(_))) => {
                ProposeAnswer::Unknown(format!("the leader, node {to}: {error}"))
            }
        }
    }

    async fn read_index(&self) -> Result<u64, String> {
        let to = match self.leadership.leader() {
            Some(id) if id == self.leadership.node_id() => return own_read_index(&self.raft).await,
            Some(id) => id,
            None => return Err(NO_LEADER.to_owned()),
        };
        // The vote is read after the reads of this round began, as `Word` requires.
        let request = match self.log_store.promised_vote() {
            Some(vote) if self.peers.protocol(to) >= ACKNOWLEDGED_READ_INDEX => {
                Request::AcknowledgedReadIndex((&vote).into())
            }
            _ => Request::ReadIndex,
        };
        let call = self.peers.call(to, request, READ_INDEX_DURATION_MAX);
        let called = tokio::select! {
            biased;
            called = call => called,
            next = self.leadership.passes_from(to) => {
                return Err(format!("node {next} leads in place of node {to}"));
            }
        };
        match called {
            Ok(Response::ReadIndex(ReadIndexAnswer::Index(index))) => Ok(index),
            Ok(Response::ReadIndex(ReadIndexAnswer::NotLeader { .. })) => {
                Err(format!("node {to} does not lead any more"))
            }
            Ok(Response::ReadIndex(ReadIndexAnswer::NoQuorum(reason))) => Err(reason),
            Ok(Response::Unavailable(reason)) => Err(format!("the leader, node {to}: {reason}")),
            Ok(_) => Err(format!("node {to} answered another question")),
            Err(error) => Err(format!("the leader, node {to}: {error}")),
        }
    }
}

/// The first protocol version in which a leader knows [`Request::AcknowledgedReadIndex`].
const ACKNOWLEDGED_READ_INDEX: u32 = 2;

/// The reason that is given when no leader is known.
pub(crate) const NO_LEADER: &str = "no leader is known";

/// Runs ReadIndex on the leader: returns its commit index after a majority has confirmed that it still leads.
///
/// # Errors
/// The reason why the leadership could not be confirmed.
pub(crate) async fn own_read_index(raft: &Raft) -> Result<u64, String> {
    let linearizer = raft
        .get_read_linearizer(openraft::ReadPolicy::ReadIndex)
        .await
        .map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                why_not_here(&forward)
            }
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(quorum)) => {
                let got: Vec<String> = quorum.got.iter().map(u64::to_string).collect();
                format!("of the voters only node {} answered", got.join(" and "))
            }
            RaftError::Fatal(fatal) => format!("Raft has stopped: {fatal}"),
        })?;
    Ok(linearizer.read_log_id().index())
}

fn why_not_here(forward: &ForwardToLeader<TypeConfig>) -> String {
    match (forward.reason, forward.leader_id) {
        (ForwardReason::LeaseExpired, _) => {
            "the leader has not heard from a majority for too long".to_owned()
        }
        (ForwardReason::LeadershipTransfer, _) => "leadership is being handed over".to_owned(),
        (ForwardReason::NotLeader, Some(leader)) => format!("node {leader} leads"),
        (ForwardReason::NotLeader, None) => NO_LEADER.to_owned(),
    }
}

/// Converts openraft's result of a proposal. `None` if Raft has stopped and there will never be a result.
pub(crate) fn propose_answer(proposed: Proposed) -> Option<ProposeAnswer> {
    Some(match proposed? {
        Ok(response) => {
            let index = response.log_id.index;
            match response.data {
                Outcome::Session(id) => ProposeAnswer::Session { index, id },
                Outcome::Replies(replies) => ProposeAnswer::Replies { index, replies },
                Outcome::Nothing | Outcome::Id(_) => {
                    ProposeAnswer::Unknown("the entry holds something else".to_owned())
                }
            }
        }
        // Since openraft's alpha 35 this error means that the entry was not appended and never will be.
        Err(ClientWriteError::ForwardToLeader(error)) => {
            ProposeAnswer::NotProposed(why_not_here(&error))
        }
        Err(error) => ProposeAnswer::Unknown(error.to_string()),
    })
}
