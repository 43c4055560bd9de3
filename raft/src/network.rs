//! Our calls to peers.
//!
//! A cluster of one has none: every call is answered that the target cannot be reached, which Raft
//! understands as what it is. In particular a pre-vote that nobody was asked is never granted (openraft's
//! own default would grant it).

use std::future::Future;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use crate::snapshot::SnapshotData;
use crate::type_config::{LeaderId, Member, TypeConfig, Vote};

/// Makes clients for a node that has no peers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NoPeers;

impl RaftNetworkFactory<TypeConfig> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, target: u64, node: &Member) -> NoPeer {
        NoPeer {
            target,
            peer_addr: node.peer_addr.clone(),
        }
    }
}

/// A client that reaches nobody.
#[derive(Debug)]
pub(crate) struct NoPeer {
    target: u64,
    peer_addr: String,
}

impl NoPeer {
    fn unreachable(&self) -> Unreachable<TypeConfig> {
        Unreachable::from_string(format!(
            "node {} at {:?}: this node has no connections to others",
            self.target, self.peer_addr
        ))
    }
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl RaftNetworkV2<TypeConfig> for NoPeer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn pre_vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: openraft::Snapshot<LeaderId, u64, Member, SnapshotData>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn transfer_leader(
        &mut self,
        _req: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        Err(self.unreachable().into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn nobody_grants_a_vote() {
        let mut client = NoPeers.new_client(2, &Member::default()).await;
        let option = RPCOption::new(Duration::from_secs(1));
        let request = VoteRequest::new(Vote::new(1, 1), None);
        let vote = client.vote(request.clone(), option.clone()).await;
        assert!(matches!(vote, Err(RPCError::Unreachable(_))), "{vote:?}");
        let vote = client.pre_vote(request, option).await;
        assert!(matches!(vote, Err(RPCError::Unreachable(_))), "{vote:?}");
    }
}
