//! Every setting of a node: its names on the command line, in the environment and in the file, and how
//! these layers lie over each other: command line, environment, file.
//!
//! Only texts are handled here, each with the place it came from. What a text means, and what applies
//! where nothing was given, is [`crate::config`]'s.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use crate::args::Args;

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Setting {
    Host,
    Port,
    UnixSocket,
    Storage,
    BroadcastHost,
    BroadcastPort,
    NatHost,
    NatPort,
    NoBroadcast,
    Key,
    NodeId,
    ClusterName,
    MaxConnections,
    MaxRegistrationSize,
    MaxConnectionsPerAddress,
    CommTimeout,
    HeaderTimeout,
    MaxMessageSize,
    Compression,
    Serializers,
    ServerType,
    SockReuse,
    PreferIpVersion,
    Autoclean,
    Log,
    LogFormat,
    LogFile,
    SyncRecord,
    LogSizeMax,
    InitialCluster,
    Join,
    Learner,
    PeerAddr,
    ClusterKeyFile,
    InsecurePeers,
    Reads,
    CallTimeout,
    ElectionTimeout,
    HeartbeatInterval,
}

/// One setting's names: in the file, in the environment (the first one that is set counts), and the
/// option, if there is one.
struct Names(
    Setting,
    &'static str,
    &'static [&'static str],
    Option<&'static str>,
);

/// All names. The `PYRO_*` ones are those that Pyro4 and Pyro5 read, with their meaning there.
const NAMES: &[Names] = {
    use Setting::*;
    &[
        Names(
            Host,
            "host",
            &["HEARTH_HOST", "PYRO_HOST"],
            Some("-n/--host"),
        ),
        Names(
            Port,
            "port",
            &["HEARTH_PORT", "PYRO_NS_PORT"],
            Some("-p/--port"),
        ),
        Names(
            UnixSocket,
            "unixsocket",
            &["HEARTH_UNIXSOCKET"],
            Some("-u/--unixsocket"),
        ),
        Names(
            Storage,
            "storage",
            &["HEARTH_STORAGE"],
            Some("-s/--storage"),
        ),
        Names(
            BroadcastHost,
            "bchost",
            &["HEARTH_BCHOST", "PYRO_NS_BCHOST"],
            Some("--bchost"),
        ),
        Names(
            BroadcastPort,
            "bcport",
            &["HEARTH_BCPORT", "PYRO_NS_BCPORT"],
            Some("--bcport"),
        ),
        Names(
            NatHost,
            "nathost",
            &["HEARTH_NATHOST", "PYRO_NATHOST"],
            Some("--nathost"),
        ),
        Names(
            NatPort,
            "natport",
            &["HEARTH_NATPORT", "PYRO_NATPORT"],
            Some("--natport"),
        ),
        Names(NoBroadcast, "nobc", &["HEARTH_NOBC"], Some("-x/--nobc")),
        Names(Key, "key", &["PYRO_HMAC_KEY"], Some("-k/--key")),
        Names(NodeId, "node-id", &["HEARTH_NODE_ID"], Some("--node-id")),
        Names(
            ClusterName,
            "cluster-name",
            &["HEARTH_CLUSTER_NAME"],
            Some("--cluster-name"),
        ),
        Names(
            MaxConnections,
            "max-connections",
            &["HEARTH_MAX_CONNECTIONS"],
            Some("--max-connections"),
        ),
        Names(
            MaxRegistrationSize,
            "max-registration-size",
            &["HEARTH_MAX_REGISTRATION_SIZE"],
            Some("--max-registration-size"),
        ),
        Names(
            MaxConnectionsPerAddress,
            "max-connections-per-address",
            &["HEARTH_MAX_CONNECTIONS_PER_ADDRESS"],
            Some("--max-connections-per-address"),
        ),
        Names(
            CommTimeout,
            "commtimeout",
            &["HEARTH_COMMTIMEOUT", "PYRO_COMMTIMEOUT"],
            None,
        ),
        Names(
            HeaderTimeout,
            "header-timeout",
            &["HEARTH_HEADER_TIMEOUT"],
            None,
        ),
        Names(
            MaxMessageSize,
            "max-message-size",
            &["HEARTH_MAX_MESSAGE_SIZE", "PYRO_MAX_MESSAGE_SIZE"],
            None,
        ),
        Names(
            Compression,
            "compression",
            &["HEARTH_COMPRESSION", "PYRO_COMPRESSION"],
            None,
        ),
        Names(
            ServerType,
            "servertype",
            &["HEARTH_SERVERTYPE", "PYRO_SERVERTYPE"],
            None,
        ),
        Names(
            Serializers,
            "serializers-accepted",
            &["HEARTH_SERIALIZERS_ACCEPTED", "PYRO_SERIALIZERS_ACCEPTED"],
            None,
        ),
        Names(
            SockReuse,
            "sock-reuse",
            &["HEARTH_SOCK_REUSE", "PYRO_SOCK_REUSE"],
            None,
        ),
        Names(
            PreferIpVersion,
            "prefer-ip-version",
            &["HEARTH_PREFER_IP_VERSION", "PYRO_PREFER_IP_VERSION"],
            None,
        ),
        Names(
            Autoclean,
            "autoclean",
            &["HEARTH_AUTOCLEAN", "PYRO_NS_AUTOCLEAN"],
            None,
        ),
        Names(
            Log,
            "log-level",
            &["HEARTH_LOG", "PYRO_LOGLEVEL"],
            Some("--log-level"),
        ),
        Names(
            LogFormat,
            "log-format",
            &["HEARTH_LOG_FORMAT"],
            Some("--log-format"),
        ),
        Names(
            LogFile,
            "log-file",
            &["HEARTH_LOG_FILE", "PYRO_LOGFILE"],
            Some("--log-file"),
        ),
        // For tests of power failures only, so without an option.
        Names(SyncRecord, "sync-record", &["HEARTH_SYNC_RECORD"], None),
        // For tests in which a node that was away for a little while shall need a snapshot already.
        Names(LogSizeMax, "log-size-max", &["HEARTH_LOG_SIZE_MAX"], None),
        Names(
            InitialCluster,
            "initial-cluster",
            &["HEARTH_INITIAL_CLUSTER"],
            Some("--initial-cluster"),
        ),
        Names(Join, "join", &["HEARTH_JOIN"], Some("--join")),
        Names(Learner, "learner", &["HEARTH_LEARNER"], Some("--learner")),
        Names(
            PeerAddr,
            "peer-addr",
            &["HEARTH_PEER_ADDR"],
            Some("--peer-addr"),
        ),
        Names(
            ClusterKeyFile,
            "cluster-key-file",
            &["HEARTH_CLUSTER_KEY_FILE"],
            Some("--cluster-key-file"),
        ),
        Names(
            InsecurePeers,
            "insecure-peers",
            &["HEARTH_INSECURE_PEERS"],
            Some("--insecure-peers"),
        ),
        Names(Reads, "reads", &["HEARTH_READS"], Some("--reads")),
        Names(
            CallTimeout,
            "call-timeout",
            &["HEARTH_CALL_TIMEOUT"],
            Some("--call-timeout"),
        ),
        Names(
            ElectionTimeout,
            "election-timeout",
            &["HEARTH_ELECTION_TIMEOUT"],
            Some("--election-timeout"),
        ),
        Names(
            HeartbeatInterval,
            "heartbeat-interval",
            &["HEARTH_HEARTBEAT_INTERVAL"],
            Some("--heartbeat-interval"),
        ),
    ]
};

