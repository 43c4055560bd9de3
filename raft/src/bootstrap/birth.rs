//! Bootstrap and join: the two methods by which a node with an empty data directory gets its cluster.
//!
//! **Bootstrap.** Every founder is given the same list of founders and may start at any time.
//! 1. A founder with an empty data directory generates its incarnation, saves it, and asks all other founders
//!    ([`FoundAsk::Probe`]) until they answer. A founder refuses if it was given another list, or belongs to a
//!    cluster that the asking founder is not a member of. The asking founder then gives up.
//! 2. When all others have answered that they are blank, the founder with the lowest id generates the identity
//!    of the cluster and saves it, with the list of founders and their incarnations. From here on the identity
//!    of the cluster is decided.
//! 3. The lowest founder sends the identity to the others ([`FoundAsk::Commit`]) until each has saved it.
//! 4. The lowest founder writes the first log entry, the membership, and asks for votes.
//!
//! Each step ends with a durable record ([`FolderRecord`]) and can be repeated: a founder that crashes
//! continues where its record says. Only the lowest founder ever writes the first entry, and only after all
//! founders have saved the identity. A founder whose data directory was emptied in between is therefore
//! recognised by its incarnation. It never counts as if it still knew its votes and acknowledgements.
//!
//! **Join.** The node generates and saves its incarnation, and asks any member ([`Request::Join`]), which
//! passes the request on to the leader. The same incarnation gets the same id, however often it asks.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;

use hearth_storage::{LogHome, StoreError};

use crate::codec::{self, FolderRecord, Identity};
use crate::config::{Birth, ClusterConfig, ReplicaConfig};
use crate::defect::{self, Defect};
use crate::error::StartError;
use crate::rpc::Strangers;
use crate::rpc::handshake::HandshakeError;
use crate::rpc::message::{FoundAnswer, FoundAsk, JoinAnswer, JoinAsk, Request, Response};
use crate::store::roster::Roster;
use crate::types::Member;

/// Limit on the wait for one founder's answer.
const ASK_DURATION_MAX: Duration = Duration::from_secs(2);

/// Limit on the wait for one answer to a join request. It is longer because the leader writes to the log before
/// it answers.
const JOIN_DURATION_MAX: Duration = Duration::from_secs(10);

/// The longest time that a node waits to be admitted before it logs a warning.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// Average delay between two rounds of requests.
const ROUND_DELAY: Duration = Duration::from_millis(150);

/// Interval at which an unchanged wait is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// The reason why a request that this node sent before it had a cluster has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// The node was not reached or did not answer. The request may be repeated.
    #[error("{0}")]
    Unreachable(String),
    /// The node refuses this one for good.
    #[error("{0}")]
    Rejected(String),
}

