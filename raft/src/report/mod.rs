//! The status report of this node, and the cluster status that it gathers from all members.

pub(crate) mod divergence;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::{RaftMetrics, ServerState};

use hearth_storage::{Registry, StoreError, Summary};

use crate::codec::{self, Identity};
use crate::disk_space::Disk;
use crate::membership::lag;
use crate::report::divergence::{Found, Held, divergences};
use crate::rpc::Peers;
use crate::rpc::handshake::PROTOCOL;
use crate::rpc::message::{Request, Response};
use crate::status::{ClusterStatus, MemberInfo, MemberStatus, NodeReport, Role};
use crate::store::{Raft, snapshot};
use crate::types::TypeConfig;

/// Interval at which a leader compares the states of all members.
const COMPARE_INTERVAL: Duration = Duration::from_secs(20);

/// Limit on the wait for each member's report.
const REPORT_DURATION_MAX: Duration = Duration::from_secs(2);

/// Reports on this node, and asks the other members for their reports.
pub(crate) struct Reporter {
    pub(crate) me: Identity,
    pub(crate) ns_addr: String,
    pub(crate) raft: Raft,
    pub(crate) peers: Peers,
    pub(crate) registry: Registry,
    pub(crate) disk: Arc<Disk>,
    /// Differences between the states of members that this node has found.
    pub(crate) found: Found,
    /// Returns true if this node could serve now.
    pub(crate) is_ready: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Reporter {
    /// Returns the report on this node. Reads a little from the disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn report(&self) -> Result<NodeReport, StoreError> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let (last_applied, summary) = applied(&self.registry)?;
        Ok(NodeReport {
            id: self.me.node_id,
            ns_addr: self.ns_addr.clone(),
            role: role(&metrics),
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0).max(last_applied),
            last_applied,
            state_hash: format!("{:032x}", summary.hash.0),
            name_count: summary.entry_count,
            snapshot_index: metrics.snapshot.map(|id| id.index),
            purged_index: metrics.purged.map(|id| id.index),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            disk_free: self.disk.free(),
            alarms: [self.disk.alarms(), self.found.alarms()].concat(),
            ready: (self.is_ready)(),
        })
    }

    /// Returns the cluster's identity as 32 hexadecimal digits.
    pub(crate) fn cluster_id(&self) -> String {
        format!("{:032x}", self.me.cluster_id)
    }

    /// Returns all members according to this node's log.
    pub(crate) fn members(&self) -> Vec<MemberInfo> {
        members(&self.raft.metrics().borrow_watched())
    }

    /// Asks all members for their reports at once, each within `timeout`, and returns the cluster's status.
    pub(crate) async fn cluster_status(&self, timeout: Duration) -> ClusterStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let infos = members(&metrics);
        let reports = join_all(infos.into_iter().map(|member| async {
            let report = self.report_of(member.id, timeout).await;
            (member, report)
        }))
        .await;
        let leader = metrics.current_leader;
        let leader_last = reports.iter().find_map(|(member, report)| {
            let is_leader = Some(member.id) == leader;
            is_leader.then(|| report.as_ref().ok().map(|report| report.last_log_index))?
        });
        let alarms = divergences(reports.iter().filter_map(|(member, report)| {
            let report = report.as_ref().ok()?;
            let protocol = match member.id {
                id if id == self.me.node_id => PROTOCOL,
                id => self.peers.protocol(id),
            };
            Some(Held {
                node_id: member.id,
                program: (&report.version, protocol),
                index: report.last_applied,
                hash: &report.state_hash,
            })
        }));
        let status = |(member, report): (MemberInfo, Result<NodeReport, String>)| {
            let (report, unreachable) = match report {
                Ok(report) => (Some(report), None),
                Err(reason) => (None, Some(reason)),
            };
            let behind = || Some(leader_last?.saturating_sub(report.as_ref()?.last_log_index));
            MemberStatus {
                lag: lag(&metrics, member.id).or_else(behind),
                member,
                report,
                unreachable,
            }
        };
        ClusterStatus {
            cluster_name: self.me.cluster_name.clone(),
            cluster_id: self.cluster_id(),
            answered_by: self.me.node_id,
            leader,
            term: metrics.current_term,
            members: reports.into_iter().map(status).collect(),
            alarms,
        }
    }

    async fn report_of(&self, id: u64, timeout: Duration) -> Result<NodeReport, String> {
        if id == self.me.node_id {
            return self.report().map_err(|error| error.to_string());
        }
        match self.peers.call(id, Request::Report, timeout).await {
            Ok(Response::Report(report)) => Ok(*report),
            Ok(Response::Unavailable(reason)) => Err(reason),
            Ok(_) => Err(format!("node {id} answers something else")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Returns the index that was applied last and the summary of the state at that index. Both come from one view,
/// so that the hash belongs to the index.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn applied(registry: &Registry) -> Result<(u64, Summary), StoreError> {
    let view = registry.snapshot()?;
    let header = view.header();
    let index = match header.meta.get(snapshot::LAST_APPLIED) {
        Some(bytes) => codec::decode_log_id(bytes)?.index,
        None => 0,
    };
    Ok((index, header.summary))
}

/// Returns the members according to this node's log.
fn members(metrics: &RaftMetrics<TypeConfig>) -> Vec<MemberInfo> {
    let membership = metrics.membership_config.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let member = |(&id, member): (&u64, &crate::types::Member)| {
        let voter = voters.contains(&id);
        MemberInfo {
            id,
            peer_addr: member.peer_addr.clone(),
            voter,
            promotes_itself: member.promotes_itself && !voter,
        }
    };
    membership.nodes().map(member).collect()
}

fn role(metrics: &RaftMetrics<TypeConfig>) -> Role {
    match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner | ServerState::Shutdown => Role::Learner,
    }
}

/// Compares the states of all members periodically while this node leads. Never returns.
pub(crate) async fn watch_divergence(reporter: Arc<Reporter>) {
    loop {
        tokio::time::sleep(COMPARE_INTERVAL).await;
        let leads = {
            let metrics = reporter.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.current_leader == Some(reporter.me.node_id)
        };
        if !leads {
            reporter.found.set(Vec::new());
            continue;
        }
        let status = reporter.cluster_status(REPORT_DURATION_MAX).await;
        for alarm in &status.alarms {
            tracing::error!("nodes differ: {alarm}");
        }
        // The findings stay until all members have been seen with the same state.
        if !status.alarms.is_empty() || are_at_one_index(&status) {
            reporter.found.set(status.alarms);
        }
    }
}

fn are_at_one_index(status: &ClusterStatus) -> bool {
    let mut indexes = status.members.iter().map(|member| {
        let report = member.report.as_ref();
        report.map(|report| report.last_applied)
    });
    let first = indexes.next().flatten();
    first.is_some() && indexes.all(|index| index == first)
}