/// Pyro's items that change nothing here, each with the reason that the log gives once.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    (
        "THREADPOOL_SIZE",
        "there is no pool of threads; --max-connections sets the limit of connections",
    ),
    ("THREADPOOL_SIZE_MIN", "there is no pool of threads"),
    ("DETAILED_TRACEBACK", "there are no Python frames to show"),
    ("POLLTIMEOUT", "nothing is polled"),
    ("SOCK_NODELAY", "Nagle's algorithm is always off"),
    ("LOGWIRE", "messages are not logged"),
    (
        "ONEWAY_THREADED",
        "oneway calls run in the order of their connection",
    ),
    ("METADATA", "metadata is always offered"),
    ("REQUIRE_EXPOSE", "the methods of the name server are fixed"),
    ("AUTOPROXY", "no objects are handed out"),
    ("FLAME_ENABLED", "there is no Python to run"),
    ("USE_MSG_WAITALL", "there is no Python to run"),
    ("JSON_MODULE", "there is no Python to run"),
    ("PICKLE_PROTOCOL_VERSION", "nothing is written as a pickle"),
    ("DILL_PROTOCOL_VERSION", "nothing is written as a pickle"),
    ("SERPENT_BYTES_REPR", "no reply holds bytes"),
    ("ITER_STREAMING", "a name server streams nothing"),
    ("ITER_STREAM_LIFETIME", "a name server streams nothing"),
    ("ITER_STREAM_LINGER", "a name server streams nothing"),
];

