//! How a node is told to be one of several: the options of a cluster, and what they mean together.
//!
//! This file checks and completes; founding and joining are [`hearth_raft`]'s.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use hearth_raft::{Birth, ClusterConfig, ClusterKeys, StorageLocation};
use hearth_wire::admin;

use crate::config::{Bind, Checker, DEFAULTS, node_id};
use crate::error::NodeError;
use crate::listen::{Bound, is_local, location_text};
use crate::settings::{Setting, parse_bool};

/// Bytes of the longest peer address.
const PEER_ADDR_LEN_MAX: usize = 300;

/// Founders beyond this number make every write slower and nothing safer.
const FOUNDER_COUNT_MAX: usize = 9;

/// Bytes of the longest file of keys. Nobody writes a longer one by intent.
const KEY_LEN_MAX: usize = 4096;

/// A key with fewer bytes than this could be guessed.
const KEY_LEN_SAFE: usize = 16;

/// A heartbeat more often than this would keep the nodes busy with nothing else.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

/// Beyond this, a cluster whose leader fell silent would look dead to the people who run it.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Heartbeats that must fit into the shortest election timeout: two may be lost.
const HEARTBEATS_PER_TIMEOUT: u32 = 3;

/// How long a joining node tries to find out its own address.
const RESOLVE_DURATION_MAX: Duration = Duration::from_secs(30);

/// Between two tries.
const RESOLVE_PAUSE: Duration = Duration::from_millis(500);

/// How a node takes part in a cluster of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// `HOST:PORT` at which the other nodes reach this one. `None` with [`Birth::Join`]: the address that leads
    /// to the others, and the default port; with [`Birth::Done`]: what the data folder says.
    pub peer_addr: Option<String>,
    /// What to do while the storage has no cluster yet.
    pub birth: Birth,
    /// The secrets that peers and administrators prove: the first is used, any is accepted. Empty: none.
    pub keys: ClusterKeys,
    /// The file with the keys, which is read again on SIGHUP.
    pub key_file: Option<String>,
}

impl ClusterSettings {
    /// What the replica is told, once it is known where clients reach this node: outside of a NAT
    /// `nat_location`, where there is one.
    ///
    /// # Errors
    /// [`NodeError::PeerAddr`] if this node's own address cannot be found out.
    pub(crate) async fn complete(
        &self,
        bound: &Bound,
        nat_location: Option<&str>,
    ) -> Result<ClusterConfig, NodeError> {
        let peer_addr = match (&self.peer_addr, &self.birth) {
            (Some(addr), _) => addr.clone(),
            // The data folder knows it.
            (None, Birth::Done) => String::new(),
            (None, Birth::Join { seeds, .. }) => {
                let host = address_towards(seeds).await?;
                location_text(&host.to_string(), DEFAULTS.peer_port)
            }
            (None, Birth::Found { .. }) => {
                return Err(NodeError::PeerAddr(
                    "a founder needs the one that the list of founders has for it".to_owned(),
                ));
            }
        };
        Ok(ClusterConfig {
            ns_addr: ns_addr(bound, nat_location, &peer_addr),
            peer_addr,
            birth: self.birth.clone(),
            keys: self.keys.clone(),
        })
    }
}

/// Where clients reach this node, for those who ask for the members. A socket on all interfaces has no
/// address of its own; the one that peers use leads to it.
fn ns_addr(bound: &Bound, nat_location: Option<&str>, peer_addr: &str) -> String {
    match (nat_location, bound.address) {
        (Some(location), _) => location.to_owned(),
        (None, Some(address)) if address.ip().is_unspecified() => {
            let host = peer_addr.rsplit_once(':').map_or("", |(host, _)| host);
            format!("{host}:{}", address.port())
        }
        (None, _) => bound.location.clone(),
    }
}

