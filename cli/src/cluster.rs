//! The cluster behind a name server of Hearth: what its nodes say of themselves, and changes of its
//! membership, by the methods of one more Pyro object.

use std::collections::BTreeMap;
use std::fmt;

use hearth_wire::Value;
use hearth_wire::repr::text;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{ClientError, Connection};

/// The object that every node of Hearth has beside its name server.
pub const CLUSTER: &str = "Hearth.Cluster";

/// What a node is to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It orders all writes.
    Leader,
    /// A voter that follows the leader.
    Follower,
    /// It follows and has no vote.
    Learner,
    /// A voter that wants to lead.
    Candidate,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
            Self::Candidate => "candidate",
        })
    }
}

/// All members, as one node sees them. Whatever the server tells beyond these fields is in `more`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    #[serde(default)]
    pub cluster: String,
    /// Its identity, in hexadecimal digits.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// The node that was asked.
    #[serde(default)]
    pub answered_by: Option<u64>,
    /// The leader, if the node knows one.
    pub leader: Option<u64>,
    /// The term that the node is in.
    pub term: u64,
    /// The members, by number.
    pub members: Vec<MemberStatus>,
    /// Other items.
    #[serde(flatten)]
    pub more: BTreeMap<String, Json>,
}

/// One member. All but its number and address is absent while it does not answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its number.
    pub id: u64,
    /// `HOST:PORT` for the other nodes.
    pub peer_addr: Option<String>,
    /// `HOST:PORT` for clients.
    #[serde(default)]
    pub ns_addr: Option<String>,
    /// What it is.
    #[serde(default)]
    pub role: Option<Role>,
    /// Whether it votes.
    #[serde(default)]
    pub voter: bool,
    /// Index of the last log entry that it has applied.
    #[serde(default)]
    pub last_applied: Option<u64>,
    /// Index of the last entry of its log.
    #[serde(default)]
    pub last_log_index: Option<u64>,
    /// Entries that the leader does not know it to have.
    #[serde(default)]
    pub lag: Option<u64>,
    /// Hash of its state: equal on all nodes whose `last_applied` is equal.
    #[serde(default)]
    pub state_hash: Option<String>,
    /// Names that it holds.
    #[serde(default)]
    pub name_count: Option<u64>,
    /// Version of its program.
    #[serde(default)]
    pub version: Option<String>,
    /// Whether it could serve reads and writes.
    #[serde(default)]
    pub ready: Option<bool>,
    /// What a person should look at.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// Whether it answered the node that was asked.
    #[serde(default)]
    pub reachable: bool,
    /// Why it did not.
    #[serde(default)]
    pub error: Option<String>,
    /// A learner that becomes a voter when it has caught up.
    #[serde(default)]
    pub promotes_itself: bool,
    /// Other items, such as `snapshot_index`, `purged_index` and `disk_free`.
    #[serde(flatten)]
    pub more: BTreeMap<String, Json>,
}

/// A member as the membership has it, without a question to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub id: u64,
    /// `HOST:PORT` for the other nodes.
    pub peer_addr: Option<String>,
    /// Whether it votes.
    pub voter: bool,
    /// A learner that becomes a voter when it has caught up.
    #[serde(default)]
    pub promotes_itself: bool,
    /// Other items.
    #[serde(flatten)]
    pub more: BTreeMap<String, Json>,
}

/// Whether the node that was asked can serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Nothing is wrong.
    pub healthy: bool,
    /// It could serve reads and writes.
    #[serde(default)]
    pub ready: Option<bool>,
    /// The leader that it knows.
    pub leader: Option<u64>,
    /// What a person should look at.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// Why it is not healthy, as a sentence.
    #[serde(default)]
    pub reason: Option<String>,
    /// Other items.
    #[serde(flatten)]
    pub more: BTreeMap<String, Json>,
}

/// The cluster's methods, over a connection to any of its nodes.
///
/// Besides the trouble that every call may have, each fails with [`ClientError::NotHearth`] at another
/// program's name server, and with a `NamingError` whose text begins with `refused: `,
/// `unknown member: `, `no quorum: ` or `outcome unknown: `. Only the last one leaves open whether a
/// change was made, as does the end of the connection.
///
/// ```no_run
/// use hearth_cli::{Cluster, Config, locate_ns};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut name_server = locate_ns(None, None, &Config::default()).await?;
/// let status = Cluster::on(name_server.connection().await?).status().await?;
/// println!("{} members, leader {:?}", status.members.len(), status.leader);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Cluster<'c> {
    connection: &'c mut Connection,
}

impl<'c> Cluster<'c> {
    /// The cluster of the node at the other end, whatever object was named when connecting.
    pub fn on(connection: &'c mut Connection) -> Self {
        Self { connection }
    }

    /// All members and what they say of themselves. Needs no quorum.
    ///
    /// # Errors
    /// As described at [`Cluster`], which holds for all methods.
    pub async fn status(&mut self) -> Result<ClusterStatus, ClientError> {
        self.ask("status", vec![]).await
    }