/// Pyro's items for clients, which a shared environment may well hold, and those that only mean
/// something once `SSL` is on, which is refused.
const NOT_OURS: &[&str] = &[
    "NS_HOST",
    "NS_LOOKUP_DELAY",
    "BROADCAST_ADDRS",
    "MAX_RETRIES",
    "SERIALIZER",
    "SSL_SERVERCERT",
    "SSL_SERVERKEY",
    "SSL_SERVERKEYPASSWD",
    "SSL_REQUIRECLIENTCERT",
    "SSL_CLIENTCERT",
    "SSL_CLIENTKEY",
    "SSL_CLIENTKEYPASSWD",
    "SSL_CACERTS",
];

/// Where a text was given. Printed in front of what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Option(&'static str),
    Environment(String),
    File { file: String, key: String },
}

impl Origin {
    /// Whether it is one of Pyro's own environment items.
    pub(crate) fn is_pyro_item(&self) -> bool {
        matches!(self, Self::Environment(name) if name.starts_with("PYRO_"))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(name) => f.write_str(name),
            Self::Environment(name) => f.write_str(name),
            Self::File { file, key } => write!(f, "{file}: {key}"),
        }
    }
}

/// A text and where it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

/// All that was given, the stronger layer in front of the weaker.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    given: BTreeMap<Setting, Given>,
    /// `PYRO_NS_PORT`, also where `--port` is stronger: it goes on being the port of locations without one.
    pub(crate) ns_port_item: Option<String>,
    /// What the log says once about settings that were given.
    pub(crate) notices: Vec<String>,
}

impl Settings {
    /// Lays command line over environment over file. What cannot be read goes to `mistakes`.
    pub(crate) fn gather(
        args: &Args,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        mistakes: &mut Vec<String>,
    ) -> Self {
        let environment: BTreeMap<String, String> = environment
            .into_iter()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                if !name.starts_with("PYRO_") && !name.starts_with("HEARTH_") {
                    return None;
                }
                match value.into_string() {
                    Ok(value) => Some((name, value)),
                    Err(_) => {
                        mistakes.push(format!("{name}: its value is not valid UTF-8"));
                        None
                    }
                }
            })
            .collect();

        let mut settings = Self::default();
        settings.take_options(args);
        settings.take_environment(&environment, mistakes);
        settings.check_key_is_given_once(args, &environment, mistakes);
        let file = match (&args.config, environment.get("HEARTH_CONFIG")) {
            (Some(file), _) => Some(file),
            (None, Some(file)) if !file.is_empty() => Some(file),
            _ => None,
        };
        if let Some(file) = file {
            settings.take_file(Path::new(file), mistakes);
        }
        settings
    }

    /// Where `setting` was given; how it would be given, where it was not.
    pub(crate) fn origin(&self, setting: Setting) -> Origin {
        match self.given.get(&setting) {
            Some(given) => given.origin.clone(),
            None => Origin::Option(names(setting).3.unwrap_or_default()),
        }
    }

    /// The strongest text for `setting`.
    pub(crate) fn get(&self, setting: Setting) -> Option<&Given> {
        self.given.get(&setting)
    }

    fn take_options(&mut self, args: &Args) {
        for (setting, text) in args.settings() {
            let name = names(setting).3.unwrap_or_default();
            self.given.insert(
                setting,
                Given {
                    text: text.to_owned(),
                    origin: Origin::Option(name),
                },
            );
        }
    }

    fn take_environment(
        &mut self,
        environment: &BTreeMap<String, String>,
        mistakes: &mut Vec<String>,
    ) {
        self.ns_port_item = environment.get("PYRO_NS_PORT").cloned();
        for Names(setting, _, variables, _) in NAMES {
            for &variable in *variables {
                let Some(value) = environment.get(variable) else {
                    continue;
                };
                // Pyro writes no log at all without a level. `Log` stands before `LogFile` in the list.
                if variable == "PYRO_LOGFILE" && !self.given.contains_key(&Setting::Log) {
                    continue;
                }
                match translate(variable, value) {
                    Ok(Some(text)) => {
                        self.given.entry(*setting).or_insert_with(|| Given {
                            text,
                            origin: Origin::Environment(variable.to_owned()),
                        });
                    }
                    Ok(None) => {}
                    Err(reason) => mistakes.push(format!("{variable}: {reason}")),
                }
            }
        }
        for (name, value) in environment {
            self.look_at_other_variable(name, value, mistakes);
        }
    }

    /// Judges a variable that sets nothing here.
    fn look_at_other_variable(&mut self, name: &str, value: &str, mistakes: &mut Vec<String>) {
        let is_known = NAMES
            .iter()
            .any(|Names(_, _, variables, _)| variables.contains(&name));
        if is_known || name == "HEARTH_CONFIG" {
            return;
        }
        let Some(item) = name.strip_prefix("PYRO_") else {
            self.notices
                .push(format!("{name} is set, but no such setting is known"));
            return;
        };
        match item {
            "SSL" => match parse_bool(value) {
                Ok(false) => {}
                Ok(true) => mistakes.push(
                    "PYRO_SSL: TLS is not supported yet, and serving without it would betray what was asked \
                     for; unset it, and use a TLS proxy in front of this server where you need encryption"
                        .to_owned(),
                ),
                Err(reason) => mistakes.push(format!("PYRO_SSL: {reason}")),
            },
            _ => {
                if let Some((_, reason)) = WITHOUT_EFFECT.iter().find(|(known, _)| *known == item) {
                    self.notices
                        .push(format!("{name} is accepted and has no effect: {reason}"));
                } else if !NOT_OURS.contains(&item) {
                    self.notices
                        .push(format!("{name} is set, but neither Pyro4 nor Pyro5 knows such an item"));
                }
            }
        }
    }

    /// Pyro4 refuses the two ways of giving a key at the same time, even when one is empty.
    fn check_key_is_given_once(
        &self,
        args: &Args,
        environment: &BTreeMap<String, String>,
        mistakes: &mut Vec<String>,
    ) {
        let on_command_line = args.key.as_deref().is_some_and(|key| !key.is_empty());
        if on_command_line && environment.contains_key("PYRO_HMAC_KEY") {
            mistakes.push("don't use -k and PYRO_HMAC_KEY at the same time".to_owned());
        }
    }

    fn take_file(&mut self, path: &Path, mistakes: &mut Vec<String>) {
        let file = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return mistakes.push(format!("{file}: cannot be read: {error}")),
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                return mistakes.push(format!(
                    "{file}: not valid TOML: {}",
                    error.to_string().trim_end()
                ));
            }
        };
        for (key, value) in table {
            let known = NAMES.iter().find(|Names(_, name, _, _)| *name == key);
            let Some(Names(setting, ..)) = known else {
                mistakes.push(format!(
                    "{file}: {key}: unknown key; the long options are the keys"
                ));
                continue;
            };
            let Some(text) = text_of(&value) else {
                mistakes.push(format!(
                    "{file}: {key}: expected a text, a number, true or false, or a list of texts"
                ));
                continue;
            };
            self.given.entry(*setting).or_insert_with(|| Given {
                text,
                origin: Origin::File {
                    file: file.clone(),
                    key,
                },
            });
        }
    }
}

