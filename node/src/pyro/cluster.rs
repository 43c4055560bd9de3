//! The object `Hearth.Cluster`: what a client can ask about the nodes behind this name server, and how
//! they are changed.
//!
//! It stands beside the two objects of the original and, unlike them, in none of their lists. Its results
//! are plain dicts, lists and numbers, so that any proxy of either family can read them. A failure is a
//! `NamingError` whose text begins with `denied: `, `refused: `, `unknown member: `, `no quorum: ` or
//! `outcome unknown: `.
//!
//! Everybody may look. Changes, and snapshots of everything, are for administrators ([`Caller::admin_right`]), and the log says of each
//! who asked for it; `challenge` and `authorize` make one of a client that has a key of the cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_raft::{
    ClusterChange, ClusterError, ClusterReply, ClusterStatus, MemberInfo, MemberStatus, Replica,
};
use hearth_wire::{Exception, NamingErrorKind, Value};

use super::Front;
use super::arguments::Arguments;
use super::caller::{AdminRight, Caller, ProofError};
use super::object::Method;
use super::reads::ReadPolicy;
use super::snapshots;

/// How long each of the other nodes may take to tell how it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a change may take before its client is told that it failed.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);

const TOO_MANY_PROOFS: &str = "too many wrong proofs on this connection; open another one";

/// Runs a method on arguments that were bound to its signature.
///
/// # Errors
/// `NamingError` as described above; `TypeError` for arguments of the wrong type.
pub(super) async fn call(
    front: &Front,
    caller: &mut Caller,
    method: Method,
    arguments: &mut Arguments,
) -> Result<Value, Exception> {
    let replica = &front.replica;
    match method {
        Method::ClusterStatus => Ok(status(&ask_all(replica).await?)),
        Method::ClusterMembers => {
            let members = replica.members().map_err(failure)?;
            Ok(Value::List(members.iter().map(member).collect()))
        }
        Method::ClusterHealth => {
            let status = ask_all(replica).await?;
            Ok(health(&status, replica.is_ready(), &front.reads))
        }
        Method::ClusterChallenge => challenge(front, caller),
        Method::ClusterAuthorize => authorize(front, caller, &arguments.required(0)),
        Method::ClusterAdd => {
            let id = node_id_or_none("add", arguments.or_none(0))?;
            change(front, caller, ClusterChange::Reserve { id }).await
        }
        Method::ClusterPromote => {
            let id = node_id("promote", arguments.required(0))?;
            change(front, caller, ClusterChange::Promote { id }).await
        }
        Method::ClusterRemove => {
            let id = node_id("remove", arguments.required(0))?;
            change(front, caller, ClusterChange::Remove { id }).await
        }
        Method::ClusterTransferLeader => {
            let to = node_id_or_none("transfer_leader", arguments.or_none(0))?;
            change(front, caller, ClusterChange::TransferLeader { to }).await
        }
        Method::ClusterSnapshotBegin => {
            let right = admit_snapshot(front, caller)?;
            tracing::info!(peer = %caller.peer(), %right, "an administrator saves a snapshot");
            front.snapshots.begin(&front.replica).await
        }
        Method::ClusterSnapshotPiece => {
            admit_snapshot(front, caller)?;
            let id = snapshot_id("snapshot_piece", &arguments.required(0))?;
            let number = match arguments.required(1) {
                Value::Int(number @ 0..) => number.unsigned_abs(),
                other => {
                    return Err(Exception::type_error(format!(
                        "snapshot_piece() argument number must be int, 0 or more, not {}",
                        other.type_name()
                    )));
                }
            };
            let all = Arc::clone(&front.snapshots);
            let piece = front.heavy.run(move || all.piece(&id, number)).await?;
            Ok(snapshots::bytes(&piece))
        }
        Method::ClusterSnapshotEnd => {
            admit_snapshot(front, caller)?;
            let id = snapshot_id("snapshot_end", &arguments.required(0))?;
            front.snapshots.end(&id);
            Ok(Value::None)
        }
        _ => Ok(Value::None),
    }
}

