//! What a node is told, checked once: inside the node, a [`NodeConfig`] is the proof that it makes sense.
//!
//! [`load`] turns command line, environment and file into one, and reports every mistake in one go.

use std::ffi::OsString;
use std::fmt;
use std::num::IntErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use hearth_raft::Tuning;
pub use hearth_raft::{Birth, ClusterKeys, StorageLocation};
use hearth_wire::{Limits, Serializer};

use crate::args::{Args, Parsed};
pub use crate::autoclean::AutocleanConfig;
pub use crate::cluster::ClusterSettings;
use crate::cluster::storage_refusal;
use crate::limits::ClientLimits;
use crate::logging::{LogConfig, LogFormat};
use crate::pyro::{DEFAULT_LIMITS, ReadMode, SerializerSet, ServerType};
use crate::settings::{Given, Origin, Setting, Settings, parse_bool};

/// What applies where nothing is given.
pub const DEFAULTS: Defaults = Defaults {
    host: "localhost",
    port: 9090,
    broadcast_host: "",
    broadcast_port: 9091,
    cluster_name: "hearth",
    peer_port: 9092,
    election_timeout: (Duration::from_millis(1000), Duration::from_millis(2000)),
    heartbeat_interval: Duration::from_millis(100),
    connection_count_max: 10_000,
    registration_len_max: 1 << 20,
    call_timeout: Duration::from_secs(10),
    header_timeout: Duration::from_secs(30),
    probe_timeout: Duration::from_secs(5),
    autoclean_grace: Duration::from_secs(20),
    prefer_ip_version: IpPreference::Any,
    // openraft reports at the level of a warning what is daily business to it.
    log_filter: "warn,openraft=error",
};

/// The type of [`DEFAULTS`].
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// `HOST` of Pyro: nobody else is let in without a decision.
    pub host: &'static str,
    /// `NS_PORT` of Pyro.
    pub port: u16,
    /// `NS_BCHOST` of Pyro: every interface.
    pub broadcast_host: &'static str,
    /// `NS_BCPORT` of Pyro.
    pub broadcast_port: u16,
    /// The cluster of those that did not name theirs.
    pub cluster_name: &'static str,
    /// Where nodes reach each other: next to the ports of clients and of discovery.
    pub peer_port: u16,
    /// Ten times what a slow disk takes, and two signs of life may be lost on a bad network.
    pub election_timeout: (Duration, Duration),
    /// Ten in the shortest election timeout.
    pub heartbeat_interval: Duration,
    /// Connections at once.
    pub connection_count_max: usize,
    /// Bytes of name, URI and tags of a registration together: no program comes near, and a client that means
    /// harm does not get far.
    pub registration_len_max: usize,
    /// How long a call may wait for the cluster: several elections.
    pub call_timeout: Duration,
    /// How long a message may take to arrive.
    pub header_timeout: Duration,
    /// How long autoclean waits for an object where `COMMTIMEOUT` does not say.
    pub probe_timeout: Duration,
    /// How long autoclean gives an object to come back, as in Pyro.
    pub autoclean_grace: Duration,
    /// Pyro4 prefers IPv4 and Pyro5 leaves the choice to the system, so their programs may look for
    /// `localhost` at two addresses.
    pub prefer_ip_version: IpPreference,
    /// What is logged: nothing at all in a normal start.
    pub log_filter: &'static str,
}