/// This machine's address on the way to the first of `seeds` that can be resolved. Names may become known
/// only a while after a machine has started.
async fn address_towards(seeds: &[String]) -> Result<IpAddr, NodeError> {
    let search = async {
        let mut last_reason = String::new();
        loop {
            for seed in seeds {
                match route_to(seed).await {
                    Ok(address) => return address,
                    Err(reason) if reason == last_reason => {}
                    Err(reason) => {
                        tracing::warn!(
                            "cannot tell this node's own address yet (--peer-addr says it): {reason}"
                        );
                        last_reason = reason;
                    }
                }
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
    };
    tokio::time::timeout(RESOLVE_DURATION_MAX, search)
        .await
        .map_err(|_| {
            NodeError::PeerAddr(format!(
                "none of {} could be resolved and routed to within {RESOLVE_DURATION_MAX:?}",
                seeds.join(", ")
            ))
        })
}

/// Asks the system's routing table, without sending anything: connecting a UDP socket chooses its
/// address.
async fn route_to(seed: &str) -> Result<IpAddr, String> {
    let failed = |error: std::io::Error| format!("{seed}: {error}");
    let addresses = tokio::net::lookup_host(seed).await.map_err(failed)?;
    let mut last = format!("{seed}: it has no address");
    for address in addresses {
        let any: SocketAddr = if address.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let here = std::net::UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            socket.local_addr()
        });
        match here {
            Ok(here) => return Ok(here.ip()),
            Err(error) => last = failed(error),
        }
    }
    Err(last)
}

/// Whether the storage that was asked for is one that a cluster cannot use, by its text.
pub(crate) fn storage_refusal(text: &str) -> Option<String> {
    let kind = ["sql", "dbm"].into_iter().find(|kind| {
        text.strip_prefix(kind)
            .is_some_and(|rest| rest.starts_with(':'))
    })?;
    Some(format!(
        "{kind}: files are for a node alone; a cluster keeps its names in rocksdb:DIR. To import them, run \
         pyro4-ns or pyro5-ns on the file at another port, and register at the cluster what it lists"
    ))
}

/// Whether there is a data folder with something in it.
fn has_data(storage: &StorageLocation) -> bool {
    match storage {
        StorageLocation::Memory => false,
        StorageLocation::Rocks(folder) => folder.join("FORMAT").exists(),
    }
}