fn snapshot_id(method: &str, value: &Value) -> Result<String, Exception> {
    value.as_str().map(str::to_owned).ok_or_else(|| {
        Exception::type_error(format!(
            "{method}() argument id must be str, not {}",
            value.type_name()
        ))
    })
}

async fn ask_all(replica: &Replica) -> Result<ClusterStatus, Exception> {
    replica
        .cluster_status(STATUS_TIMEOUT)
        .await
        .map_err(failure)
}

fn challenge(front: &Front, caller: &mut Caller) -> Result<Value, Exception> {
    if front.config.cluster_keys.is_empty() {
        return Err(denied(
            "this node has no cluster key (--cluster-key-file) that could be proved; ask it from its own \
             machine",
        ));
    }
    let nonce = caller.challenge();
    nonce.map(text).ok_or_else(|| denied(TOO_MANY_PROOFS))
}

fn authorize(front: &Front, caller: &mut Caller, proof: &Value) -> Result<Value, Exception> {
    let Some(proof) = proof.as_str() else {
        return Err(Exception::type_error(format!(
            "authorize() argument proof must be str, not {}",
            proof.type_name()
        )));
    };
    let cluster_id = front.replica.cluster_id().map_err(failure)?;
    match caller.authorize(&front.config.cluster_keys, &cluster_id, proof) {
        Ok(()) => Ok(Value::None),
        Err(error) => {
            front.drops.note_denial(&caller.peer(), &"authorize");
            Err(denied(match error {
                ProofError::NoChallenge => {
                    "no challenge is open; each is good for one proof, on the connection that asked for it"
                }
                ProofError::Wrong => {
                    "this proves no key of this cluster; use the file that its nodes have \
                     (--cluster-key-file), and a new challenge"
                }
                ProofError::TooMany => TOO_MANY_PROOFS,
            }))
        }
    }
}

fn denied(reason: &str) -> Exception {
    Exception::naming_of(NamingErrorKind::Denied, reason)
}

/// The right by which `caller` may do what is for administrators.
fn admit(
    front: &Front,
    caller: &Caller,
    call: &impl std::fmt::Display,
    what: &str,
) -> Result<AdminRight, Exception> {
    caller.admin_right().ok_or_else(|| {
        front.drops.note_denial(&caller.peer(), call);
        denied(&format!(
            "{what} from a node's own machine, with the HMAC key, or with proof of the cluster key: nsctl \
             --cluster-key-file FILE, or challenge() and authorize()"
        ))
    })
}

fn admit_snapshot(front: &Front, caller: &Caller) -> Result<AdminRight, Exception> {
    admit(front, caller, &"snapshot", "a snapshot is saved")
}

async fn change(front: &Front, caller: &Caller, change: ClusterChange) -> Result<Value, Exception> {
    let (peer, call) = (caller.peer(), call_text(&change));
    let right = admit(front, caller, &call, "the cluster is changed")?;
    tracing::warn!(%peer, %right, %call, "an administrator changes the cluster");
    let deadline = Instant::now() + CHANGE_DEADLINE;
    match front.replica.change_cluster(change, deadline).await {
        Ok(ClusterReply::Reserved(id) | ClusterReply::LeaderIs(id)) => Ok(number(id)),
        Ok(ClusterReply::Done) => Ok(Value::None),
        Err(error) => Err(failure(error)),
    }
}

/// As a client would write it.
fn call_text(change: &ClusterChange) -> String {
    let id = |id: &Option<u64>| id.map(|id| id.to_string()).unwrap_or_default();
    match change {
        ClusterChange::Reserve { id: wanted } => format!("add({})", id(wanted)),
        ClusterChange::Promote { id } => format!("promote({id})"),
        ClusterChange::Remove { id } => format!("remove({id})"),
        ClusterChange::TransferLeader { to } => format!("transfer_leader({})", id(to)),
    }
}