/// Everything a node must know to start. [`NodeConfig::default`] is what `hearthd` without arguments uses.
#[derive(Clone)]
pub struct NodeConfig {
    /// Where clients connect to.
    pub bind: Bind,
    /// Where clients behind a NAT connect to.
    pub nat: Option<Nat>,
    /// The broadcast responder; none with `-x`.
    pub broadcast: Option<Broadcast>,
    /// Where the names are kept.
    pub storage: StorageLocation,
    /// For tests of power failures (`HEARTH_SYNC_RECORD`): the file that tells after each sync of the disk
    /// what is durable, as [`hearth_storage::store::rocks::lost_writes`] describes it. Costs time.
    pub sync_record: Option<PathBuf>,
    /// Bytes of the replicated log beyond which it is shortened to half of that (`HEARTH_LOG_SIZE_MAX`): a node
    /// that was away for longer gets a whole snapshot.
    pub log_len_max: u64,
    /// The key that Pyro4 messages must be signed with.
    pub hmac_key: Option<Box<[u8]>>,
    /// Whether the key came by `-k`, where everyone on this machine can read it.
    pub key_on_command_line: bool,
    /// This node's number, 1 and up. `None`: the one that its storage has; in a new one 1 for a node alone,
    /// and for one that joins what the cluster gives it.
    pub node_id: Option<u64>,
    /// Part of the cluster's identity.
    pub cluster_name: String,
    /// How this node takes part in a cluster; none for a node alone.
    pub cluster: Option<ClusterSettings>,
    /// How look-ups are answered.
    pub reads: ReadMode,
    /// How long a node waits without a leader before it wants to be one, from and to.
    pub election_timeout: (Duration, Duration),
    /// From one sign of life of a leader to the next.
    pub heartbeat_interval: Duration,
    /// Connections at once, 1 and up; when all are taken, the longest idle gives way.
    pub connection_count_max: usize,
    /// Connections of one address at once, 1 and up. `None`: a quarter of all for other machines, and no
    /// limit for this one.
    pub connection_count_per_address_max: Option<usize>,
    /// A connection without traffic for so long is closed.
    pub idle_timeout: Option<Duration>,
    /// How long a call may wait for the cluster before its client is told that it failed.
    pub call_timeout: Duration,
    /// A message that began to arrive must be whole by then.
    pub header_timeout: Duration,
    /// Bounds on what one message may hold; at most 64 MiB.
    pub limits: Limits,
    /// Bytes that name, URI and tags of a registration may have together.
    pub registration_len_max: usize,
    /// Whether replies are compressed.
    pub compression: bool,
    /// Serializers that Pyro4 clients may use.
    pub pyro4_serializers: SerializerSet,
    /// What `info()` calls this server.
    pub server_type: ServerType,
    /// Whether an address in `TIME_WAIT` is taken all the same.
    pub sock_reuse: bool,
    /// Which addresses of a host name are bound.
    pub prefer_ip_version: IpPreference,
    /// The port of `PYRONAME:` and `PYROMETA:` locations without one: `PYRO_NS_PORT`, never `--port`.
    pub ns_port: u16,
    /// How entries of objects that are gone are found; none for not at all.
    pub autoclean: Option<AutocleanConfig>,
    /// What is logged and where to. [`start_ns`](crate::start_ns) leaves logging to its caller.
    pub log: LogConfig,
    /// What the log says once about settings that do not have the effect that was asked for.
    pub notices: Vec<String>,
}

/// Where clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// A TCP socket.
    Tcp {
        /// Host name or address, IPv6 without brackets; empty for all interfaces (IPv4).
        host: String,
        /// The port, 0 for a free one.
        port: u16,
    },
    /// A unix socket at this path, without colons.
    Unix(String),
}

/// Location under which a name server is known outside of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// Host name or address.
    pub host: String,
    /// The port; that of the socket where there is none.
    pub port: Option<u16>,
}

/// The broadcast responder's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    /// Host name or address, empty for all interfaces.
    pub host: String,
    /// The port, 0 for a free one.
    pub port: u16,
}

/// `PREFER_IP_VERSION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpPreference {
    /// IPv4 if the host has such an address, else whatever it has.
    V4,
    /// IPv6 or nothing.
    V6,
    /// That of [`Self::V4`], where Pyro4 programs look, and the first one that the system's resolver names,
    /// where Pyro5 programs do.
    Any,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            bind: Bind::Tcp {
                host: DEFAULTS.host.to_owned(),
                port: DEFAULTS.port,
            },
            nat: None,
            broadcast: Some(Broadcast {
                host: DEFAULTS.broadcast_host.to_owned(),
                port: DEFAULTS.broadcast_port,
            }),
            storage: StorageLocation::Memory,
            sync_record: None,
            log_len_max: Tuning::default().log_len_max,
            hmac_key: None,
            key_on_command_line: false,
            node_id: None,
            cluster_name: DEFAULTS.cluster_name.to_owned(),
            cluster: None,
            reads: ReadMode::default(),
            election_timeout: DEFAULTS.election_timeout,
            heartbeat_interval: DEFAULTS.heartbeat_interval,
            connection_count_max: DEFAULTS.connection_count_max,
            connection_count_per_address_max: None,
            idle_timeout: None,
            call_timeout: DEFAULTS.call_timeout,
            header_timeout: DEFAULTS.header_timeout,
            limits: DEFAULT_LIMITS,
            registration_len_max: DEFAULTS.registration_len_max,
            compression: false,
            pyro4_serializers: SerializerSet::PYRO4_DEFAULT,
            server_type: ServerType::default(),
            sock_reuse: true,
            prefer_ip_version: DEFAULTS.prefer_ip_version,
            ns_port: DEFAULTS.port,
            autoclean: None,
            log: LogConfig::default(),
            notices: Vec::new(),
        }
    }
}

/// Hides the key: a configuration may end up in a log.
impl fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConfig")
            .field("bind", &self.bind)
            .field("nat", &self.nat)
            .field("broadcast", &self.broadcast)
            .field("storage", &self.storage)
            .field("hmac_key", &self.hmac_key.as_ref().map(|_| "set"))
            .field("node_id", &self.node_id)
            .field("cluster_name", &self.cluster_name)
            .field("cluster", &self.cluster)
            .field("connection_count_max", &self.connection_count_max)
            .finish_non_exhaustive()
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", mistakes.join("\n"))]
pub struct ConfigError {
    /// One sentence each, the setting's name first.
    pub mistakes: Vec<String>,
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To print this (help, version) and be done.
    Print(String),
    /// To run a node.
    Run(Box<NodeConfig>),
}

