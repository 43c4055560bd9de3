//! openraft's network: RPCs to other nodes, sent through [`Peers`].
//!
//! An RPC that cannot be sent fails with [`Unreachable`], as openraft expects. A pre-vote that no peer has
//! answered is therefore never granted (openraft's own default would grant it).

use std::future::Future;
use std::time::Duration;

use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde_bytes::ByteBuf;

use crate::codec::{self, LogIdRecord};
use crate::replication::snapshot_send::Outgoing;
use crate::rpc::message::{AppendAnswer, Request, Response, VoteAnswer, VoteAsk};
use crate::rpc::{CallError, Peers};
use crate::store::snapshot::{Snapshot, SnapshotData};
use crate::types::{LogId, Member, TypeConfig, Vote};

/// Timeout of one AppendEntries RPC. openraft's own would be one heartbeat interval, in which a follower with a
/// busy disk has not synced a large entry: its response would come too late, and the entry would be sent again.
const APPEND_DURATION_MAX: Duration = Duration::from_secs(5);

/// Pause before the next RPC to an unreachable member. It can be short: the link knows whether there is a
/// connection, and refuses at once while there is none.
const BACKOFF: Duration = Duration::from_millis(50);

/// Creates the RPC clients that openraft uses.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    peers: Peers,
    snapshots: Outgoing,
}

impl Network {
    /// Returns the network over `peers`, which sends snapshots through `snapshots`.
    pub(crate) fn new(peers: Peers, snapshots: Outgoing) -> Self {
        Self { peers, snapshots }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &Member) -> Client {
        Client {
            target,
            peers: self.peers.clone(),
            snapshots: self.snapshots.clone(),
        }
    }
}

/// openraft's RPC client for one member.
#[derive(Debug)]
pub(crate) struct Client {
    target: u64,
    peers: Peers,
    snapshots: Outgoing,
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl Client {
    async fn call(&self, request: Request, timeout: Duration) -> Rpc<Response> {
        match self.peers.call(self.target, request, timeout).await {
            Ok(Response::Unavailable(reason)) => Err(self.unreachable(&reason)),
            Ok(response) => Ok(response),
            Err(CallError::Unreachable(reason)) => Err(self.unreachable(&reason)),
            Err(error) => Err(RPCError::Network(NetworkError::from_string(
                error.to_string(),
            ))),
        }
    }

    fn unreachable(&self, reason: &str) -> RPCError<TypeConfig> {
        Unreachable::from_string(format!("node {}: {reason}", self.target)).into()
    }

    fn unexpected<T>(&self, response: &Response) -> Rpc<T> {
        let text = format!(
            "node {} answered another question: {response:?}",
            self.target
        );
        Err(RPCError::Network(NetworkError::from_string(text)))
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let entries = rpc.entries.iter();
        let request = Request::Append {
            vote: (&rpc.vote).into(),
            prev_log_id: rpc.prev_log_id.as_ref().map(LogIdRecord::from),
            entries: entries
                .map(|entry| ByteBuf::from(codec::encode_log_entry(entry)))
                .collect(),
            leader_commit: rpc.leader_commit.as_ref().map(LogIdRecord::from),
        };
        drop(rpc);
        match self.call(request, APPEND_DURATION_MAX).await? {
            Response::Append(AppendAnswer::Success) => Ok(AppendEntriesResponse::Success),
            Response::Append(AppendAnswer::PartialSuccess(id)) => {
                Ok(AppendEntriesResponse::PartialSuccess(id.map(LogId::from)))
            }
            Response::Append(AppendAnswer::Conflict) => Ok(AppendEntriesResponse::Conflict),
            Response::Append(AppendAnswer::HigherVote(vote)) => {
                Ok(AppendEntriesResponse::HigherVote(vote.into()))
            }
            Response::Append(AppendAnswer::Stopped(reason)) => Err(self.unreachable(&reason)),
            other => self.unexpected(&other),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        match self
            .call(Request::Vote(ask(&rpc)), option.hard_ttl())
            .await?
        {
            Response::Vote(answer) => Ok(vote_response(answer)),
            other => self.unexpected(&other),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let request = Request::PreVote(ask(&rpc));
        match self.call(request, option.hard_ttl()).await? {
            Response::PreVote(answer) => Ok(vote_response(answer)),
            other => self.unexpected(&other),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.snapshots
            .send(&self.peers, self.target, vote, snapshot, cancel)
            .await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let request = Request::TransferLeader {
            from_leader: req.from_leader().into(),
            to: *req.to_node_id(),
            last_log_id: req.last_log_id().map(LogIdRecord::from),
        };
        match self.call(request, option.hard_ttl()).await? {
            Response::TransferLeader(Ok(())) => Ok(Ok(())),
            Response::TransferLeader(Err(reason)) => {
                // The request was delivered, and all that openraft does with a refusal is to log it.
                tracing::info!(node = self.target, reason, "leadership was not taken");
                Ok(Ok(()))
            }
            other => self.unexpected(&other),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

fn ask(rpc: &VoteRequest<TypeConfig>) -> VoteAsk {
    VoteAsk {
        vote: (&rpc.vote).into(),
        last_log_id: rpc.last_log_id.as_ref().map(LogIdRecord::from),
        leadership_transfer: rpc.leadership_transfer,
    }
}

fn vote_response(answer: VoteAnswer) -> VoteResponse<TypeConfig> {
    let mut response = VoteResponse::new(
        Vote::from(answer.vote),
        answer.last_log_id.map(LogId::from),
        answer.vote_granted,
    );
    // The field is public and must hold what the peer sent.
    response.vote_granted = answer.vote_granted;
    response
}