fn failure(error: ClusterError) -> Exception {
    match error {
        ClusterError::UnknownMember(id) => Exception::naming_of(NamingErrorKind::UnknownMember, id),
        ClusterError::NoQuorum(reason) => Exception::naming_of(NamingErrorKind::NoQuorum, reason),
        ClusterError::Unknown(reason) => {
            Exception::naming_of(NamingErrorKind::OutcomeUnknown, reason)
        }
        other => Exception::naming_of(NamingErrorKind::Refused, other),
    }
}

fn status(status: &ClusterStatus) -> Value {
    dict([
        ("cluster", text(&status.cluster_name)),
        ("cluster_id", text(&status.cluster_id)),
        ("answered_by", number(status.answered_by)),
        ("leader", number_or_none(status.leader)),
        ("term", number(status.term)),
        (
            "members",
            Value::List(status.members.iter().map(member_status).collect()),
        ),
    ])
}

fn member(member: &MemberInfo) -> Value {
    dict([
        ("id", number(member.id)),
        ("peer_addr", text(&member.peer_addr)),
        ("voter", Value::Bool(member.voter)),
        ("promotes_itself", Value::Bool(member.promotes_itself)),
    ])
}

fn member_status(status: &MemberStatus) -> Value {
    let report = status.report.as_ref();
    let told = |value: Option<Value>| value.unwrap_or(Value::None);
    let alarms = report.map(|report| report.alarms.as_slice());
    dict([
        ("id", number(status.member.id)),
        ("peer_addr", text(&status.member.peer_addr)),
        ("ns_addr", told(report.map(|report| text(&report.ns_addr)))),
        (
            "role",
            told(report.map(|report| text(&report.role.to_string()))),
        ),
        ("voter", Value::Bool(status.member.voter)),
        (
            "promotes_itself",
            Value::Bool(status.member.promotes_itself),
        ),
        (
            "last_applied",
            number_or_none(report.map(|report| report.last_applied)),
        ),
        (
            "last_log_index",
            number_or_none(report.map(|report| report.last_log_index)),
        ),
        ("lag", number_or_none(status.lag)),
        (
            "state_hash",
            told(report.map(|report| text(&report.state_hash))),
        ),
        (
            "name_count",
            number_or_none(report.map(|report| report.name_count)),
        ),
        (
            "snapshot_index",
            number_or_none(report.and_then(|report| report.snapshot_index)),
        ),
        (
            "purged_index",
            number_or_none(report.and_then(|report| report.purged_index)),
        ),
        ("version", told(report.map(|report| text(&report.version)))),
        (
            "disk_free",
            number_or_none(report.and_then(|report| report.disk_free)),
        ),
        (
            "ready",
            Value::Bool(report.is_some_and(|report| report.ready)),
        ),
        ("alarms", texts(alarms.unwrap_or_default())),
        ("reachable", Value::Bool(report.is_some())),
        ("error", told(status.unreachable.as_deref().map(text))),
    ])
}

