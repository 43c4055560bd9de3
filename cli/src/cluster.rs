//! The cluster behind a name server of Hearth: the state of its nodes and changes of its membership, as methods
//! of a second Pyro object.

use std::collections::BTreeMap;
use std::fmt;

use hearth_wire::repr::text;
use hearth_wire::{Value, admin};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{ClientError, Connection};

/// Id of the object that every Hearth node serves beside the name server.
pub const CLUSTER: &str = "Hearth.Cluster";

/// The Raft role of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Orders all writes.
    Leader,
    /// A voter that follows the leader.
    Follower,
    /// Follows the leader and has no vote.
    Learner,
    /// A voter that asks for votes.
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

/// All members, as one node sees them. Fields of the reply that are not listed here are in `more`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    #[serde(default)]
    pub cluster: String,
    /// The cluster's identity, in hexadecimal digits.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Id of the node that answered.
    #[serde(default)]
    pub answered_by: Option<u64>,
    /// Node id of the leader, if the node knows one.
    pub leader: Option<u64>,
    /// The node's current term.
    pub term: u64,
    /// The members, in ascending order of their node ids.
    pub members: Vec<MemberStatus>,
    /// Other items.
    #[serde(flatten)]
    pub more: BTreeMap<String, Json>,
}

/// One member. Most fields are absent if it does not answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The node id.
    pub id: u64,
    /// `HOST:PORT` for peer messages.
    pub peer_addr: Option<String>,
    /// `HOST:PORT` for clients.
    #[serde(default)]
    pub ns_addr: Option<String>,
    /// The member's role.
    #[serde(default)]
    pub role: Option<Role>,
    /// True if the member votes.
    #[serde(default)]
    pub voter: bool,
    /// Index of the last log entry that it applied.
    #[serde(default)]
    pub last_applied: Option<u64>,
    /// Index of the last entry in its log.
    #[serde(default)]
    pub last_log_index: Option<u64>,
    /// Number of entries that it may lack, as far as the leader knows.
    #[serde(default)]
    pub lag: Option<u64>,
    /// Hash of its state. It is equal on all nodes with the same `last_applied`.
    #[serde(default)]
    pub state_hash: Option<String>,
    /// Number of names that it holds.
    #[serde(default)]
    pub name_count: Option<u64>,
    /// Version of its program.
    #[serde(default)]
    pub version: Option<String>,
    /// True if it can serve reads and writes.
    #[serde(default)]
    pub ready: Option<bool>,
    /// Conditions that need an operator's attention.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// True if it answered the node that was asked.
    #[serde(default)]
    pub reachable: bool,
    /// The reason why it did not answer.
    #[serde(default)]
    pub error: Option<String>,
    /// True for a learner that becomes a voter when it has caught up.
    #[serde(default)]
    pub promotes_itself: bool,
    /// Other items, such as `snapshot_index`, `purged_index` and `disk_free`.
    #[serde(flatten)]
    pub more: BTreeMap<String, Json>,
}

/// A member as the membership lists it. The member itself is not asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The node id.
    pub id: u64,
    /// `HOST:PORT` for peer messages.
    pub peer_addr: Option<String>,
    /// True if the member votes.
    pub voter: bool,
    /// True for a learner that becomes a voter when it has caught up.
    #[serde(default)]
    pub promotes_itself: bool,
    /// Other items.
    #[serde(flatten)]
    pub more: BTreeMap<String, Json>,
}

/// The health of the node that was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// True if nothing is wrong.
    pub healthy: bool,
    /// True if it can serve reads and writes.
    #[serde(default)]
    pub ready: Option<bool>,
    /// Node id of the leader, if the node knows one.
    pub leader: Option<u64>,
    /// Conditions that need an operator's attention.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// The reason why it is not healthy, as a sentence.
    #[serde(default)]
    pub reason: Option<String>,
    /// Other items.
    #[serde(flatten)]
    pub more: BTreeMap<String, Json>,
}