fn names(setting: Setting) -> &'static Names {
    NAMES
        .iter()
        .find(|names| names.0 == setting)
        .expect("every setting stands in NAMES, which a test checks")
}

/// The text that a variable stands for in our own terms; `None` if its value means "not set".
fn translate(variable: &str, value: &str) -> Result<Option<String>, String> {
    let text = match variable {
        "PYRO_LOGLEVEL" => {
            // The names of Python's logging module. openraft speaks of itself in more detail than a
            // person who watches a name server wants.
            let level = match value {
                "" => return Ok(None),
                "CRITICAL" | "FATAL" | "ERROR" => return Ok(Some("error".to_owned())),
                "WARNING" | "WARN" => "warn",
                "INFO" => "info",
                "DEBUG" => "debug",
                "NOTSET" => "trace",
                _ => {
                    return Err(format!(
                        "'{value}' is no level of Python's logging; use DEBUG, INFO, WARNING, ERROR or CRITICAL"
                    ));
                }
            };
            format!("{level},openraft=error")
        }
        // Empty stands for standard error, as it does in Pyro.
        "PYRO_LOGFILE" if value == "{stderr}" => String::new(),
        "HEARTH_LOG" | "HEARTH_LOG_FILE" | "HEARTH_LOG_FORMAT" if value.is_empty() => {
            return Ok(None);
        }
        _ => value.to_owned(),
    };
    Ok(Some(text))
}

/// Pyro's reading of truth in the environment.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "0" | "off" | "no" | "false" => Ok(false),
        "1" | "yes" | "on" | "true" => Ok(true),
        _ => Err(format!(
            "'{text}' is neither true (1, yes, on) nor false (0, no, off)"
        )),
    }
}