/// Sends requests to addresses while this node has no cluster and therefore knows no members.
pub(crate) trait Ask: Sync {
    /// Sends `request` to `addr` and waits for its response, at most `timeout`.
    ///
    /// # Errors
    /// [`AskError`].
    fn ask(
        &self,
        addr: &str,
        request: Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<Response, AskError>> + Send;
}

impl Ask for Strangers {
    async fn ask(
        &self,
        addr: &str,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, AskError> {
        self.call(addr, request, timeout)
            .await
            .map_err(|error| match error {
                HandshakeError::Refused(refusal) | HandshakeError::RefusedByPeer(refusal) => {
                    AskError::Rejected(refusal.text)
                }
                // A refusal that is not proved must not end the attempt for good.
                error => AskError::Unreachable(error.to_string()),
            })
    }
}

const NOT_A_FOUNDER: &str = "the node at this address was not started as a founder; give all founders the same --initial-cluster";

/// The record of the cluster and node that own this data directory. It is read and written here, and its
/// contents are the answers to other founders.
#[derive(Debug)]
pub(crate) struct Folder {
    log: LogHome,
    roster: Arc<Roster>,
    /// The bootstrap that this node was configured for, if its data directory is blank.
    founding: Option<Founding>,
    record: Mutex<FolderRecord>,
    changed: watch::Sender<()>,
}

/// The part of a founder's configuration that bootstrap needs.
#[derive(Debug, Clone)]
struct Founding {
    cluster_name: String,
    node_id: u64,
    founders: BTreeMap<u64, String>,
}

impl Folder {
    /// Reads the record in `log` and checks it against the configuration. A new data directory gets a record.
    ///
    /// # Errors
    /// [`StartError::Identity`] if the data directory belongs to another cluster or node, or if the
    /// configuration is contradictory; [`StartError::Removed`] if the cluster has removed this node;
    /// [`StartError::Store`].
    pub(crate) fn open(
        log: LogHome,
        config: &ReplicaConfig,
        roster: Arc<Roster>,
    ) -> Result<Self, StartError> {
        let record = match log.identity()? {
            Some(bytes) => codec::decode_folder(&bytes).map_err(StoreError::from)?,
            None => {
                if log.last_index().is_some() || log.last_purged()?.is_some() {
                    return Err(refused(
                        "the data folder has a log, but does not say whose it is",
                    ));
                }
                FolderRecord::Blank { incarnation: 0 }
            }
        };
        check(&record, config)?;
        let founding = match (&record, &config.cluster) {
            (FolderRecord::Blank { .. }, Some(cluster)) => Founding::of(config, cluster)?,
            // A node with a cluster no longer needs its list of founders.
            _ => None,
        };
        let folder = Self {
            log,
            roster,
            founding,
            record: Mutex::new(record.clone()),
            changed: watch::Sender::new(()),
        };
        if let Some(better) = completed(record, config) {
            folder.keep(&mut folder.lock(), better)?;
        }
        Ok(folder)
    }

    /// Returns the record.
    pub(crate) fn record(&self) -> FolderRecord {
        self.lock().clone()
    }

    /// Returns the identity of this node in its cluster. `None` if it has no cluster yet.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.lock().identity().cloned()
    }

    /// Records that the cluster exists, and drops the list of its founders, which is no longer needed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        let mut record = self.lock();
        if let FolderRecord::Founder { identity, .. } = &*record {
            let settled = FolderRecord::Member(identity.clone());
            self.keep(&mut record, settled)?;
        }
        Ok(())
    }