    /// The membership as the node has it.
    pub async fn members(&mut self) -> Result<Vec<Member>, ClientError> {
        self.ask("members", vec![]).await
    }

    /// Whether the node can serve.
    pub async fn health(&mut self) -> Result<Health, ClientError> {
        self.ask("health", vec![]).await
    }

    /// Reserves the number of a node that is to join: this one, or the next free one.
    pub async fn add(&mut self, node_id: Option<u64>) -> Result<u64, ClientError> {
        self.ask("add", vec![("node_id", number(node_id))]).await
    }

    /// Makes a learner a voter.
    pub async fn promote(&mut self, node_id: u64) -> Result<(), ClientError> {
        let arguments = vec![("node_id", number(Some(node_id)))];
        self.call("promote", arguments).await.map(drop)
    }

    /// Removes a member, which then stops. With `force` also when fewer of the remaining voters answer
    /// than a majority needs.
    pub async fn remove(&mut self, node_id: u64, force: bool) -> Result<(), ClientError> {
        let arguments = vec![
            ("node_id", number(Some(node_id))),
            ("force", Value::Bool(force)),
        ];
        self.call("remove", arguments).await.map(drop)
    }

    /// Hands leadership to this voter, or to the one that is furthest; returns who leads then.
    pub async fn transfer_leader(&mut self, node_id: Option<u64>) -> Result<u64, ClientError> {
        let arguments = vec![("node_id", number(node_id))];
        self.ask("transfer_leader", arguments).await
    }

    /// Calls a method and reads its reply.
    async fn ask<T: DeserializeOwned>(
        &mut self,
        method: &str,
        arguments: Vec<(&str, Value)>,
    ) -> Result<T, ClientError> {
        let reply = self.call(method, arguments).await?;
        serde_json::from_value(json(&reply)).map_err(|error| ClientError::Unexpected {
            address: self.connection.address().clone(),
            method: method.to_owned(),
            found: format!("{} ({error})", reply.type_name()),
        })
    }

    async fn call(
        &mut self,
        method: &str,
        arguments: Vec<(&str, Value)>,
    ) -> Result<Value, ClientError> {
        let arguments = arguments
            .into_iter()
            .filter(|(_, value)| *value != Value::None)
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let reply = self.connection.call(CLUSTER, method, vec![], arguments);
        reply.await.map_err(|error| match error {
            ClientError::Remote { address, exception } if is_unknown_object(&exception) => {
                ClientError::NotHearth { address }
            }
            error => error,
        })
    }
}

/// How Pyro's daemons, and ours, speak of an object that they do not have.
fn is_unknown_object(exception: &hearth_wire::Exception) -> bool {
    exception.class.name() == "DaemonError" && exception.text().starts_with("unknown object")
}

/// A member's number; one that no 64-bit int of Python's side holds is no member's.
fn number(node_id: Option<u64>) -> Value {
    node_id.map_or(Value::None, |node_id| {
        Value::Int(i64::try_from(node_id).unwrap_or(i64::MAX))
    })
}

/// A reply's plain data. Whatever JSON has no form for becomes the text that Python prints.
fn json(value: &Value) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Bool(bool) => Json::Bool(*bool),
        Value::Int(int) => Json::from(*int),
        Value::Float(float) => Json::from(*float),
        Value::Str(text) => Json::from(text.as_str()),
        Value::List(items) | Value::Tuple(items) => items.iter().map(json).collect(),
        Value::Set(items) | Value::FrozenSet(items) => items.iter().map(json).collect(),
        Value::Dict(items) => items
            .iter()
            .map(|(key, value)| (text(key), json(value)))
            .collect(),
        other => Json::from(text(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(items: &[(&str, Value)]) -> Value {
        let items = items.iter().cloned();
        Value::Dict(items.map(|(key, value)| (key.into(), value)).collect())
    }

    #[test]
    fn what_a_newer_server_adds_is_kept() {
        let member = dict(&[
            ("id", Value::Int(1)),
            ("peer_addr", "h:9092".into()),
            ("role", "leader".into()),
            ("disk_free", Value::Int(1 << 40)),
            ("alarms", Value::Tuple(vec!["disk nearly full".into()])),
        ]);
        let status = dict(&[
            ("leader", Value::Int(1)),
            ("term", Value::Int(7)),
            ("members", Value::List(vec![member])),
            ("epoch", Value::Int(3)),
        ]);
        let status: ClusterStatus = serde_json::from_value(json(&status)).expect("a status");
        assert_eq!(status.members[0].role, Some(Role::Leader));
        assert_eq!(status.members[0].alarms, ["disk nearly full"]);
        assert_eq!(status.members[0].more["disk_free"], Json::from(1_u64 << 40));
        let printed = serde_json::to_value(&status).expect("json");
        assert_eq!(printed["epoch"], Json::from(3));
        assert_eq!(printed["members"][0]["disk_free"], Json::from(1_u64 << 40));
        assert_eq!(printed["members"][0]["last_applied"], Json::Null);
    }
}