/// Reads the command line `words` (the program's name first), the environment, and the file that they
/// name, if any.
///
/// # Errors
/// [`ConfigError`] with every mistake in all of them.
pub fn load(
    words: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Request, ConfigError> {
    let (args, mut mistakes) = match Args::read(words) {
        Parsed::Text(text) => return Ok(Request::Print(text)),
        Parsed::Args(args, mistakes) => (args, mistakes),
    };
    let settings = Settings::gather(&args, environment, &mut mistakes);
    let config = Checker {
        settings,
        mistakes: &mut mistakes,
    }
    .check();
    if mistakes.is_empty() {
        Ok(Request::Run(Box::new(config)))
    } else {
        Err(ConfigError { mistakes })
    }
}

/// Turns texts into values and collects what is wrong with them.
pub(crate) struct Checker<'a> {
    pub(crate) settings: Settings,
    mistakes: &'a mut Vec<String>,
}

impl Checker<'_> {
    fn check(mut self) -> NodeConfig {
        let defaults = NodeConfig::default();
        let bind_port = self.parse(Setting::Port, port).unwrap_or(DEFAULTS.port);
        let bind = self.bind(bind_port);
        // Other name servers are expected at the port that Pyro is configured with, wherever this one is.
        let ns_port = self.settings.ns_port_item.as_deref();
        let ns_port = ns_port
            .and_then(|text| port(text).ok())
            .filter(|port| *port != 0);
        let nat = self.nat(&bind);
        let broadcast = self.broadcast();
        let (limits, registration_len_max) = self.limits();
        let idle_timeout = self.parse(Setting::CommTimeout, seconds).flatten();
        let autoclean = self.autoclean(idle_timeout);
        let storage = self.storage();
        let cluster = self.cluster(&bind, &storage);
        let (election_timeout, heartbeat_interval) = self.timing();
        NodeConfig {
            nat,
            broadcast,
            limits,
            registration_len_max,
            storage,
            cluster,
            election_timeout,
            heartbeat_interval,
            reads: self.parse(Setting::Reads, read_mode).unwrap_or_default(),
            hmac_key: self
                .text(Setting::Key)
                .filter(|key| !key.is_empty())
                .map(|key| key.into_bytes().into()),
            sync_record: self
                .text(Setting::SyncRecord)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            log_len_max: self
                .parse(Setting::LogSizeMax, number_from(LOG_LEN_MAX_LEAST))
                .unwrap_or(defaults.log_len_max),
            key_on_command_line: self.settings.get(Setting::Key).is_some_and(|given| {
                !given.text.is_empty() && matches!(given.origin, Origin::Option(_))
            }),
            node_id: self.parse(Setting::NodeId, node_id),
            cluster_name: self
                .parse(Setting::ClusterName, cluster_name)
                .unwrap_or(defaults.cluster_name),
            connection_count_max: self
                .parse(Setting::MaxConnections, connection_count)
                .unwrap_or(DEFAULTS.connection_count_max),
            connection_count_per_address_max: self
                .parse(Setting::MaxConnectionsPerAddress, connection_count),
            idle_timeout,
            autoclean,
            call_timeout: self
                .parse(Setting::CallTimeout, positive_seconds)
                .unwrap_or(DEFAULTS.call_timeout),
            header_timeout: self
                .parse(Setting::HeaderTimeout, positive_seconds)
                .unwrap_or(DEFAULTS.header_timeout),
            compression: self
                .parse(Setting::Compression, parse_bool)
                .unwrap_or(false),
            pyro4_serializers: self.serializers(),
            server_type: self
                .parse(Setting::ServerType, server_type)
                .unwrap_or_default(),
            sock_reuse: self.parse(Setting::SockReuse, parse_bool).unwrap_or(true),
            prefer_ip_version: self
                .parse(Setting::PreferIpVersion, ip_preference)
                .unwrap_or(DEFAULTS.prefer_ip_version),
            ns_port: ns_port.unwrap_or(DEFAULTS.port),
            log: self.log(),
            bind,
            notices: self.settings.notices,
        }
    }

    fn bind(&mut self, port: u16) -> Bind {
        if let Some(path) = self.parse(Setting::UnixSocket, unix_path)
            && !path.is_empty()
        {
            return Bind::Unix(path);
        }
        Bind::Tcp {
            host: self
                .parse(Setting::Host, host)
                .unwrap_or_else(|| DEFAULTS.host.to_owned()),
            port,
        }
    }

    fn storage(&mut self) -> StorageLocation {
        let is_one_of_several = [Setting::InitialCluster, Setting::Join]
            .into_iter()
            .any(|setting| self.settings.get(setting).is_some());
        let parse = |text: &str| match storage_refusal(text) {
            Some(refusal) if is_one_of_several => Err(refusal),
            _ => storage(text),
        };
        let storage = self
            .parse(Setting::Storage, parse)
            .unwrap_or(StorageLocation::Memory);
        if let StorageLocation::Rocks(folder) = &storage
            && folder.to_string_lossy().starts_with('~')
        {
            self.settings.notices.push(format!(
                "{}: no shell replaces the ~ in rocksdb:{folder}, so this is a folder in the working folder; \
                 write \"rocksdb:$HOME/…\"",
                self.settings.origin(Setting::Storage),
                folder = folder.display()
            ));
        }
        storage
    }

    fn nat(&mut self, bind: &Bind) -> Option<Nat> {
        let host = self.parse(Setting::NatHost, host);
        let port = self.parse(Setting::NatPort, port);
        let Some(host) = host else {
            // NATPORT=0 in the environment is Pyro's own way of saying that there is none.
            if port.is_some_and(|port| port != 0) {
                self.mistake(Setting::NatPort, "must provide nathost with natport");
            }
            return None;
        };
        if host.is_empty() {
            return None;
        }
        if matches!(bind, Bind::Unix(_)) {
            self.mistake(
                Setting::NatHost,
                "cannot use nathost together with unixsocket",
            );
        }
        Some(Nat {
            host,
            port: port.filter(|port| *port != 0),
        })
    }

    fn broadcast(&mut self) -> Option<Broadcast> {
        let host = self
            .parse(Setting::BroadcastHost, host)
            .unwrap_or_else(|| DEFAULTS.broadcast_host.to_owned());
        let port = self
            .parse(Setting::BroadcastPort, port)
            .unwrap_or(DEFAULTS.broadcast_port);
        let off = self
            .parse(Setting::NoBroadcast, parse_bool)
            .unwrap_or(false);
        (!off).then_some(Broadcast { host, port })
    }

    /// What a message, and a registration in it, may hold. Pyro4's `MAX_MESSAGE_SIZE=0`, no limit at all, would
    /// let any peer fill our memory.
    fn limits(&mut self) -> (Limits, usize) {
        let len = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        let message = self.parse(Setting::MaxMessageSize, number_from(0));
        if message == Some(0) {
            self.settings.notices.push(format!(
                "MAX_MESSAGE_SIZE=0 means no limit to Pyro4; messages stay bounded by {} bytes here",
                DEFAULT_LIMITS.message_len_max
            ));
        }
        let registration = self.parse(Setting::MaxRegistrationSize, at_least_one);
        let limits = ClientLimits {
            message_len_max: message.filter(|size| *size > 0).map(len),
            registration_len_max: registration.map(len),
        };
        match limits.fit() {
            Ok((limits, registration, notice)) => {
                self.settings.notices.extend(notice);
                (limits, registration)
            }
            Err(reason) => {
                self.mistake(Setting::MaxRegistrationSize, &reason);
                (DEFAULT_LIMITS, DEFAULTS.registration_len_max)
            }
        }
    }

    fn autoclean(&mut self, comm_timeout: Option<Duration>) -> Option<AutocleanConfig> {
        let period = self.parse(Setting::Autoclean, autoclean).flatten()?;
        Some(AutocleanConfig {
            period,
            probe_timeout: comm_timeout.unwrap_or(DEFAULTS.probe_timeout),
            grace: DEFAULTS.autoclean_grace,
        })
    }

    /// What Pyro4 clients may use. Pickles are not read; their names may stand beside others, since the
    /// programs that do not use them shall find the name server.
    fn serializers(&mut self) -> SerializerSet {
        let Some((set, pickled)) = self.parse(Setting::Serializers, serializers) else {
            return SerializerSet::PYRO4_DEFAULT;
        };
        if !pickled.is_empty() {
            let origin = self.settings.origin(Setting::Serializers);
            self.settings.notices.push(format!(
                "{origin}: clients that use {} are refused, because this server reads no pickles; those that \
                 use the others are served",
                pickled.join(", ")
            ));
        }
        set
    }

    /// The log is Pyro's `pyro.log` where nothing but `PYRO_LOGLEVEL` asks for one. A file that Pyro's own
    /// items name may be one that cannot be written, as in Pyro4.
    fn log(&mut self) -> LogConfig {
        let file = self.settings.get(Setting::LogFile);
        let level = self.settings.get(Setting::Log);
        let is_pyros = |given: &Given| given.origin.is_pyro_item();
        let (file, may_fall_back) = match file {
            Some(given) => (given.text.as_str(), is_pyros(given)),
            None if level.is_some_and(is_pyros) => (PYRO_LOG_FILE, true),
            None => ("", false),
        };
        let file = (!file.is_empty()).then(|| PathBuf::from(file));
        LogConfig {
            file,
            may_fall_back,
            filter: self
                .parse(Setting::Log, crate::logging::check_filter)
                .unwrap_or_else(|| DEFAULTS.log_filter.to_owned()),
            format: self
                .parse(Setting::LogFormat, log_format)
                .unwrap_or_default(),
        }
    }

    fn text(&self, setting: Setting) -> Option<String> {
        self.settings.get(setting).map(|given| given.text.clone())
    }

    /// Notes what is wrong with `setting`.
    pub(crate) fn mistake(&mut self, setting: Setting, reason: &str) {
        let origin = self.settings.origin(setting);
        self.mistakes.push(format!("{origin}: {reason}"));
    }

    /// The value of `setting`; none if it was not given or is wrong.
    pub(crate) fn parse<T>(
        &mut self,
        setting: Setting,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let given = self.settings.get(setting)?;
        match parse(&given.text) {
            Ok(value) => Some(value),
            Err(reason) => {
                let mistake = format!("{}: {reason}", given.origin);
                self.mistakes.push(mistake);
                None
            }
        }
    }
}