/// What is wrong with the cluster, as this node sees it.
fn health(status: &ClusterStatus, ready: bool, reads: &ReadPolicy) -> Value {
    let mut alarms = status.alarms.clone();
    let mut reasons = Vec::new();
    let mut absences = Vec::new();
    if !ready {
        reasons.push(match status.leader {
            Some(leader) => format!(
                "node {} cannot serve: it waits for node {leader}, the leader",
                status.answered_by
            ),
            None => format!(
                "node {} cannot serve: it knows no leader",
                status.answered_by
            ),
        });
    }
    if reads.is_cut_off() {
        alarms.push(format!(
            "node {} answers from its own copy, because it reaches no majority; {} answers since its start",
            status.answered_by,
            reads.unconfirmed_count()
        ));
    }
    for member in &status.members {
        let id = member.member.id;
        match (&member.report, &member.unreachable) {
            (Some(report), _) => {
                alarms.extend(
                    report
                        .alarms
                        .iter()
                        .map(|alarm| format!("node {id}: {alarm}")),
                );
            }
            (None, unreachable) => {
                let why = unreachable.as_deref().unwrap_or("no reason is known");
                // A machine that runs Pyro programs may be switched off at night, and nobody depends on the
                // learner on it.
                if member.member.voter {
                    reasons.push(format!("node {id} does not answer: {why}"));
                } else {
                    absences.push(format!("node {id}, a learner, does not answer: {why}"));
                }
            }
        }
    }
    reasons.extend(alarms.iter().cloned());
    alarms.append(&mut absences);
    dict([
        ("healthy", Value::Bool(reasons.is_empty())),
        ("ready", Value::Bool(ready)),
        ("leader", number_or_none(status.leader)),
        ("alarms", texts(&alarms)),
        ("reason", text(&reasons.join("; "))),
    ])
}

/// An argument that names a node.
fn node_id(method: &str, value: Value) -> Result<u64, Exception> {
    match value {
        Value::Int(id @ 1..) => Ok(id.unsigned_abs()),
        Value::Int(id) => Err(Exception::naming_of(
            NamingErrorKind::Refused,
            format!("invalid node id {id}: expected 1 or more"),
        )),
        other => Err(Exception::type_error(format!(
            "{method}() argument node_id must be int, not {}",
            other.type_name()
        ))),
    }
}

fn node_id_or_none(method: &str, value: Value) -> Result<Option<u64>, Exception> {
    match value {
        Value::None => Ok(None),
        value => node_id(method, value).map(Some),
    }
}

fn dict<const N: usize>(items: [(&str, Value); N]) -> Value {
    Value::Dict(
        items
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect(),
    )
}

fn text(text: &str) -> Value {
    text.into()
}

fn texts(texts: &[String]) -> Value {
    Value::List(texts.iter().map(|item| text(item)).collect())
}