    /// Records, for every later start, that the cluster has removed this node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn set_removed(&self, reason: &str) -> Result<(), StoreError> {
        let mut record = self.lock();
        if let FolderRecord::Founder { identity, .. } | FolderRecord::Member(identity) = &*record {
            let removed = FolderRecord::Removed {
                identity: identity.clone(),
                reason: reason.to_owned(),
            };
            self.keep(&mut record, removed)?;
        }
        Ok(())
    }

    /// Answers another founder. Blocks on the disk if there is a record to save.
    pub(crate) fn answer(&self, ask: FoundAsk) -> FoundAnswer {
        let answer = match ask {
            FoundAsk::Probe {
                from,
                incarnation,
                founders,
            } => self.answer_probe(from, incarnation, &founders),
            FoundAsk::Commit {
                cluster_id,
                members,
            } => self.answer_commit(cluster_id, members.into_iter().collect()),
        };
        answer.unwrap_or_else(FoundAnswer::Refused)
    }

    fn answer_probe(
        &self,
        from: u64,
        theirs: u128,
        founders: &[(u64, String)],
    ) -> Result<FoundAnswer, String> {
        let record = self.lock();
        let (identity, known) = match &*record {
            FolderRecord::Blank { incarnation } => {
                let founding = self.founding.as_ref().ok_or(NOT_A_FOUNDER)?;
                if let Err(reason) = founding.compare(from, founders) {
                    // The founder that asks gives up, and this one keeps waiting for it, so both must report
                    // the mismatch.
                    tracing::error!("{reason}");
                    return Err(reason);
                }
                return Ok(FoundAnswer::Blank {
                    incarnation: *incarnation,
                });
            }
            FolderRecord::Founder { identity, founders } => (identity, Some(founders)),
            FolderRecord::Member(identity) => (identity, None),
            FolderRecord::Removed { reason, .. } => return Err(reason.clone()),
        };
        let noted = FoundAnswer::Noted {
            cluster_id: identity.cluster_id,
            incarnation: identity.incarnation,
        };
        let members = self.roster.members();
        // The founders are the only known members until the first log entry is applied.
        if let (true, Some(known)) = (members.is_empty(), known) {
            return match known.get(&from) {
                Some(member) if member.incarnation == theirs => Ok(noted),
                Some(_) => Err(Self::half_founded(from)),
                None => Err(Self::not_a_member(from, identity)),
            };
        }
        match self.roster.turned_away(from, theirs) {
            Some(turned) => Err(turned.to_string()),
            None if members.contains_key(&from) => Ok(noted),
            None => Err(Self::not_a_member(from, identity)),
        }
    }

    fn answer_commit(
        &self,
        cluster_id: u128,
        members: BTreeMap<u64, Member>,
    ) -> Result<FoundAnswer, String> {
        let mut record = self.lock();
        let incarnation = match &*record {
            FolderRecord::Founder { identity, .. } | FolderRecord::Member(identity) => {
                return if identity.cluster_id == cluster_id {
                    Ok(FoundAnswer::Noted {
                        cluster_id,
                        incarnation: identity.incarnation,
                    })
                } else {
                    Err(format!(
                        "node {} belongs to the cluster {:032x} already, and this is {cluster_id:032x}; empty \
                         the data folders of all founders and start them again",
                        identity.node_id, identity.cluster_id
                    ))
                };
            }
            FolderRecord::Removed { reason, .. } => return Err(reason.clone()),
            FolderRecord::Blank { incarnation } => *incarnation,
        };
        let founding = self.founding.as_ref().ok_or(NOT_A_FOUNDER)?;
        let lowest = members.first_key_value().map_or(0, |(&id, _)| id);
        let list: Vec<(u64, String)> = addresses(&members);
        founding.compare(lowest, &list)?;
        let me = founding.node_id;
        if members.get(&me).map(|member| member.incarnation) != Some(incarnation) {
            return Err(Self::half_founded(me));
        }
        let noted = FolderRecord::Founder {
            identity: founding.identity(cluster_id, incarnation),
            founders: members,
        };
        self.keep(&mut record, noted)
            .map_err(|error| format!("node {me} cannot take note of its cluster: {error}"))?;
        Ok(FoundAnswer::Noted {
            cluster_id,
            incarnation,
        })
    }

    fn half_founded(id: u64) -> String {
        format!(
            "node {id} came back with another data folder while its cluster was being founded; empty the data \
             folders of all founders and start them again"
        )
    }

    fn not_a_member(id: u64, identity: &Identity) -> String {
        format!(
            "the cluster {:?} exists already, and node {id} is not one of its members; start it with --join",
            identity.cluster_name
        )
    }

    fn lock(&self) -> MutexGuard<'_, FolderRecord> {
        // The record is always replaced as a whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(
        &self,
        held: &mut MutexGuard<'_, FolderRecord>,
        record: FolderRecord,
    ) -> Result<(), StoreError> {
        self.log.save_identity(&codec::encode_folder(&record))?;
        **held = record;
        self.changed.send_replace(());
        Ok(())
    }
}

impl Founding {
    fn probe(&self, incarnation: u128) -> Request {
        let founders = self.founders.iter();
        Request::Found(FoundAsk::Probe {
            from: self.node_id,
            incarnation,
            founders: founders.map(|(&id, addr)| (id, addr.clone())).collect(),
        })
    }