fn host(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.contains(['[', ']']) {
        return Err(format!("'{text}': write an IPv6 address without brackets"));
    }
    if text.contains(|char: char| char.is_whitespace() || char.is_control() || char == '@') {
        return Err(format!("'{text}' is no host name or address"));
    }
    Ok(text.to_owned())
}

fn port(text: &str) -> Result<u16, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("'{text}' is no port; use a number from 0 to 65535"))
}

/// Kernels take 107 bytes and a terminator.
const UNIX_PATH_LEN_MAX: usize = 107;

fn unix_path(text: &str) -> Result<String, String> {
    if text.contains(':') {
        return Err(format!(
            "'{text}': a Pyro location cannot hold a unix socket's path with a colon in it"
        ));
    }
    if text.contains(['\n', '\0']) {
        return Err("a unix socket's path cannot hold line ends or zero bytes".to_owned());
    }
    if text.len() > UNIX_PATH_LEN_MAX {
        return Err(format!(
            "the path has {} bytes, and a unix socket's path at most {UNIX_PATH_LEN_MAX}",
            text.len()
        ));
    }
    Ok(text.to_owned())
}

pub(crate) fn storage(text: &str) -> Result<StorageLocation, String> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    match (kind, rest) {
        ("", "") | ("memory", "") => Ok(StorageLocation::Memory),
        ("rocksdb", "") => Err("rocksdb: needs a folder, as in rocksdb:/var/lib/hearth".to_owned()),
        ("rocksdb", folder) => Ok(StorageLocation::Rocks(PathBuf::from(folder))),
        ("sql", ":memory:") => Err(
            "the sqlite :memory: database is not supported; memory, the default, is volatile too"
                .to_owned(),
        ),
        ("sql" | "dbm", _) => Err(format!(
            "{kind}: storage is not supported yet; use rocksdb:DIR, and register the names that the file holds \
             once more (run the old server on it beside this one and copy its list)"
        )),
        _ => Err(format!(
            "invalid storage type '{text}'; use memory or rocksdb:DIR"
        )),
    }
}