/// A value of the file as the text that would stand in the environment.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(args: &Args, environment: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let mut mistakes = Vec::new();
        let environment = environment
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let settings = Settings::gather(args, environment, &mut mistakes);
        (settings, mistakes)
    }

    fn text(settings: &Settings, setting: Setting) -> Option<&str> {
        settings.get(setting).map(|given| given.text.as_str())
    }

    #[test]
    fn every_option_has_a_name_for_messages() {
        let all = Args {
            host: Some(String::new()),
            port: Some(String::new()),
            unixsocket: Some(String::new()),
            storage: Some(String::new()),
            bchost: Some(String::new()),
            bcport: Some(String::new()),
            nathost: Some(String::new()),
            natport: Some(String::new()),
            nobc: true,
            key: Some(String::new()),
            config: None,
            node_id: Some(String::new()),
            cluster_name: Some(String::new()),
            max_connections: Some(String::new()),
            max_registration_size: Some(String::new()),
            max_connections_per_address: Some(String::new()),
            log_level: Some(String::new()),
            log_format: Some(String::new()),
            log_file: Some(String::new()),
            initial_cluster: Some(String::new()),
            join: Some(String::new()),
            learner: true,
            peer_addr: Some(String::new()),
            cluster_key_file: Some(String::new()),
            insecure_peers: true,
            reads: Some(String::new()),
            call_timeout: Some(String::new()),
            election_timeout: Some(String::new()),
            heartbeat_interval: Some(String::new()),
            ..Args::default()
        };
        assert_eq!(all.settings().len(), 28);
        for (setting, _) in all.settings() {
            assert!(names(setting).3.is_some(), "{setting:?}");
        }
    }

    #[test]
    fn the_stronger_layer_wins() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hearth.toml");
        std::fs::write(&file, "host = 'file'\nport = 1\nbcport = 2\nnobc = true\n").unwrap();
        let args = Args {
            host: Some("option".into()),
            config: Some(file.display().to_string()),
            ..Args::default()
        };
        let (settings, mistakes) = gather(
            &args,
            &[
                ("PYRO_HOST", "environment"),
                ("PYRO_NS_PORT", "3"),
                ("HEARTH_BCPORT", "4"),
                ("PYRO_NS_BCPORT", "5"),
            ],
        );
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(text(&settings, Setting::Host), Some("option"));
        assert_eq!(text(&settings, Setting::Port), Some("3"));
        assert_eq!(text(&settings, Setting::BroadcastPort), Some("4"));
        assert_eq!(text(&settings, Setting::NoBroadcast), Some("true"));
        assert_eq!(text(&settings, Setting::NatHost), None);
    }

    #[test]
    fn a_bad_file_is_reported_completely() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hearth.toml");
        std::fs::write(
            &file,
            "hots = 'x'\njoined = 'a:1'\nport = 1979-05-27\n[table]\n",
        )
        .unwrap();
        let args = Args {
            config: Some(file.display().to_string()),
            ..Args::default()
        };
        let (_, mistakes) = gather(&args, &[]);
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");

        let args = Args {
            config: Some(dir.path().join("absent").display().to_string()),
            ..Args::default()
        };
        let (_, mistakes) = gather(&args, &[]);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].contains("cannot be read"), "{mistakes:?}");
    }

    #[test]
    fn items_without_effect_are_said_and_unknown_ones_too() {
        let (settings, mistakes) = gather(
            &Args::default(),
            &[
                ("PYRO_THREADPOOL_SIZE", "100"),
                ("PYRO_NS_HOST", "elsewhere"),
                ("PYRO_BOGUS", "1"),
                ("PYRO_SSL", "off"),
                ("HEARTH_STORGE", "memory"),
                ("UNRELATED", "1"),
            ],
        );
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(settings.notices.len(), 3, "{:?}", settings.notices);
    }

    #[test]
    fn tls_is_refused() {
        let (_, mistakes) = gather(&Args::default(), &[("PYRO_SSL", "on")]);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    }

    #[test]
    fn a_key_must_be_given_once() {
        let args = Args {
            key: Some("k".into()),
            ..Args::default()
        };
        let (_, mistakes) = gather(&args, &[("PYRO_HMAC_KEY", "")]);
        assert_eq!(
            mistakes,
            ["don't use -k and PYRO_HMAC_KEY at the same time"]
        );
    }

    #[test]
    fn python_log_levels_become_ours() {
        for (level, filter) in [
            ("DEBUG", Some("debug,openraft=error")),
            ("CRITICAL", Some("error")),
            ("", None),
        ] {
            let (settings, mistakes) = gather(&Args::default(), &[("PYRO_LOGLEVEL", level)]);
            assert!(mistakes.is_empty());
            assert_eq!(text(&settings, Setting::Log), filter);
        }
        let (_, mistakes) = gather(&Args::default(), &[("PYRO_LOGLEVEL", "LOUD")]);
        assert_eq!(mistakes.len(), 1);
    }
}