    fn of(config: &ReplicaConfig, cluster: &ClusterConfig) -> Result<Option<Self>, StartError> {
        let Birth::Found { founders } = &cluster.birth else {
            return Ok(None);
        };
        let here = || {
            let here = founders
                .iter()
                .find(|(_, addr)| **addr == cluster.peer_addr);
            here.map(|(&id, _)| id)
        };
        let node_id = config.node_id.or_else(here);
        let Some(node_id) = node_id.filter(|id| founders.get(id) == Some(&cluster.peer_addr))
        else {
            return Err(refused(&format!(
                "the list of founders, {}, does not have this node ({} at {})",
                list(founders),
                match config.node_id {
                    Some(id) => id.to_string(),
                    None => "no node id".to_owned(),
                },
                cluster.peer_addr
            )));
        };
        Ok(Some(Self {
            cluster_name: config.cluster_name.clone(),
            node_id,
            founders: founders.clone(),
        }))
    }

    /// Checks that another founder was given the same list.
    ///
    /// # Errors
    /// The difference, for operators.
    fn compare(&self, other: u64, founders: &[(u64, String)]) -> Result<(), String> {
        let theirs: BTreeMap<u64, String> = founders.iter().cloned().collect();
        if theirs == self.founders {
            return Ok(());
        }
        Err(format!(
            "founder {} was given the list {}, and founder {other} the list {}; give all the same",
            self.node_id,
            list(&self.founders),
            list(&theirs)
        ))
    }

    fn identity(&self, cluster_id: u128, incarnation: u128) -> Identity {
        Identity {
            cluster_id,
            cluster_name: self.cluster_name.clone(),
            node_id: self.node_id,
            incarnation,
        }
    }

    fn leads(&self) -> bool {
        self.founders.first_key_value().map(|(&id, _)| id) == Some(self.node_id)
    }

    fn others(&self) -> impl Iterator<Item = (u64, &String)> {
        let me = self.node_id;
        let others = self.founders.iter().map(|(&id, addr)| (id, addr));
        others.filter(move |&(id, _)| id != me)
    }
}

fn list(founders: &BTreeMap<u64, String>) -> String {
    let items: Vec<String> = founders
        .iter()
        .map(|(id, addr)| format!("{id}={addr}"))
        .collect();
    items.join(",")
}

fn addresses(members: &BTreeMap<u64, Member>) -> Vec<(u64, String)> {
    members
        .iter()
        .map(|(&id, member)| (id, member.peer_addr.clone()))
        .collect()
}

fn refused(reason: &str) -> StartError {
    StartError::Identity(reason.to_owned())
}

/// Checks that a data directory with this record may be used as configured.
///
/// # Errors
/// [`StartError::Removed`], [`StartError::Identity`].
fn check(record: &FolderRecord, config: &ReplicaConfig) -> Result<(), StartError> {
    let identity = match record {
        FolderRecord::Blank { .. } => return Ok(()),
        FolderRecord::Removed { reason, .. } => return Err(StartError::Removed(reason.clone())),
        FolderRecord::Founder { identity, .. } | FolderRecord::Member(identity) => identity,
    };
    if identity.cluster_name != config.cluster_name {
        return Err(StartError::Identity(format!(
            "the data folder belongs to the cluster {:?}, and this node was started for {:?}",
            identity.cluster_name, config.cluster_name
        )));
    }
    match config.node_id {
        Some(node_id) if node_id != identity.node_id => Err(StartError::Identity(format!(
            "the data folder belongs to node {}, and this node was started as {node_id}",
            identity.node_id
        ))),
        _ => Ok(()),
    }
}

/// Returns the record that replaces `record` if that lacks values that this node can generate. `None` if it is
/// complete.
fn completed(record: FolderRecord, config: &ReplicaConfig) -> Option<FolderRecord> {
    match record {
        // A single node is a cluster of its own.
        FolderRecord::Blank { .. } if config.cluster.is_none() => Some(sole_founder(Identity {
            cluster_id: rand::random(),
            cluster_name: config.cluster_name.clone(),
            node_id: config.node_id.unwrap_or(1),
            incarnation: random_incarnation(),
        })),
        FolderRecord::Blank { incarnation: 0 } => Some(FolderRecord::Blank {
            incarnation: random_incarnation(),
        }),
        // Builds for a single node wrote no incarnation, and may have stopped before the first log entry was
        // written.
        FolderRecord::Member(identity) if identity.incarnation == 0 => {
            Some(sole_founder(Identity {
                incarnation: random_incarnation(),
                ..identity
            }))
        }
        _ => None,
    }
}