fn number_from(min: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| match text.trim().parse::<u64>() {
        Ok(number) if number >= min => Ok(number),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => {
            Err(format!("{} is too large", text.trim()))
        }
        _ => Err(format!("'{text}' is no whole number from {min} up")),
    }
}

/// Where Pyro4 logs to in the working folder, unless `PYRO_LOGFILE` says otherwise.
const PYRO_LOG_FILE: &str = "pyro.log";

/// A shorter log would be gone before a snapshot has arrived.
const LOG_LEN_MAX_LEAST: u64 = 16 << 10;

/// Numbers of nodes stay within what every serializer of Pyro can express.
const NODE_ID_MAX: u64 = i32::MAX as u64;

pub(crate) fn node_id(text: &str) -> Result<u64, String> {
    match at_least_one(text)? {
        id if id > NODE_ID_MAX => Err(format!("{id} is too large; at most {NODE_ID_MAX}")),
        id => Ok(id),
    }
}

fn read_mode(text: &str) -> Result<ReadMode, String> {
    match text {
        "linearizable" => Ok(ReadMode::Linearizable),
        "available" => Ok(ReadMode::Available),
        "stale" => Ok(ReadMode::Stale),
        _ => Err(format!(
            "'{text}' is none of linearizable, available and stale"
        )),
    }
}

fn at_least_one(text: &str) -> Result<u64, String> {
    number_from(1)(text)
}

fn connection_count(text: &str) -> Result<usize, String> {
    at_least_one(text).map(|count| usize::try_from(count).unwrap_or(usize::MAX))
}

const CLUSTER_NAME_LEN_MAX: usize = 64;

pub(crate) fn cluster_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > CLUSTER_NAME_LEN_MAX {
        return Err(format!(
            "a cluster's name has 1 to {CLUSTER_NAME_LEN_MAX} bytes, not {}",
            text.len()
        ));
    }
    if text.contains(|char: char| char.is_whitespace() || char.is_control()) {
        return Err("a cluster's name has no blanks in it".to_owned());
    }
    Ok(text.to_owned())
}

/// A time span; none for zero, which means "no limit" wherever Pyro reads one.
/// The longest that anything waits: a clock can be asked for the end of it.
const SPAN_MAX: Duration = Duration::from_secs(366 * 86_400);