impl Checker<'_> {
    /// The options of a cluster; none if nothing asks for one.
    pub(crate) fn cluster(
        &mut self,
        bind: &Bind,
        storage: &StorageLocation,
    ) -> Option<ClusterSettings> {
        let founders = self.parse(Setting::InitialCluster, founders);
        let seeds = self.parse(Setting::Join, peer_addrs);
        let learner = self.parse(Setting::Learner, parse_bool) == Some(true);
        let peer_addr = self.parse(Setting::PeerAddr, peer_addr);
        let keys = self.cluster_keys();
        let key_file = self.settings.get(Setting::ClusterKeyFile);
        let key_file = key_file.map(|given| given.text.clone());
        let insecure = self.parse(Setting::InsecurePeers, parse_bool) == Some(true);
        let founds = self.is_given(Setting::InitialCluster);
        let joins = self.is_given(Setting::Join);
        if founds && joins {
            self.mistake(
                Setting::Join,
                "not together with --initial-cluster: a node founds a cluster with the others, or joins one \
                 that runs",
            );
        }
        if learner && !joins {
            self.mistake(
                Setting::Learner,
                "only with --join; the founders of a cluster vote, and a node alone has nobody to learn from",
            );
        }
        let told = [Setting::PeerAddr, Setting::ClusterKeyFile];
        let told = told.map(|setting| (setting, self.is_given(setting)));
        // A data folder that has its cluster needs no more.
        let continues = told.iter().any(|(_, given)| *given) && has_data(storage);
        if !founds && !joins && !continues {
            for (setting, _) in told.into_iter().filter(|(_, given)| *given) {
                self.mistake(
                    setting,
                    "has no use without --initial-cluster or --join, which make this node one of several, or \
                     -s rocksdb:DIR with the data of one",
                );
            }
            return None;
        }
        if let Bind::Unix(_) = bind {
            self.mistake(
                Setting::UnixSocket,
                "not for a node of a cluster, which tells the others where clients reach it; use -n/--host \
                 and -p/--port",
            );
        }
        let birth = if founds {
            let founders = founders?;
            let own = self.own_founder(&founders, peer_addr.as_deref());
            self.warn_of_founders(&founders);
            (Birth::Found { founders }, own)
        } else if continues && !joins {
            (Birth::Done, peer_addr)
        } else {
            let seeds = self.other_seeds(seeds?, peer_addr.as_deref());
            (Birth::Join { seeds, learner }, peer_addr)
        };
        let (birth, peer_addr) = birth;
        if let Some(addr) = &peer_addr {
            self.check_ports(bind, addr);
        }
        self.check_storage(storage, &birth);
        let stays_here = stays_here(peer_addr.as_deref(), &birth);
        if keys.is_empty() && !stays_here && !self.is_given(Setting::ClusterKeyFile) {
            self.check_openness(founds, insecure);
        }
        self.warn_of_risks(bind, stays_here, &birth);
        Some(ClusterSettings {
            peer_addr,
            birth,
            keys,
            key_file,
        })
    }

    /// This node's address in the list of founders.
    fn own_founder(
        &mut self,
        founders: &BTreeMap<u64, String>,
        peer_addr: Option<&str>,
    ) -> Option<String> {
        let ids: Vec<String> = founders.keys().map(u64::to_string).collect();
        let ids = ids.join(", ");
        if !self.is_given(Setting::NodeId) {
            self.mistake(
                Setting::InitialCluster,
                &format!("say with --node-id which of its nodes ({ids}) this one is"),
            );
            return None;
        }
        let text = self.settings.get(Setting::NodeId)?.text.clone();
        let id = node_id(&text).ok()?;
        let Some(own) = founders.get(&id) else {
            self.mistake(
                Setting::NodeId,
                &format!("{id} is not in --initial-cluster, which has {ids}"),
            );
            return None;
        };
        if let Some(addr) = peer_addr.filter(|addr| addr != own) {
            self.mistake(
                Setting::PeerAddr,
                &format!(
                    "{addr} is not what --initial-cluster has for node {id}, {own}; write the same, or leave \
                     it out"
                ),
            );
        }
        Some(own.clone())
    }

    /// Without this node's own address, which may stand in a list that all nodes are given.
    fn other_seeds(&mut self, seeds: Vec<String>, peer_addr: Option<&str>) -> Vec<String> {
        let others: Vec<String> = seeds
            .into_iter()
            .filter(|seed| Some(seed.as_str()) != peer_addr)
            .collect();
        if others.is_empty() {
            self.mistake(
                Setting::Join,
                "names only this node itself (--peer-addr); name other members",
            );
        }
        others
    }

    /// A port serves peers or clients.
    fn check_ports(&mut self, bind: &Bind, peer_addr: &str) {
        let Bind::Tcp { host, port } = bind else {
            return;
        };
        let Some((peer_host, peer_port)) = peer_addr.rsplit_once(':') else {
            return;
        };
        let peer_host = peer_host.trim_matches(['[', ']']);
        let same_host = host.is_empty()
            || host == peer_host
            || host.parse().is_ok_and(|host: IpAddr| host.is_unspecified());
        if same_host && peer_port.parse() == Ok(*port) {
            let setting = if self.is_given(Setting::PeerAddr) {
                Setting::PeerAddr
            } else {
                Setting::Port
            };
            self.mistake(
                setting,
                &format!(
                    "the peers' port {port} is the clients' port (-p/--port); they must differ"
                ),
            );
        }
    }

    fn warn_of_founders(&mut self, founders: &BTreeMap<u64, String>) {
        let count = founders.len();
        if count > 1 && count.is_multiple_of(2) {
            self.settings.notices.push(format!(
                "{count} founders survive the loss of no more nodes than {} would; use an odd number",
                count - 1
            ));
        }
    }

    /// A voter in memory forgets with its process what it has promised to the others, and never comes back
    /// under its number: each restart would leave a dead voter behind.
    fn check_storage(&mut self, storage: &StorageLocation, birth: &Birth) {
        let way_out = match birth {
            _ if *storage != StorageLocation::Memory => return,
            Birth::Join { learner: true, .. } => return,
            Birth::Join { .. } => "use rocksdb:DIR, or stay without a vote with --learner",
            Birth::Found { founders } if founders.len() > 1 => "use rocksdb:DIR",
            Birth::Found { .. } | Birth::Done => return,
        };
        self.mistake(
            Setting::Storage,
            &format!(
                "this node would vote among others and keep its state in memory only, so that it could not \
                 come back after its end; {way_out}"
            ),
        );
    }

    /// Without a key, whoever reaches the peer port can vote and write.
    fn check_openness(&mut self, founds: bool, insecure: bool) {
        if insecure {
            self.settings.notices.push(
                "no --cluster-key-file: anyone who reaches the peer port can take part in this cluster \
                 (--insecure-peers)"
                    .to_owned(),
            );
            return;
        }
        let setting = if founds {
            Setting::InitialCluster
        } else if self.is_given(Setting::Join) {
            Setting::Join
        } else {
            Setting::PeerAddr
        };
        self.mistake(
            setting,
            "other machines reach this cluster, and it has no key, so that anyone could take part in it: make \
             one (openssl rand -hex 32 > FILE; chmod 600 FILE), and give it to every node with \
             --cluster-key-file FILE; --insecure-peers does without",
        );
    }

    fn warn_of_risks(&mut self, bind: &Bind, stays_here: bool, birth: &Birth) {
        let learns = matches!(birth, Birth::Join { learner: true, .. });
        let serves_here_only = matches!(bind, Bind::Tcp { host, .. } if is_local_host(host));
        if serves_here_only && !stays_here && !learns {
            self.settings.notices.push(
                "clients on other machines do not reach this node, which serves localhost; give -n/--host"
                    .to_owned(),
            );
        }
    }

    /// The keys in the file; none without one.
    fn cluster_keys(&mut self) -> ClusterKeys {
        let Some(keys) = self.parse(Setting::ClusterKeyFile, cluster_keys) else {
            return ClusterKeys::default();
        };
        if let Some(key) = keys.iter().find(|key| key.len() < KEY_LEN_SAFE) {
            self.settings.notices.push(format!(
                "a key of the cluster has only {} bytes and could be guessed; use {KEY_LEN_SAFE} or more",
                key.len()
            ));
        }
        ClusterKeys::new(keys)
    }

    /// Election timeout, from and to, and heartbeat interval.
    pub(crate) fn timing(&mut self) -> ((Duration, Duration), Duration) {
        let election = self.parse(Setting::ElectionTimeout, election_timeout);
        let heartbeat = self.parse(Setting::HeartbeatInterval, heartbeat_interval);
        let is_right = |setting, parsed: bool| parsed || !self.is_given(setting);
        let is_checked = is_right(Setting::ElectionTimeout, election.is_some())
            && is_right(Setting::HeartbeatInterval, heartbeat.is_some());
        let election = election.unwrap_or(DEFAULTS.election_timeout);
        let heartbeat = heartbeat.unwrap_or(DEFAULTS.heartbeat_interval);
        if is_checked && heartbeat * HEARTBEATS_PER_TIMEOUT > election.0 {
            let (setting, way_out) = if self.is_given(Setting::HeartbeatInterval) {
                let most = election.0 / HEARTBEATS_PER_TIMEOUT;
                (
                    Setting::HeartbeatInterval,
                    format!(
                        "use at most {} ms, or raise --election-timeout",
                        most.as_millis()
                    ),
                )
            } else {
                let least = heartbeat * HEARTBEATS_PER_TIMEOUT;
                (
                    Setting::ElectionTimeout,
                    format!(
                        "begin at {} ms, or lower --heartbeat-interval",
                        least.as_millis()
                    ),
                )
            };
            self.mistake(
                setting,
                &format!(
                    "{HEARTBEATS_PER_TIMEOUT} heartbeats of {} ms do not fit into an election timeout of {} ms; \
                     {way_out}",
                    heartbeat.as_millis(),
                    election.0.as_millis()
                ),
            );
        }
        (election, heartbeat)
    }

    fn is_given(&self, setting: Setting) -> bool {
        self.settings.get(setting).is_some()
    }
}

