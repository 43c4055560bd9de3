//! The way of this node's proposals and reads to the leader, which may be this node; and the leader's side
//! of it.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::oneshot;

use crate::disk::Disk;
use crate::peer::message::{ProposalRecord, ProposeAnswer, ReadIndexAnswer, Request, Response};
use crate::peer::{CallError, Peers};
use crate::reads::Reads;
use crate::type_config::{Completion, Outcome, Proposal, Raft, TypeConfig};

/// How long a proposal is waited for before it is sent again, under the same numbers.
const PROPOSAL_DURATION_MAX: Duration = Duration::from_secs(5);

/// How long a leader is waited for to confirm that it leads.
const READ_INDEX_DURATION_MAX: Duration = Duration::from_secs(2);

/// Finds the leader and reaches it.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) node_id: u64,
    pub(crate) raft: Raft,
    pub(crate) peers: Peers,
}

/// Where the leader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leader {
    Here,
    At(u64),
    Unknown,
}

impl Route {
    /// Where this node believes the leader to be.
    pub(crate) fn leader(&self) -> Leader {
        match self.raft.metrics().borrow_watched().current_leader {
            Some(id) if id == self.node_id => Leader::Here,
            Some(id) => Leader::At(id),
            None => Leader::Unknown,
        }
    }

    /// Resolves when another node than `leader` leads.
    async fn another_leads(&self, leader: u64) {
        let mut server = self.raft.server_metrics();
        while server
            .borrow_and_update()
            .current_leader
            .is_none_or(|id| id == leader)
        {
            if server.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Has the leader `to` propose, and returns what became of that.
    pub(crate) async fn propose(&self, to: u64, record: ProposalRecord) -> ProposeAnswer {
        let request = Request::Propose(record);
        let call = self.peers.call(to, request, PROPOSAL_DURATION_MAX);
        let answer = tokio::select! {
            biased;
            answer = call => answer,
            // A leader that was cut off may not answer for long, and what it does answer is not needed.
            () = self.another_leads(to) => Err(CallError::Lost("another node leads now".to_owned())),
        };
        match answer {
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

    /// The index that must be applied here before a read that began before this call.
    ///
    /// # Errors
    /// Why nobody could say.
    pub(crate) async fn read_index(&self) -> Result<u64, String> {
        let to = match self.leader() {
            Leader::Here => return own_read_index(&self.raft).await,
            Leader::At(id) => id,
            Leader::Unknown => return Err("no leader is known".to_owned()),
        };
        let call = self
            .peers
            .call(to, Request::ReadIndex, READ_INDEX_DURATION_MAX);
        let answer = tokio::select! {
            biased;
            answer = call => answer,
            () = self.another_leads(to) => return Err("another node leads now".to_owned()),
        };
        match answer {
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

/// ReadIndex on the leader: a majority confirms that it still leads.
///
/// # Errors
/// Why it could not be confirmed.
pub(crate) async fn own_read_index(raft: &Raft) -> Result<u64, String> {
    let linearizer = raft
        .get_read_linearizer(openraft::ReadPolicy::ReadIndex)
        .await
        .map_err(|error| error.to_string())?;
    Ok(linearizer.read_log_id().index())
}

/// Answers what other nodes ask of a leader.
#[derive(Clone)]
pub(crate) struct Lead {
    pub(crate) raft: Raft,
    pub(crate) reads: Arc<Reads>,
    pub(crate) disk: Arc<Disk>,
}

impl Lead {
    /// Proposes what another node sent.
    pub(crate) async fn propose(&self, record: ProposalRecord) -> ProposeAnswer {
        let proposal = match record {
            ProposalRecord::OpenSession { node, nonce } => Proposal::OpenSession { node, nonce },
            ProposalRecord::Commands { again, list } => {
                if let Err(reason) = self.disk.admits_all(&list, again) {
                    return ProposeAnswer::DiskFull(reason);
                }
                Proposal::Commands(list)
            }
        };
        let (done, result) = oneshot::channel();
        let completion = Completion::new(move |result| {
            // Whoever asked may have gone.
            let _ = done.send(result);
        });
        if let Err(error) = self.raft.client_write_ff(proposal, Some(completion)).await {
            return ProposeAnswer::NotProposed(error.to_string());
        }
        match result.await {
            Ok(result) => propose_answer(result),
            Err(_) => ProposeAnswer::Unknown("Raft stopped".to_owned()),
        }
    }

    /// Says up to where a read must see.
    pub(crate) async fn read_index(&self) -> ReadIndexAnswer {
        let metrics = self.raft.metrics();
        let (id, leader) = {
            let metrics = metrics.borrow_watched();
            (metrics.id, metrics.current_leader)
        };
        if leader != Some(id) {
            return ReadIndexAnswer::NotLeader { leader };
        }
        match self.reads.index().await {
            Ok(index) => ReadIndexAnswer::Index(index),
            Err(reason) => ReadIndexAnswer::NoQuorum(reason),
        }
    }
}

/// What openraft made of a proposal; `None` when it stopped and nobody will ever say.
pub(crate) fn propose_answer(result: Option<ClientWriteResult<TypeConfig>>) -> ProposeAnswer {
    match result {
        Some(Ok(response)) => {
            let index = response.log_id.index;
            match response.data {
                Outcome::Session(id) => ProposeAnswer::Session { index, id },
                Outcome::Replies(replies) => ProposeAnswer::Replies { index, replies },
                Outcome::Nothing | Outcome::Id(_) => {
                    ProposeAnswer::Unknown("the entry holds something else".to_owned())
                }
            }
        }
        // Since openraft's alpha 35 this means that it was not appended, and never will be.
        Some(Err(ClientWriteError::ForwardToLeader(error))) => {
            ProposeAnswer::NotProposed(error.to_string())
        }
        Some(Err(error)) => ProposeAnswer::Unknown(error.to_string()),
        None => ProposeAnswer::Unknown("Raft stopped".to_owned()),
    }
}