fn number(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn number_or_none(value: Option<u64>) -> Value {
    value.map_or(Value::None, number)
}

#[cfg(test)]
mod tests {
    use hearth_raft::{NodeReport, Role};

    use super::*;

    fn item<'a>(value: &'a Value, key: &str) -> &'a Value {
        let Value::Dict(items) = value else {
            panic!("no dict: {value:?}");
        };
        let found = items.iter().find(|(name, _)| name.as_str() == Some(key));
        &found.unwrap_or_else(|| panic!("no {key} in {items:?}")).1
    }

    fn member_of(id: u64) -> MemberInfo {
        MemberInfo {
            id,
            peer_addr: format!("h{id}:9092"),
            voter: true,
            promotes_itself: false,
        }
    }

    fn report(id: u64) -> NodeReport {
        NodeReport {
            id,
            ns_addr: format!("h{id}:9090"),
            role: Role::Follower,
            leader: Some(2),
            term: 3,
            last_log_index: 11,
            last_applied: 10,
            state_hash: "00ff".to_owned(),
            name_count: 4,
            snapshot_index: None,
            purged_index: Some(5),
            version: "1.0".to_owned(),
            disk_free: Some(1 << 40),
            alarms: vec!["the disk is nearly full".to_owned()],
            ready: true,
        }
    }

    #[test]
    fn a_status_says_all_and_leaves_out_what_is_not_known() {
        let members = vec![
            MemberStatus {
                member: member_of(1),
                report: Some(report(1)),
                unreachable: None,
                lag: Some(0),
            },
            MemberStatus {
                member: member_of(2),
                report: None,
                unreachable: Some("connection refused".to_owned()),
                lag: None,
            },
        ];
        let value = status(&ClusterStatus {
            cluster_name: "hearth".to_owned(),
            cluster_id: "ab".to_owned(),
            answered_by: 1,
            leader: None,
            term: 3,
            members,
            alarms: Vec::new(),
        });
        assert_eq!(*item(&value, "leader"), Value::None);
        assert_eq!(*item(&value, "term"), Value::Int(3));
        let Value::List(members) = item(&value, "members") else {
            panic!("a list");
        };
        let [first, second] = members.as_slice() else {
            panic!("two members");
        };
        for (key, expected) in [
            ("ns_addr", "h1:9090".into()),
            ("role", "follower".into()),
            ("voter", Value::Bool(true)),
            ("last_applied", Value::Int(10)),
            ("snapshot_index", Value::None),
            ("purged_index", Value::Int(5)),
            ("disk_free", Value::Int(1 << 40)),
            (
                "alarms",
                Value::List(vec!["the disk is nearly full".into()]),
            ),
            ("reachable", Value::Bool(true)),
            ("error", Value::None),
        ] {
            assert_eq!(*item(first, key), expected, "{key}");
        }
        for (key, expected) in [
            ("peer_addr", "h2:9092".into()),
            ("ns_addr", Value::None),
            ("role", Value::None),
            ("state_hash", Value::None),
            ("ready", Value::Bool(false)),
            ("alarms", Value::List(Vec::new())),
            ("reachable", Value::Bool(false)),
            ("error", "connection refused".into()),
        ] {
            assert_eq!(*item(second, key), expected, "{key}");
        }
    }

    #[test]
    fn nodes_that_hold_different_states_are_not_healthy() {
        let member_status = |id| MemberStatus {
            member: member_of(id),
            report: Some(NodeReport {
                alarms: Vec::new(),
                ..report(id)
            }),
            unreachable: None,
            lag: Some(0),
        };
        let mut status = ClusterStatus {
            cluster_name: "hearth".to_owned(),
            cluster_id: "ab".to_owned(),
            answered_by: 1,
            leader: Some(2),
            term: 3,
            members: vec![member_status(1), member_status(2)],
            alarms: Vec::new(),
        };
        let reads = ReadPolicy::new(super::super::ReadMode::Linearizable, Duration::ZERO);
        assert_eq!(
            *item(&health(&status, true, &reads), "healthy"),
            Value::Bool(true)
        );
        let alarm = "at log index 10 node 1 the state aa, node 2 the state bb";
        status.alarms.push(alarm.to_owned());
        let value = health(&status, true, &reads);
        assert_eq!(*item(&value, "healthy"), Value::Bool(false));
        assert_eq!(*item(&value, "reason"), alarm.into());
        assert_eq!(*item(&value, "alarms"), Value::List(vec![alarm.into()]));
    }

    #[test]
    fn failures_begin_with_what_other_programs_go_by() {
        for (error, start) in [
            (ClusterError::Refused("why".into()), "refused: why"),
            (ClusterError::Alone, "refused: this node runs alone"),
            (ClusterError::UnknownMember(7), "unknown member: 7"),
            (ClusterError::NoQuorum("x".into()), "no quorum: x"),
            (ClusterError::Unknown("x".into()), "outcome unknown: x"),
        ] {
            let text = failure(error).text();
            assert!(text.starts_with(start), "{text}");
        }
    }

    #[test]
    fn a_node_is_named_by_a_positive_number() {
        assert_eq!(node_id("remove", Value::Int(3)), Ok(3));
        assert_eq!(node_id_or_none("add", Value::None), Ok(None));
        let refused = node_id("remove", Value::Int(0)).expect_err("no such number");
        assert!(refused.text().starts_with("refused: "));
        for value in [
            Value::Bool(true),
            "3".into(),
            Value::Float(3.0),
            Value::None,
        ] {
            let error = node_id("remove", value).expect_err("no number");
            assert_eq!(error.class.name(), "TypeError");
        }
    }
}