/// A snapshot that is ready to be fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotBegun {
    /// The id under which its pieces are fetched.
    pub id: String,
    /// The description of the snapshot.
    #[serde(flatten)]
    pub about: SnapshotAbout,
}

/// The description of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotAbout {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's identity, in hexadecimal digits.
    pub cluster_id: String,
    /// Id of the node that created it.
    pub node: u64,
    /// Index of the last log entry in it.
    pub last_applied: u64,
    /// Number of names in it.
    pub names: u64,
    /// Hash of the state.
    pub state_hash: String,
    /// True if a majority confirmed that every acknowledged change is in it.
    #[serde(default)]
    pub confirmed: bool,
    /// Other items.
    #[serde(flatten)]
    pub more: BTreeMap<String, Json>,
}

/// The cluster's methods, called over a connection to any of its nodes.
///
/// Besides the errors that every call can have, each method fails with [`ClientError::NotHearth`] if the name
/// server is another program, and with a `NamingError` whose text begins with `denied: `, `refused: `, `unknown
/// member: `, `no quorum: ` or `outcome unknown: `. Only `outcome unknown: ` leaves open whether a change was
/// made, and so does the loss of the connection.
///
/// Changes are allowed for clients on the node's own machine, for clients with the node's HMAC key, and for
/// connections that have proved a key of the cluster ([`Cluster::prove`]).
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
    /// Creates a handle to the cluster of the node at the other end of `connection`. The object named in the
    /// handshake does not matter.
    pub fn on(connection: &'c mut Connection) -> Self {
        Self { connection }
    }

    /// Returns all members with the state that each one reports. Needs no quorum.
    ///
    /// # Errors
    /// Those of [`Cluster`], as for all methods.
    pub async fn status(&mut self) -> Result<ClusterStatus, ClientError> {
        self.ask("status", vec![]).await
    }

    /// Returns the membership as the node has it.
    pub async fn members(&mut self) -> Result<Vec<Member>, ClientError> {
        self.ask("members", vec![]).await
    }

    /// Returns the node's health.
    pub async fn health(&mut self) -> Result<Health, ClientError> {
        self.ask("health", vec![]).await
    }

    /// Proves one of `keys`, tried in this order, so that this connection may change the cluster. Returns `Ok`
    /// without a proof if the server has no key to prove or its version has no proofs; the server then decides
    /// about the change itself.
    ///
    /// # Errors
    /// [`ClientError::is_denied`] if none of them is a key of the cluster.
    pub async fn prove(&mut self, keys: &[Vec<u8>]) -> Result<(), ClientError> {
        let mut last = Ok(());
        for (index, key) in keys.iter().enumerate() {
            let nonce: String = match self.ask("challenge", vec![]).await {
                Ok(nonce) => nonce,
                Err(error) if index == 0 && has_nothing_to_prove(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let cluster_id = self.status().await?.cluster_id.unwrap_or_default();
            let proof = admin::proof(key, &cluster_id, &nonce);
            last = self.ask("authorize", vec![("proof", proof.into())]).await;
            match &last {
                Err(error) if error.is_denied() => {}
                _ => break,
            }
        }
        last
    }

    /// Reserves the id of a node that will join: `node_id`, or the next free one. Returns the id.
    pub async fn add(&mut self, node_id: Option<u64>) -> Result<u64, ClientError> {
        self.ask("add", vec![("node_id", number(node_id))]).await
    }

    /// Makes a learner a voter.
    pub async fn promote(&mut self, node_id: u64) -> Result<(), ClientError> {
        let arguments = vec![("node_id", number(Some(node_id)))];
        self.call("promote", arguments).await.map(drop)
    }

    /// Removes a member, which then stops.
    pub async fn remove(&mut self, node_id: u64) -> Result<(), ClientError> {
        let arguments = vec![("node_id", number(Some(node_id)))];
        self.call("remove", arguments).await.map(drop)
    }

    /// Transfers leadership to the voter `node_id`, or to the voter with the most advanced log. Returns the id
    /// of the new leader.
    pub async fn transfer_leader(&mut self, node_id: Option<u64>) -> Result<u64, ClientError> {
        let arguments = vec![("node_id", number(node_id))];
        self.ask("transfer_leader", arguments).await
    }

    /// Begins a snapshot of the whole registry. The client fetches it in pieces; joined, the pieces are the
    /// file that [`hearth_wire::snapshot`] describes. For administrators only.
    pub async fn snapshot_begin(&mut self) -> Result<SnapshotBegun, ClientError> {
        self.ask("snapshot_begin", vec![]).await
    }

    /// Returns a piece of a snapshot. The numbers begin at 0 and must be requested in order; the last piece may
    /// be requested again. A piece after the end is empty.
    pub async fn snapshot_piece(&mut self, id: &str, number: u64) -> Result<Vec<u8>, ClientError> {
        let arguments = vec![("id", id.into()), ("number", self::number(Some(number)))];
        let reply = self.call("snapshot_piece", arguments).await?;
        bytes(&reply).ok_or_else(|| ClientError::Unexpected {
            address: self.connection.address().clone(),
            method: "snapshot_piece".to_owned(),
            found: reply.type_name().to_owned(),
        })
    }

    /// Tells the node to drop a snapshot. Without this call the node drops it after a while.
    pub async fn snapshot_end(&mut self, id: &str) -> Result<(), ClientError> {
        let arguments = vec![("id", id.into())];
        self.call("snapshot_end", arguments).await.map(drop)
    }

    /// Calls a method and deserializes its reply.
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

/// The bytes in a value: plain bytes, or the dict of base64 text that serpent and json give.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    let items = match value {
        Value::Bytes(bytes) => return Some(bytes.clone()),
        Value::Dict(items) => items,
        _ => return None,
    };
    let item = |name: &str| {
        let found = items.iter().find(|(key, _)| key.as_str() == Some(name));
        found.and_then(|(_, value)| value.as_str())
    };
    match item("encoding") {
        Some("base64") => from_base64(item("data")?),
        _ => None,
    }
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut bit_count) = (0u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        bit_count += 6;
        if bit_count >= 8 {
            bit_count -= 8;
            bytes.push(u8::try_from(bits >> bit_count & 0xff).unwrap_or_default());
        }
    }
    Some(bytes)
}