fn sole_founder(identity: Identity) -> FolderRecord {
    let member = Member {
        incarnation: identity.incarnation,
        ..Member::default()
    };
    FolderRecord::Founder {
        founders: [(identity.node_id, member)].into(),
        identity,
    }
}

/// Returns a random incarnation. It is never 0, which stands for none.
fn random_incarnation() -> u128 {
    rand::random_range(1..=u128::MAX)
}

/// Bootstraps or joins a cluster, however long that takes, and returns this node's identity in it.
///
/// # Errors
/// [`StartError::Identity`] if this node can never become a member; [`StartError::Store`].
pub(crate) async fn be_born(
    folder: &Folder,
    config: &ReplicaConfig,
    cluster: &ClusterConfig,
    asks: &impl Ask,
) -> Result<Identity, StartError> {
    let mut waits = Waits::default();
    if let Some(identity) = folder.identity() {
        return Ok(identity);
    }
    match (&cluster.birth, &folder.founding) {
        (Birth::Join { seeds, learner }, _) => {
            let FolderRecord::Blank { incarnation } = folder.record() else {
                return Err(refused(
                    "the data folder changed while this node was starting",
                ));
            };
            let ask = JoinAsk {
                cluster_name: config.cluster_name.clone(),
                node_id: config.node_id,
                incarnation,
                peer_addr: cluster.peer_addr.clone(),
                learner: *learner,
            };
            join(folder, &ask, seeds, asks, &mut waits).await
        }
        (Birth::Found { .. }, Some(founding)) => found(folder, founding, asks, &mut waits).await,
        (Birth::Found { .. }, None) => Err(refused("this node has no list of founders")),
        (Birth::Done, _) => Err(refused(
            "the data folder has no cluster yet; found one with --initial-cluster, or join one with --join",
        )),
    }
}

/// Runs steps 1 and 2 of the bootstrap. Returns when this node has saved the identity of its cluster.
async fn found(
    folder: &Folder,
    founding: &Founding,
    asks: &impl Ask,
    waits: &mut Waits,
) -> Result<Identity, StartError> {
    let mut changed = folder.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let incarnation = match folder.record() {
            FolderRecord::Blank { incarnation } => incarnation,
            _ => match folder.identity() {
                Some(identity) => return Ok(identity),
                None => continue,
            },
        };
        if defect::is(Defect::ReusedId) && adopt(folder, founding, incarnation, asks).await? {
            continue;
        }
        let blank = tokio::select! {
            blank = probe_all(founding, incarnation, asks, waits) => blank?,
            // The lowest founder has sent the identity meanwhile.
            _ = changed.changed() => continue,
        };
        if let Some(mut members) = blank
            && founding.leads()
        {
            let me = Member {
                peer_addr: founding.founders[&founding.node_id].clone(),
                incarnation,
                promotes_itself: false,
            };
            members.insert(founding.node_id, me);
            let identity = founding.identity(rand::random(), incarnation);
            tracing::info!(
                cluster_id = %format_args!("{:032x}", identity.cluster_id),
                founders = list(&founding.founders),
                "founding a cluster"
            );
            let record = FolderRecord::Founder {
                identity,
                founders: members,
            };
            let mut now = folder.lock();
            if matches!(&*now, FolderRecord::Blank { .. }) {
                folder.keep(&mut now, record)?;
            }
            continue;
        }
        let _ = tokio::time::timeout(jittered(ROUND_DELAY), changed.changed()).await;
    }
}