/// `1=HOST:PORT,2=HOST:PORT`.
fn founders(text: &str) -> Result<BTreeMap<u64, String>, String> {
    let mut founders = BTreeMap::new();
    for part in text.split(',').map(str::trim) {
        let Some((id, addr)) = part.split_once('=') else {
            return Err(format!(
                "'{part}' is not of the form NUMBER=HOST:PORT; the list looks like 1=a:9092,2=b:9092,3=c:9092"
            ));
        };
        let id = node_id(id).map_err(|reason| format!("'{part}': {reason}"))?;
        let addr = peer_addr(addr).map_err(|reason| format!("'{part}': {reason}"))?;
        if let Some(other) = founders
            .iter()
            .find_map(|(id, known)| (*known == addr).then_some(id))
        {
            return Err(format!(
                "the nodes {other} and {id} have the same address {addr}"
            ));
        }
        if founders.insert(id, addr).is_some() {
            return Err(format!("the number {id} stands there twice"));
        }
    }
    if founders.len() > FOUNDER_COUNT_MAX {
        return Err(format!(
            "{} founders, and at most {FOUNDER_COUNT_MAX} nodes may vote; let the others join with \
             --join and --learner",
            founders.len()
        ));
    }
    Ok(founders)
}

/// `HOST:PORT,HOST:PORT`, each once.
fn peer_addrs(text: &str) -> Result<Vec<String>, String> {
    let mut addrs = Vec::new();
    for part in text.split(',') {
        let addr = peer_addr(part)?;
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    Ok(addrs)
}

/// `HOST:PORT` or `HOST`, an IPv6 address in brackets; the port is added where it is missing.
fn peer_addr(text: &str) -> Result<String, String> {
    let text = text.trim();
    let malformed = |reason: &str| {
        Err(format!(
            "'{text}' is no address for peers: {reason}; write HOST:PORT, or [IPV6]:PORT"
        ))
    };
    if text.contains("@") || text.starts_with("PYRO") {
        return malformed("it is a Pyro URI");
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => {
                match rest.strip_prefix(':') {
                    Some(port) => (format!("[{host}]"), Some(port)),
                    None if rest.is_empty() => (format!("[{host}]"), None),
                    None => return malformed("nothing but a port can follow the bracket"),
                }
            }
            _ => return malformed("there is no IPv6 address in the brackets"),
        },
        None => match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => return malformed("it has too many colons"),
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    if host.is_empty() {
        return malformed("the host is missing");
    }
    let is_odd = |char: char| char.is_whitespace() || char.is_control() || "=/\"'".contains(char);
    if host.contains(is_odd) {
        return malformed("the host is no name and no address");
    }
    let bare = host.trim_matches(['[', ']']);
    if bare.parse().is_ok_and(|host: IpAddr| host.is_unspecified()) {
        return malformed("other nodes cannot connect to all interfaces");
    }
    let port = match port.map(str::parse::<u16>) {
        None => DEFAULTS.peer_port,
        Some(Ok(port)) if port != 0 => port,
        Some(_) => return malformed("the port is a number from 1 to 65535"),
    };
    let addr = format!("{host}:{port}");
    if addr.len() > PEER_ADDR_LEN_MAX {
        return Err(format!(
            "an address for peers has at most {PEER_ADDR_LEN_MAX} bytes, not {}",
            addr.len()
        ));
    }
    Ok(addr)
}

/// The keys in a file, one a line; the first is the one to use.
///
/// # Errors
/// Text for a person, when it cannot be read, holds none or too many, or is open to other users.
pub(crate) fn cluster_keys(file: &str) -> Result<Vec<Vec<u8>>, String> {
    if file.is_empty() {
        return Err("names no file".to_owned());
    }
    let unreadable = |error: std::io::Error| format!("{file} cannot be read: {error}");
    let opened = std::fs::File::open(Path::new(file)).map_err(unreadable)?;
    check_ownership(file, &opened.metadata().map_err(unreadable)?)?;
    let mut content = Vec::new();
    opened
        .take(KEY_LEN_MAX as u64 + 1)
        .read_to_end(&mut content)
        .map_err(unreadable)?;
    if content.len() > KEY_LEN_MAX {
        return Err(format!(
            "{file} has more than {KEY_LEN_MAX} bytes; is it the right file?"
        ));
    }
    let keys = admin::keys_of_file(&content);
    if keys.is_empty() {
        return Err(format!(
            "{file} is empty; make a secret with, for example, openssl rand -hex 32, and give every node the same"
        ));
    }
    if keys.len() > admin::KEY_COUNT_MAX {
        return Err(format!(
            "{file} holds {} keys, one a line; {} may be valid at once",
            keys.len(),
            admin::KEY_COUNT_MAX
        ));
    }
    Ok(keys.into_iter().map(<[u8]>::to_vec).collect())
}

/// Refuses a file that others on this machine may read or change, as ssh does.
fn check_ownership(file: &str, metadata: &std::fs::Metadata) -> Result<(), String> {
    // A pipe or a file of a service manager's has no bits that say anything.
    if !metadata.is_file() {
        return Ok(());
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{file} has the mode {mode:04o}, so that other users of this machine can use the key; chmod 600 {file}"
        ));
    }
    let (owner, us) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != us && owner != 0 {
        return Err(format!(
            "{file} belongs to the user {owner}, who can use the key, and this process runs as {us}; chown {us} {file}"
        ));
    }
    Ok(())
}