fn seconds(text: &str) -> Result<Option<Duration>, String> {
    let span = text
        .trim()
        .parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("'{text}' is no number of seconds"))?;
    if span > SPAN_MAX {
        return Err(format!(
            "'{text}' is more than a year ({} seconds)",
            SPAN_MAX.as_secs()
        ));
    }
    Ok((!span.is_zero()).then_some(span))
}

fn positive_seconds(text: &str) -> Result<Duration, String> {
    seconds(text)?.ok_or_else(|| "must be more than zero seconds".to_owned())
}

fn autoclean(text: &str) -> Result<Option<Duration>, String> {
    match seconds(text)? {
        Some(span) if span < Duration::from_secs(3) => {
            Err("NS_AUTOCLEAN cannot be smaller than 3".to_owned())
        }
        other => Ok(other),
    }
}

/// The serializers in a list, and those of the pickle family.
fn serializers(text: &str) -> Result<(SerializerSet, Vec<String>), String> {
    let mut set = SerializerSet::EMPTY;
    let mut pickled = Vec::new();
    for name in text.split(',').map(str::trim) {
        set = set.with(match name {
            "serpent" => Serializer::Serpent,
            "json" => Serializer::Json,
            "marshal" => Serializer::Marshal,
            "msgpack" => Serializer::Msgpack,
            "pickle" | "cloudpickle" | "dill" => {
                pickled.push(name.to_owned());
                continue;
            }
            _ => return Err(format!("serializer '{name}' is unknown or not available")),
        });
    }
    if set == SerializerSet::EMPTY {
        return Err(format!(
            "'{text}': this server reads no pickles and could serve no Pyro4 client; add serpent"
        ));
    }
    Ok((set, pickled))
}

fn server_type(text: &str) -> Result<ServerType, String> {
    match text {
        "thread" => Ok(ServerType::Thread),
        "multiplex" => Ok(ServerType::Multiplex),
        _ => Err(format!(
            "invalid server type '{text}'; use thread or multiplex"
        )),
    }
}