/// Implements the injected fault [`Defect::ReusedId`]: adopts the cluster of any other founder. Returns true if
/// another founder has one.
async fn adopt(
    folder: &Folder,
    founding: &Founding,
    incarnation: u128,
    asks: &impl Ask,
) -> Result<bool, StartError> {
    for (_, addr) in founding.others() {
        let answer = ask_founder(asks, addr, founding.probe(incarnation)).await;
        if let Ok(FoundAnswer::Noted { cluster_id, .. }) = answer {
            let identity = founding.identity(cluster_id, incarnation);
            folder.keep(&mut folder.lock(), FolderRecord::Member(identity))?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Probes all other founders once. Returns them if all are blank, and `None` if any of them is not ready.
///
/// # Errors
/// [`StartError::Identity`] if one of them refuses.
async fn probe_all(
    founding: &Founding,
    incarnation: u128,
    asks: &impl Ask,
    waits: &mut Waits,
) -> Result<Option<BTreeMap<u64, Member>>, StartError> {
    let probe = founding.probe(incarnation);
    let answers = join_all(founding.others().map(|(id, addr)| {
        let probe = probe.clone();
        async move { (id, addr, ask_founder(asks, addr, probe).await) }
    }));
    let mut members = BTreeMap::new();
    let mut waiting = Vec::new();
    for (id, addr, answer) in answers.await {
        match answer {
            Ok(FoundAnswer::Blank { incarnation }) => {
                let member = Member {
                    peer_addr: addr.clone(),
                    incarnation,
                    promotes_itself: false,
                };
                members.insert(id, member);
            }
            // That founder counts on this node, which the lowest founder will inform of the cluster.
            Ok(FoundAnswer::Noted { .. }) => waiting.push(format!(
                "founder {id} at {addr}: it knows its cluster, and this node has not been told yet"
            )),
            Ok(FoundAnswer::Refused(reason)) => return Err(told_by(id, addr, &reason)),
            Err(AskError::Rejected(reason)) => return Err(told_by(id, addr, &reason)),
            Err(AskError::Unreachable(reason)) => {
                waiting.push(format!("founder {id} at {addr}: {reason}"));
            }
        }
    }
    if !waiting.is_empty() {
        waits.say(&waiting);
        return Ok(None);
    }
    if !founding.leads() {
        let (id, addr) = founding
            .founders
            .first_key_value()
            .map_or((0, ""), |(&id, addr)| (id, addr.as_str()));
        waits.say(&[format!("founder {id} at {addr}, which makes the cluster")]);
    }
    Ok(Some(members))
}

fn told_by(id: u64, addr: &str, reason: &str) -> StartError {
    StartError::Identity(format!("founder {id} at {addr} refuses: {reason}"))
}

async fn ask_founder(
    asks: &impl Ask,
    addr: &str,
    request: Request,
) -> Result<FoundAnswer, AskError> {
    match asks.ask(addr, request, ASK_DURATION_MAX).await? {
        Response::Found(answer) => Ok(answer),
        Response::Unavailable(reason) => Err(AskError::Unreachable(reason)),
        other => Err(AskError::Unreachable(format!(
            "it answered another question: {other:?}"
        ))),
    }
}

/// Runs step 3 of the bootstrap. On the lowest founder this returns the members for step 4 when all founders
/// have saved the identity. On all other nodes it returns `None` at once.
///
/// # Errors
/// [`StartError::Identity`] if one of the founders refuses.
pub(crate) async fn commit_founding(
    folder: &Folder,
    asks: &impl Ask,
) -> Result<Option<BTreeMap<u64, Member>>, StartError> {
    let FolderRecord::Founder { identity, founders } = folder.record() else {
        return Ok(None);
    };
    let (lowest, me) = (founders.first_key_value(), identity.node_id);
    if lowest.map(|(&id, _)| id) != Some(me) {
        return Ok(None);
    }
    let commit = Request::Found(FoundAsk::Commit {
        cluster_id: identity.cluster_id,
        members: founders
            .iter()
            .map(|(&id, member)| (id, member.clone()))
            .collect(),
    });
    let mut left: BTreeMap<u64, Member> = founders.clone();
    left.remove(&me);
    let mut waits = Waits::default();
    loop {
        let answers = join_all(left.iter().map(|(&id, member)| {
            let commit = commit.clone();
            async move {
                let answer = ask_founder(asks, &member.peer_addr, commit).await;
                (id, member.peer_addr.clone(), answer)
            }
        }));
        let mut waiting = Vec::new();
        for (id, addr, answer) in answers.await {
            match answer {
                Ok(FoundAnswer::Noted { cluster_id, .. }) if cluster_id == identity.cluster_id => {
                    left.remove(&id);
                }
                Ok(FoundAnswer::Noted { .. } | FoundAnswer::Blank { .. }) => {
                    waiting.push(format!("founder {id} at {addr}: it gave a wrong answer"));
                }
                Ok(FoundAnswer::Refused(reason)) | Err(AskError::Rejected(reason)) => {
                    return Err(told_by(id, &addr, &reason));
                }
                Err(AskError::Unreachable(reason)) => {
                    waiting.push(format!("founder {id} at {addr}: {reason}"));
                }
            }
        }
        if left.is_empty() {
            return Ok(Some(founders));
        }
        waits.say(&waiting);
        tokio::time::sleep(jittered(ROUND_DELAY)).await;
    }
}

async fn join(
    folder: &Folder,
    ask: &JoinAsk,
    seeds: &[String],
    asks: &impl Ask,
    waits: &mut Waits,
) -> Result<Identity, StartError> {
    if seeds.is_empty() {
        return Err(refused("there is no address of a member to join through"));
    }
    let began = Instant::now();
    let mut is_told = false;
    loop {
        let mut waiting = Vec::new();
        for seed in seeds {
            let request = Request::Join(ask.clone());
            let reason = match asks.ask(seed, request, JOIN_DURATION_MAX).await {
                Ok(Response::Join(JoinAnswer::Welcome {
                    cluster_id,
                    node_id,
                })) => {
                    let identity = Identity {
                        cluster_id,
                        cluster_name: ask.cluster_name.clone(),
                        node_id,
                        incarnation: ask.incarnation,
                    };
                    let member = FolderRecord::Member(identity.clone());
                    folder.keep(&mut folder.lock(), member)?;
                    tracing::info!(node_id, through = seed, "joined the cluster as a learner");
                    return Ok(identity);
                }
                Ok(Response::Join(JoinAnswer::Refused(reason)))
                | Err(AskError::Rejected(reason)) => {
                    return Err(StartError::Identity(format!(
                        "the cluster at {seed} refuses this node: {reason}"
                    )));
                }
                Ok(Response::Join(JoinAnswer::Later(reason)) | Response::Unavailable(reason))
                | Err(AskError::Unreachable(reason)) => reason,
                Ok(other) => format!("it answered another question: {other:?}"),
            };
            waiting.push(format!("the member at {seed}: {reason}"));
        }
        waits.say(&waiting);
        if !is_told && began.elapsed() >= JOIN_PATIENCE {
            is_told = true;
            tracing::warn!(
                "no member has taken this node in yet: {}",
                waiting.join("; ")
            );
        }
        tokio::time::sleep(jittered(ROUND_DELAY)).await;
    }
}

/// Varies `delay` by up to a quarter, so that nodes that were started together do not ask in step.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.75..1.25))
}

/// Logs the reasons for which a start waits: when they change, and every [`LOG_INTERVAL`].
#[derive(Debug, Default)]
pub(crate) struct Waits(Option<(Vec<String>, Instant)>);

impl Waits {
    /// Logs that the start waits for each of `reasons`, if a message is due.
    pub(crate) fn say(&mut self, reasons: &[impl fmt::Display]) {
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        let due = match &self.0 {
            Some((said, at)) => *said != reasons || at.elapsed() >= LOG_INTERVAL,
            None => true,
        };
        if !due {
            return;
        }
        for reason in &reasons {
            tracing::info!("waiting for {reason}");
        }
        self.0 = Some((reasons, Instant::now()));
    }
}

#[cfg(test)]
#[path = "birth_test.rs"]
mod tests;