/// Returns true for the exception by which the daemons of Pyro and Hearth report an unknown object.
fn is_unknown_object(exception: &hearth_wire::Exception) -> bool {
    exception.class.name() == "DaemonError" && exception.text().starts_with("unknown object")
}

/// Returns true if the server refuses a challenge because it has no key, or does not know the method.
fn has_nothing_to_prove(error: &ClientError) -> bool {
    let is_unknown = error
        .exception()
        .is_some_and(|exception| exception.class.name() == "AttributeError");
    error.is_denied() || is_unknown
}

/// Converts a node id to a Python int. An id above the range of i64 becomes `i64::MAX`, which is no member's
/// id.
fn number(node_id: Option<u64>) -> Value {
    node_id.map_or(Value::None, |node_id| {
        Value::Int(i64::try_from(node_id).unwrap_or(i64::MAX))
    })
}

/// Converts a reply to JSON. A value that JSON cannot express becomes the text that Python prints for it.
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
    fn bytes_come_as_any_serializer_brings_them() {
        let raw: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(&Value::Bytes(raw.clone())), Some(raw));
        for (data, expected) in [
            ("", Some(&b""[..])),
            ("YWI=", Some(b"ab")),
            ("//79", Some(b"\xff\xfe\xfd")),
            ("a b", None),
        ] {
            let value = dict(&[("data", data.into()), ("encoding", "base64".into())]);
            assert_eq!(bytes(&value).as_deref(), expected, "{data}");
        }
        assert_eq!(bytes(&Value::None), None);
        assert_eq!(bytes(&dict(&[("data", "YWI=".into())])), None);
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