fn millis(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let number = text.strip_suffix("ms").unwrap_or(text).trim();
    number
        .parse()
        .map(Duration::from_millis)
        .map_err(|_| format!("'{text}' is no number of milliseconds"))
}

fn election_timeout(text: &str) -> Result<(Duration, Duration), String> {
    let Some((min, max)) = text.split_once('-') else {
        return Err(format!(
            "'{text}' is not of the form MIN-MAX in milliseconds, such as {}-{}",
            DEFAULTS.election_timeout.0.as_millis(),
            DEFAULTS.election_timeout.1.as_millis()
        ));
    };
    let (min, max) = (millis(min)?, millis(max)?);
    if min >= max {
        return Err(format!(
            "'{text}': the first number must be smaller than the second, or nodes that lost their leader would \
             keep each other from becoming one"
        ));
    }
    if max > ELECTION_TIMEOUT_MAX {
        return Err(format!(
            "'{text}': at most {} ms",
            ELECTION_TIMEOUT_MAX.as_millis()
        ));
    }
    Ok((min, max))
}

fn heartbeat_interval(text: &str) -> Result<Duration, String> {
    let interval = millis(text)?;
    if interval < HEARTBEAT_MIN {
        return Err(format!(
            "'{text}': at least {} ms",
            HEARTBEAT_MIN.as_millis()
        ));
    }
    // Together with the election timeout it is bounded from above.
    Ok(interval.min(ELECTION_TIMEOUT_MAX))
}

/// Whether no other machine takes part.
fn stays_here(peer_addr: Option<&str>, birth: &Birth) -> bool {
    match (peer_addr, birth) {
        (Some(addr), _) => is_local_addr(addr),
        (None, Birth::Join { seeds, .. }) => seeds.iter().all(|seed| is_local_addr(seed)),
        (None, Birth::Found { .. } | Birth::Done) => false,
    }
}

/// Whether an address for peers can only be reached from this machine.
fn is_local_addr(addr: &str) -> bool {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    is_local_host(host.trim_matches(['[', ']']))
}

fn is_local_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_local)
}

#[cfg(test)]
#[path = "cluster_test.rs"]
mod tests;
