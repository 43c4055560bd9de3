//! How a node with an empty data folder comes to its cluster: it founds one with others, or joins one.
//!
//! **Founding.** Every founder is given the same list, and starts whenever it likes.
//! 1. A founder with an empty folder makes up its incarnation, keeps it, and asks all others
//!    ([`FoundAsk::Probe`]) until they answer. One that belongs to a cluster, or has another list, answers
//!    with a refusal, and the asker gives up.
//! 2. When all others have answered that they are blank, the founder with the lowest id makes up the
//!    cluster's identity and keeps it, with the list of founders and their incarnations. From here on it
//!    is decided which cluster it is.
//! 3. It tells the others ([`FoundAsk::Commit`]) until each has kept the same.
//! 4. Then it writes the first entry of the log, the membership, and asks for votes.
//!
//! Each step ends with a durable record ([`FolderRecord`]), and each can be taken again: a founder that
//! crashes goes on where its record says. Only the lowest founder ever writes the first entry, and only
//! after all have kept the identity; so a founder whose folder was emptied in between is noticed by its
//! incarnation, and is never counted as if it still knew what it once voted or acknowledged.
//!
//! **Joining.** The node makes up and keeps its incarnation, and asks any member ([`Request::Join`]), which
//! passes it on to the leader. The same incarnation gets the same id, however often it asks.

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
use crate::config::ReplicaConfig;
use crate::config::{Birth, ClusterConfig};
use crate::defect::{self, Defect};
use crate::error::StartError;
use crate::rpc::Strangers;
use crate::rpc::handshake::HandshakeError;
use crate::rpc::message::{FoundAnswer, FoundAsk, JoinAnswer, JoinAsk, Request, Response};
use crate::store::roster::Roster;
use crate::types::Member;

/// How long one node is waited for.
const ASK_DURATION_MAX: Duration = Duration::from_secs(2);

/// A member that is asked to let us in writes to the log first.
const JOIN_DURATION_MAX: Duration = Duration::from_secs(10);

/// How long a node waits to be taken in before its log says so at the level of warnings.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// Between two rounds.
const ROUND_DELAY: Duration = Duration::from_millis(150);

/// How often the same wait is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Why a node that was asked before there is a cluster has not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// Not reached, or no answer: ask again.
    #[error("{0}")]
    Unreachable(String),
    /// It does not take us, now or ever.
    #[error("{0}")]
    Rejected(String),
}

/// A way to ask whoever is at an address, while this node has no cluster.
pub(crate) trait Ask: Sync {
    /// Sends `request` to `addr` and waits for its response.
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
                // What is not proved ends nothing.
                error => AskError::Unreachable(error.to_string()),
            })
    }
}

const NOT_A_FOUNDER: &str = "the node at this address was not started as a founder; give all founders the same --initial-cluster";

/// Whose this node's data folder is: read and written here, and told to founders that ask.
#[derive(Debug)]
pub(crate) struct Folder {
    log: LogHome,
    roster: Arc<Roster>,
    /// What this node was told to found, if it was.
    founding: Option<Founding>,
    record: Mutex<FolderRecord>,
    changed: watch::Sender<()>,
}

/// What a founder is told at its start.
#[derive(Debug, Clone)]
struct Founding {
    cluster_name: String,
    node_id: u64,
    founders: BTreeMap<u64, String>,
}

impl Folder {
    /// The folder behind `log`, checked against the configuration; a new one gets a record.
    ///
    /// # Errors
    /// [`StartError::Identity`] when it belongs to another cluster or node, or the configuration makes no
    /// sense; [`StartError::Store`].
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
            // What it was born for is of no interest any more.
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

    /// Whose it is.
    pub(crate) fn record(&self) -> FolderRecord {
        self.lock().clone()
    }

    /// Which node of which cluster it belongs to, if it belongs to one.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.lock().identity().cloned()
    }

    /// Takes note that the cluster exists: what its founders were is no longer of interest.
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

    /// Takes note, for every later start, that the cluster has removed this node.
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

    /// Answers another founder. Blocks on the disk when there is something to keep.
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
                    // That one gives up, and this one waits for it: both must be looked at.
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
        // Before the first entry of the log is applied, only the founders are known.
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
        // It is replaced whole.
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

    /// Whether another one was given the same list.
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

/// Whether a folder with this record may be used as configured.
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

/// What the record should be instead, if it lacks what can be made up here.
fn completed(record: FolderRecord, config: &ReplicaConfig) -> Option<FolderRecord> {
    match record {
        // Alone, a node is its cluster.
        FolderRecord::Blank { .. } if config.cluster.is_none() => Some(sole_founder(Identity {
            cluster_id: rand::random(),
            cluster_name: config.cluster_name.clone(),
            node_id: config.node_id.unwrap_or(1),
            incarnation: random_incarnation(),
        })),
        FolderRecord::Blank { incarnation: 0 } => Some(FolderRecord::Blank {
            incarnation: random_incarnation(),
        }),
        // Builds for one node had none, and may not have written the first entry of the log.
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

/// Not zero, which stands for none.
fn random_incarnation() -> u128 {
    rand::random_range(1..=u128::MAX)
}

/// Comes to a cluster, whatever time it takes, and returns what this node is in it.
///
/// # Errors
/// [`StartError::Identity`] when it never will, [`StartError::Store`].
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

/// Steps 1 and 2.
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
            // The lowest founder was quicker.
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

/// [`Defect::ReusedId`]: takes the cluster of any other founder for its own.
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

/// Asks all other founders once. Some when all are blank.
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
            // It counts on this node, and will be told of it by the lowest founder.
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

/// Step 3, by the lowest founder: returns the members for step 4 when all have kept the identity; `None`
/// for all other nodes, which have nothing to do.
///
/// # Errors
/// [`StartError::Identity`] when one of them refuses.
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

/// So that nodes that were started together do not ask in step.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.75..1.25))
}

/// Says what a start waits for: when that changes, and now and then.
#[derive(Debug, Default)]
pub(crate) struct Waits(Option<(Vec<String>, Instant)>);

impl Waits {
    /// Waiting for each of these.
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