fn ip_preference(text: &str) -> Result<IpPreference, String> {
    match text.trim() {
        "4" => Ok(IpPreference::V4),
        "6" => Ok(IpPreference::V6),
        "0" => Ok(IpPreference::Any),
        _ => Err(format!("'{text}' is none of 4, 6 and 0 (no preference)")),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!(
            "'{text}' is no format of the log; use text or json"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str], environment: &[(&str, &str)]) -> Result<NodeConfig, Vec<String>> {
        let words = ["hearthd"].iter().chain(words).map(OsString::from);
        let environment = environment
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        match load(words, environment) {
            Ok(Request::Run(config)) => Ok(*config),
            Ok(Request::Print(text)) => panic!("unexpected text: {text}"),
            Err(error) => Err(error.mistakes),
        }
    }

    fn tcp(host: &str, port: u16) -> Bind {
        Bind::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn no_arguments_mean_the_defaults() {
        let config = run(&[], &[]).unwrap();
        assert_eq!(config.bind, tcp("localhost", 9090));
        assert_eq!(config.storage, StorageLocation::Memory);
        assert_eq!(config.broadcast.unwrap().port, 9091);
        assert_eq!(config.nat, None);
        assert!(config.hmac_key.is_none());
        assert!(config.notices.is_empty());
    }

    #[test]
    fn the_log_may_be_kept_short_for_tests() {
        let shortest = run(&[], &[("HEARTH_LOG_SIZE_MAX", "16384")]).unwrap();
        assert_eq!(shortest.log_len_max, 16_384);
        let mistakes = run(&[], &[("HEARTH_LOG_SIZE_MAX", "16383")]).unwrap_err();
        assert!(mistakes[0].contains("HEARTH_LOG_SIZE_MAX"), "{mistakes:?}");
        assert_eq!(run(&[], &[]).unwrap().log_len_max, 64 << 20);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let mistakes = run(
            &[
                "-p",
                "70000",
                "--bcport=x",
                "-s",
                "bogus",
                "--node-id",
                "0",
                "--bogus",
                "--natport",
                "5",
            ],
            &[
                ("PYRO_COMMTIMEOUT", "abc"),
                ("PYRO_COMPRESSION", "maybe"),
                ("PYRO_PREFER_IP_VERSION", "5"),
                ("PYRO_NS_AUTOCLEAN", "2"),
                ("PYRO_SERIALIZERS_ACCEPTED", "serpent,yaml"),
                ("PYRO_MAX_MESSAGE_SIZE", "-1"),
                ("PYRO_SSL", "yes"),
                ("HEARTH_LOG_FORMAT", "xml"),
            ],
        )
        .unwrap_err();
        for name in [
            "--bogus",
            "-p/--port",
            "--bcport",
            "-s/--storage",
            "--node-id",
            "--natport",
            "PYRO_COMMTIMEOUT",
            "PYRO_COMPRESSION",
            "PYRO_PREFER_IP_VERSION",
            "PYRO_NS_AUTOCLEAN",
            "PYRO_SERIALIZERS_ACCEPTED",
            "PYRO_MAX_MESSAGE_SIZE",
            "PYRO_SSL",
            "HEARTH_LOG_FORMAT",
        ] {
            let count = mistakes
                .iter()
                .filter(|mistake| mistake.starts_with(&format!("{name}: ")))
                .count();
            assert_eq!(count, 1, "{name} in {mistakes:#?}");
        }
        assert_eq!(mistakes.len(), 14, "{mistakes:#?}");
    }

    #[test]
    fn a_span_that_no_clock_can_measure_is_refused() {
        for (text, reason) in [
            ("1e18", "'1e18' is more than a year"),
            ("0", "must be more than zero seconds"),
            ("soon", "'soon' is no number of seconds"),
        ] {
            let mistakes = run(&["--call-timeout", text], &[]).unwrap_err();
            assert!(
                mistakes.len() == 1 && mistakes[0].contains(reason),
                "{mistakes:?}"
            );
        }
        let config = run(&["--call-timeout", "2.5"], &[]).unwrap();
        assert_eq!(config.call_timeout, Duration::from_millis(2500));
    }

    #[test]
    fn pyro_items_mean_what_they_mean_to_pyro() {
        let config = run(
            &[],
            &[
                ("PYRO_HOST", "::1"),
                ("PYRO_NS_PORT", "0"),
                ("PYRO_NS_BCHOST", "192.0.2.1"),
                ("PYRO_NS_BCPORT", "9"),
                ("PYRO_NATHOST", "outside"),
                ("PYRO_NATPORT", "0"),
                ("PYRO_HMAC_KEY", "secret"),
                ("PYRO_COMMTIMEOUT", "1.5"),
                ("PYRO_MAX_MESSAGE_SIZE", "1073741824"),
                ("PYRO_SERIALIZERS_ACCEPTED", "json,msgpack"),
                ("PYRO_SOCK_REUSE", "Off"),
                ("PYRO_COMPRESSION", "TRUE"),
                ("PYRO_SERVERTYPE", "multiplex"),
            ],
        )
        .unwrap();
        assert_eq!(config.bind, tcp("::1", 0));
        assert_eq!(config.ns_port, 9090);
        assert_eq!(config.broadcast.unwrap().host, "192.0.2.1");
        assert_eq!(
            config.nat,
            Some(Nat {
                host: "outside".to_owned(),
                port: None
            })
        );
        assert_eq!(config.hmac_key.as_deref(), Some(&b"secret"[..]));
        assert_eq!(config.idle_timeout, Some(Duration::from_millis(1500)));
        // More could not be replicated.
        assert_eq!(config.limits.message_len_max, 64 << 20);
        assert!(config.notices[0].contains("MAX_MESSAGE_SIZE=1073741824"));
        assert!(config.pyro4_serializers.contains(Serializer::Msgpack));
        assert!(!config.pyro4_serializers.contains(Serializer::Serpent));
        assert!(!config.sock_reuse);
        assert!(config.compression);
        assert_eq!(config.server_type, ServerType::Multiplex);
    }

    #[test]
    fn an_empty_host_is_every_interface_and_an_empty_key_is_none() {
        let config = run(&["-n", "", "-k", "", "-u", "", "-s", ""], &[]).unwrap();
        assert_eq!(config.bind, tcp("", 9090));
        assert!(config.hmac_key.is_none());
    }

    #[test]
    fn storages_that_are_not_there_yet_say_so() {
        for storage in [
            "sql:names.sqlite",
            "dbm:names",
            "sql::memory:",
            "rocksdb:",
            "rocksdb",
        ] {
            let mistakes = run(&["-s", storage], &[]).unwrap_err();
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert!(mistakes[0].starts_with("-s/--storage: "), "{mistakes:?}");
        }
        assert_eq!(
            run(&["-s", "rocksdb:a:b"], &[]).unwrap().storage,
            StorageLocation::Rocks(PathBuf::from("a:b"))
        );
    }

    #[test]
    fn nat_rules_are_pyros() {
        let mistakes = run(&["-u", "/tmp/s", "--nathost", "out"], &[]).unwrap_err();
        assert!(mistakes[0].contains("cannot use nathost together with unixsocket"));
        let mistakes = run(&[], &[("PYRO_NATPORT", "80")]).unwrap_err();
        assert!(mistakes[0].contains("must provide nathost with natport"));
        assert!(run(&[], &[("PYRO_NATPORT", "0")]).unwrap().nat.is_none());
    }

    #[test]
    fn addresses_that_no_location_can_hold_are_refused() {
        for words in [
            &["-n", "[::1]"][..],
            &["-n", "two words"],
            &["-u", "/tmp/a:b"],
            &["-u", "./u:/tmp/a"],
        ] {
            assert!(run(words, &[]).is_err(), "{words:?}");
        }
        let long = "x".repeat(UNIX_PATH_LEN_MAX + 1);
        assert!(run(&["-u", &long], &[]).is_err());
    }

    #[test]
    fn an_unlimited_message_size_is_not_ignored_silently() {
        let config = run(&[], &[("PYRO_MAX_MESSAGE_SIZE", "0")]).unwrap();
        assert_eq!(config.notices.len(), 1, "{:?}", config.notices);
        assert_eq!(config.limits, DEFAULT_LIMITS);
    }

    #[test]
    fn a_registration_has_a_limit_that_fits_into_a_message() {
        assert_eq!(run(&[], &[]).unwrap().registration_len_max, 1 << 20);
        let config = run(&["--max-registration-size", "5000"], &[]).unwrap();
        assert_eq!(config.registration_len_max, 5000);
        let config = run(&[], &[("HEARTH_MAX_REGISTRATION_SIZE", "8388608")]).unwrap();
        assert_eq!(config.registration_len_max, 8 << 20);
        let mistakes = run(&["--max-registration-size", "8388609"], &[]).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(
            mistakes[0].starts_with("--max-registration-size: ") && mistakes[0].contains("8388608"),
            "{mistakes:?}"
        );
        assert!(run(&["--max-registration-size", "0"], &[]).is_err());
    }

    #[test]
    fn pickles_may_stand_beside_serializers_that_are_read() {
        let accept = |list| run(&[], &[("PYRO_SERIALIZERS_ACCEPTED", list)]);
        let config = accept("serpent, json,marshal,pickle,dill").unwrap();
        assert_eq!(config.pyro4_serializers, SerializerSet::PYRO4_DEFAULT);
        assert_eq!(config.notices.len(), 1, "{:?}", config.notices);
        for part in ["PYRO_SERIALIZERS_ACCEPTED", "pickle, dill", "refused"] {
            assert!(config.notices[0].contains(part), "{:?}", config.notices);
        }
        assert!(accept("serpent").unwrap().notices.is_empty());
        let mistakes = accept("pickle,cloudpickle").unwrap_err();
        assert!(mistakes[0].contains("add serpent"), "{mistakes:?}");
    }

    #[test]
    fn the_log_goes_where_pyro_would_write_it() {
        let log = |words: &[&str], environment: &[_]| {
            let LogConfig {
                file,
                may_fall_back,
                ..
            } = run(words, environment).unwrap().log;
            (file.map(|file| file.display().to_string()), may_fall_back)
        };
        let file = |name: &str, may_fall_back| (Some(name.to_owned()), may_fall_back);
        let stderr = (None, false);
        let level = ("PYRO_LOGLEVEL", "DEBUG");
        assert_eq!(log(&[], &[("PYRO_LOGFILE", "/x")]), stderr);
        assert_eq!(
            log(&[], &[("PYRO_LOGFILE", "/x"), ("PYRO_LOGLEVEL", "")]),
            stderr
        );
        assert_eq!(log(&[], &[("PYRO_LOGFILE", "/x"), level]), file("/x", true));
        assert_eq!(log(&[], &[level]), file("pyro.log", true));
        for empty in ["", "{stderr}"] {
            assert_eq!(log(&[], &[("PYRO_LOGFILE", empty), level]).0, None);
        }
        assert_eq!(log(&["--log-level", "info"], &[level]), stderr);
        assert_eq!(
            log(&["--log-level", "info"], &[("PYRO_LOGFILE", "/x")]),
            file("/x", true)
        );
        assert_eq!(
            log(&["--log-file", "/y"], &[("PYRO_LOGFILE", "/x"), level]),
            file("/y", false)
        );
    }

    #[test]
    fn a_home_folder_that_no_shell_put_in_is_told() {
        let config = run(&["-s", "rocksdb:~/names"], &[]).unwrap();
        assert_eq!(config.notices.len(), 1, "{:?}", config.notices);
        assert!(config.notices[0].contains("$HOME"), "{:?}", config.notices);
        assert!(run(&["-s", "rocksdb:/x~"], &[]).unwrap().notices.is_empty());
    }

    #[test]
    fn autoclean_waits_as_long_as_communication_does() {
        let clean = |environment: &[_]| run(&[], environment).unwrap().autoclean;
        let config = |period, patience| {
            Some(AutocleanConfig {
                period: Duration::from_secs(period),
                probe_timeout: Duration::from_secs(patience),
                grace: Duration::from_secs(20),
            })
        };
        assert_eq!(clean(&[]), None);
        assert_eq!(clean(&[("PYRO_NS_AUTOCLEAN", "0.0")]), None);
        assert_eq!(clean(&[("PYRO_NS_AUTOCLEAN", "10")]), config(10, 5));
        assert_eq!(
            clean(&[("PYRO_NS_AUTOCLEAN", "3"), ("PYRO_COMMTIMEOUT", "2")]),
            config(3, 2)
        );
    }

    #[test]
    fn the_debug_form_hides_the_key() {
        let config = run(&["-k", "hunter2"], &[]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
