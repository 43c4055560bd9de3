//! The `cluster status` command.

use clap::Args;
use hearth_cli::{Cluster, ClusterStatus, MemberStatus};

use super::{leader_text, or_absent, yes_or_no};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::{Effect, Session};

/// Number of digits of a state hash that are shown. They suffice to tell states apart at a glance.
const HASH_LEN_SHOWN: usize = 12;

const EXAMPLES: &str = "\
Examples:
  nsctl cluster status
  nsctl -o json cluster status | jq '.members[] | select(.reachable | not) | .id'

Shows what the node that is asked learns from the others; it needs no quorum. LAG is how many log
entries a node is behind the leader. HASH stands for the names that a node holds: equal on all nodes
that have APPLIED the same entry.

JSON: {\"leader\": 1, \"term\": 7, \"members\": [{\"id\": 1, \"peer_addr\": \"a:9092\",
\"ns_addr\": \"a:9090\", \"role\": \"leader\", \"voter\": true, \"last_applied\": 42, ...}], ...}";

/// Show every node's role and state
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Status {}

impl Status {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome, Failure> {
        let work = async |cluster: &mut Cluster<'_>| Ok(cluster.status().await?);
        let status = session.on_cluster(Effect::Reads, work).await?;
        Ok(outcome(&status))
    }
}

fn outcome(status: &ClusterStatus) -> Outcome {
    let seen_by = status
        .answered_by
        .map_or_else(String::new, |id| format!(", as node {id} sees it"));
    Outcome::Table {
        heading: Some(format!(
            "cluster {}, {}, term {}{seen_by}",
            status.cluster,
            leader_text(status.leader),
            status.term
        )),
        columns: vec![
            "ID", "ROLE", "VOTER", "STATE", "APPLIED", "LAG", "NAMES", "HASH", "VERSION", "PEERS",
            "CLIENTS",
        ],
        rows: status.members.iter().map(row).collect(),
        notes: notes(status),
        json: serde_json::to_value(status).unwrap_or_default(),
    }
}

fn row(member: &MemberStatus) -> Vec<String> {
    let state = match (member.reachable, member.ready) {
        (false, _) => "unreachable",
        (true, Some(false)) => "not ready",
        (true, _) => "ready",
    };
    let hash = member.state_hash.as_ref();
    vec![
        member.id.to_string(),
        or_absent(member.role),
        yes_or_no(member.voter),
        state.into(),
        or_absent(member.last_applied),
        or_absent(member.lag),
        or_absent(member.name_count),
        or_absent(hash.map(|hash| hash.chars().take(HASH_LEN_SHOWN).collect::<String>())),
        or_absent(member.version.as_ref()),
        or_absent(member.peer_addr.as_ref()),
        or_absent(member.ns_addr.as_ref()),
    ]
}

/// Information that does not fit the columns: errors, alarms, pending promotions and differing
/// states.
fn notes(status: &ClusterStatus) -> Vec<String> {
    let mut notes = Vec::new();
    for member in &status.members {
        if !member.reachable {
            let reason = member.error.as_deref().unwrap_or("no reason given");
            notes.push(format!("node {} does not answer: {reason}", member.id));
        }
        for alarm in &member.alarms {
            notes.push(format!("node {}: {alarm}", member.id));
        }
        if member.promotes_itself && !member.voter {
            notes.push(format!(
                "node {} becomes a voter when it has caught up",
                member.id
            ));
        }
    }
    for (index, member) in status.members.iter().enumerate() {
        for other in status.members.iter().skip(index + 1) {
            if let Some(entry) = differ(member, other) {
                notes.push(format!(
                    "nodes {} and {} hold different names after the same entry {entry}: \
                     one of them is damaged; keep both folders and report this",
                    member.id, other.id
                ));
            }
        }
    }
    notes
}

/// Returns the last applied log entry of both members if their state hashes differ after it.
fn differ(one: &MemberStatus, other: &MemberStatus) -> Option<u64> {
    let (hash, other_hash) = (one.state_hash.as_ref()?, other.state_hash.as_ref()?);
    let applied = one.last_applied?;
    (other.last_applied == Some(applied) && hash != other_hash).then_some(applied)
}
