//! The command line of `hearthd`: every option of `pyro4-ns`, and ours.
//!
//! This file only finds out what was written. Every value stays text; [`crate::config`] decides what it
//! means, together with the environment and the file, so that all mistakes are reported at once.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory, Parser};

use crate::settings::Setting;

/// Options as they were written. The doc comments are the help text.
#[derive(Debug, Default, Clone, Parser)]
#[command(
    name = "hearthd",
    version,
    about = "The name server that Pyro4 and Pyro5 programs talk to, on one port.",
    after_help = "The environment (PYRO_* as pyro4-ns reads it, and HEARTH_*) is used where the command line is \
                  silent, and the file given by --config where both are.\n\n\
                  On a data directory that no node runs on: hearthd verify, dump, recover and restore; each has its \
                  own --help.",
    infer_long_args = true,
    args_override_self = true,
    disable_help_flag = true
)]
pub struct Args {
    /// Hostname to bind server on (default localhost; "" means all interfaces)
    #[arg(short = 'n', long, value_name = "HOST", allow_hyphen_values = true)]
    pub host: Option<String>,

    // The aliases are the abbreviations that pyro4-ns takes and that would be ambiguous here: `--p`,
    // `--no` and `--he`.
    /// Port to bind server on (default 9090; 0=random)
    #[arg(
        short,
        long,
        alias = "p",
        value_name = "PORT",
        allow_hyphen_values = true
    )]
    pub port: Option<String>,

    /// Unix domain socket name to bind server on
    #[arg(short, long, value_name = "UNIXSOCKET", allow_hyphen_values = true)]
    pub unixsocket: Option<String>,

    /// Storage system to use (memory, rocksdb:DIR)
    #[arg(short, long, value_name = "STORAGE", allow_hyphen_values = true)]
    pub storage: Option<String>,

    /// Hostname to bind broadcast server on (default is "")
    #[arg(long, value_name = "BCHOST", allow_hyphen_values = true)]
    pub bchost: Option<String>,

    /// Port to bind broadcast server on (default 9091; 0=random)
    #[arg(long, value_name = "BCPORT", allow_hyphen_values = true)]
    pub bcport: Option<String>,

    /// External hostname in case of NAT
    #[arg(long, value_name = "NATHOST", allow_hyphen_values = true)]
    pub nathost: Option<String>,

    /// External port in case of NAT
    #[arg(long, value_name = "NATPORT", allow_hyphen_values = true)]
    pub natport: Option<String>,

    /// Don't start a broadcast server
    #[arg(short = 'x', long, alias = "no")]
    pub nobc: bool,

    /// The HMAC key to use (deprecated: anyone on this machine can read it; set PYRO_HMAC_KEY)
    #[arg(short, long, value_name = "KEY", allow_hyphen_values = true)]
    pub key: Option<String>,

    /// Read settings from this TOML file; its keys are the long options, without the dashes
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,

    /// Clients that may be connected at once (default 10000); more are refused with Pyro's own answer
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pub max_connections: Option<String>,

    /// Bytes that name, URI and metadata of a registration may have together (default 1048576)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub max_registration_size: Option<String>,
    /// Connections of one address at once, this machine's own included (default: a quarter of all for
    /// other machines, no limit for this one)
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pub max_connections_per_address: Option<String>,

    /// What to log: error, warn, info, debug, trace, also per part, such as warn,hearth_raft=debug
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,

    /// How to log: text or json (one object per line)
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// Append the log to this file instead of writing it to standard error
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<String>,

    /// Print help
    #[arg(short, long, alias = "he", action = ArgAction::Help)]
    pub help: Option<bool>,

    /// Found a cluster of these nodes, each with its number and the address for its peers; the same on
    /// all of them, which may be started in any order. Ignored once the storage has a cluster
    #[arg(
        long,
        value_name = "1=HOST:PORT,2=...",
        allow_hyphen_values = true,
        help_heading = CLUSTER
    )]
    pub initial_cluster: Option<String>,

    /// This node's number, 1 and up; a number is never used again once its node has left
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = CLUSTER)]
    pub node_id: Option<String>,

    /// Join the cluster of any of these members, given as the addresses for their peers. The node
    /// becomes a voter when it has caught up. Without --node-id the cluster gives it a number
    #[arg(
        long,
        value_name = "HOST:PORT[,...]",
        allow_hyphen_values = true,
        help_heading = CLUSTER
    )]
    pub join: Option<String>,

    /// With --join: never vote. Right for a node on every machine that runs Pyro programs
    #[arg(long, help_heading = CLUSTER)]
    pub learner: bool,

    /// Where the other nodes reach this one (default port 9092; default host with --join: the address
    /// that leads to the other node)
    #[arg(long, value_name = "HOST:PORT", allow_hyphen_values = true, help_heading = CLUSTER)]
    pub peer_addr: Option<String>,

    /// The secret that nodes and administrators prove is in this file, which nobody else may read. It may
    /// hold several, one a line: the first is used, all are accepted
    #[arg(long, value_name = "FILE", help_heading = CLUSTER)]
    pub cluster_key_file: Option<String>,

    /// Do without --cluster-key-file where other machines reach the cluster, although anyone who reaches
    /// the peer port can take part then
    #[arg(long, help_heading = CLUSTER)]
    pub insecure_peers: bool,

    /// Part of the cluster's identity: nodes of another cluster are refused (default hearth)
    #[arg(long, value_name = "NAME", allow_hyphen_values = true, help_heading = CLUSTER)]
    pub cluster_name: Option<String>,

    /// How look-ups are answered: linearizable (default: they see every registration that was
    /// acknowledged anywhere before), available (the same, but a node that is cut off answers from its
    /// own copy), stale (from its own copy, always)
    #[arg(long, value_name = "MODE", allow_hyphen_values = true, help_heading = CLUSTER)]
    pub reads: Option<String>,

    /// Seconds that a call may wait for the cluster before its client is told that it failed (default 10);
    /// longer than it takes to find another leader
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, help_heading = CLUSTER)]
    pub call_timeout: Option<String>,

    /// Milliseconds without a leader after which a node wants to be one, chosen at random between these
    /// (default 1000-2000); the same on all nodes
    #[arg(long, value_name = "MIN-MAX", allow_hyphen_values = true, help_heading = CLUSTER)]
    pub election_timeout: Option<String>,

    /// Milliseconds from one sign of life of the leader to the next (default 100)
    #[arg(long, value_name = "MS", allow_hyphen_values = true, help_heading = CLUSTER)]
    pub heartbeat_interval: Option<String>,
}

/// Where the help lists the options of a cluster.
const CLUSTER: &str = "Cluster";

/// What became of a command line.
#[derive(Debug)]
pub enum Parsed {
    /// Help or version was asked for: text for standard output.
    Text(String),
    /// The options, and what was wrong with the way in which they were written.
    Args(Box<Args>, Vec<String>),
}

impl Args {
    /// Reads `words`, the program's name first.
    ///
    /// Goes on after a word that it does not know, so that one run reports all of them.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Parsed {
        let mut words: Vec<OsString> = words.into_iter().collect();
        let mut mistakes = Vec::new();
        loop {
            let error = match Self::try_parse_from(&words) {
                Ok(args) => return Parsed::Args(Box::new(args), mistakes),
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    let text = error.render().to_string();
                    return Parsed::Text(format!("{}\n", text.trim_end()));
                }
                ErrorKind::UnknownArgument => {
                    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg)
                    else {
                        mistakes.push(first_line(&error));
                        return Parsed::Args(Box::default(), mistakes);
                    };
                    mistakes.push(explain_unknown(word));
                    if !take_out(&mut words, word) {
                        return Parsed::Args(Box::default(), mistakes);
                    }
                }
                _ => {
                    mistakes.push(first_line(&error));
                    return Parsed::Args(Box::default(), mistakes);
                }
            }
        }
    }

    /// Every setting that was given, as the text that was given for it.
    pub(crate) fn settings(&self) -> Vec<(Setting, &str)> {
        let options = [
            (Setting::Host, &self.host),
            (Setting::Port, &self.port),
            (Setting::UnixSocket, &self.unixsocket),
            (Setting::Storage, &self.storage),
            (Setting::BroadcastHost, &self.bchost),
            (Setting::BroadcastPort, &self.bcport),
            (Setting::NatHost, &self.nathost),
            (Setting::NatPort, &self.natport),
            (Setting::Key, &self.key),
            (Setting::NodeId, &self.node_id),
            (Setting::ClusterName, &self.cluster_name),
            (Setting::MaxConnections, &self.max_connections),
            (Setting::MaxRegistrationSize, &self.max_registration_size),
            (
                Setting::MaxConnectionsPerAddress,
                &self.max_connections_per_address,
            ),
            (Setting::Log, &self.log_level),
            (Setting::LogFormat, &self.log_format),
            (Setting::LogFile, &self.log_file),
            (Setting::InitialCluster, &self.initial_cluster),
            (Setting::Join, &self.join),
            (Setting::PeerAddr, &self.peer_addr),
            (Setting::ClusterKeyFile, &self.cluster_key_file),
            (Setting::Reads, &self.reads),
            (Setting::CallTimeout, &self.call_timeout),
            (Setting::ElectionTimeout, &self.election_timeout),
            (Setting::HeartbeatInterval, &self.heartbeat_interval),
        ];
        let mut given: Vec<_> = options
            .into_iter()
            .filter_map(|(setting, text)| Some((setting, text.as_deref()?)))
            .collect();
        for (flag, setting) in [
            (self.nobc, Setting::NoBroadcast),
            (self.learner, Setting::Learner),
            (self.insecure_peers, Setting::InsecurePeers),
        ] {
            if flag {
                given.push((setting, "true"));
            }
        }
        given
    }
}

/// What is wrong with a word that is no option of ours.
fn explain_unknown(word: &str) -> String {
    let Some(long) = word.strip_prefix("--") else {
        let kind = if word.starts_with('-') {
            "unknown option"
        } else {
            "unexpected word"
        };
        return format!("{word}: {kind}");
    };
    let command = Args::command();
    let candidates: Vec<_> = command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .filter(|option| option.starts_with(long))
        .map(|option| format!("--{option}"))
        .collect();
    if candidates.len() > 1 {
        format!("{word}: may mean any of {}", candidates.join(", "))
    } else {
        format!("{word}: unknown option")
    }
}

/// Removes the first word that is `unknown`, alone or with its value behind a `=`; false if there is none.
fn take_out(words: &mut Vec<OsString>, unknown: &str) -> bool {
    let with_value = format!("{unknown}=");
    let is_it = |word: &OsString| {
        word.to_str()
            .is_some_and(|word| word == unknown || word.starts_with(&with_value))
    };
    let Some(position) = words.iter().skip(1).position(is_it).map(|found| found + 1) else {
        return false;
    };
    words.remove(position);
    true
}

/// The sentence of clap's error, without its `error:` and its usage block.
fn first_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> (Args, Vec<String>) {
        let words = ["hearthd"].iter().chain(words).map(OsString::from);
        match Args::read(words) {
            Parsed::Args(args, mistakes) => (*args, mistakes),
            Parsed::Text(text) => panic!("unexpected text: {text}"),
        }
    }

    #[test]
    fn the_definitions_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_are_read_in_all_spellings_of_pyro() {
        for words in [
            &["-n", "neptune", "-p0"][..],
            &["-nneptune", "-p", "0"],
            &["--host", "neptune", "--port=0"],
            &["--ho=neptune", "--po", "0"],
            &["-n", "first", "--host=neptune", "--p", "0"],
        ] {
            let (args, mistakes) = read(words);
            assert!(mistakes.is_empty(), "{words:?}: {mistakes:?}");
            assert_eq!(args.host.as_deref(), Some("neptune"), "{words:?}");
            assert_eq!(args.port.as_deref(), Some("0"), "{words:?}");
        }
        assert_eq!(read(&["-n", ""]).0.host.as_deref(), Some(""));
        assert_eq!(read(&["--host="]).0.host.as_deref(), Some(""));
        assert_eq!(read(&["-p", "-1"]).0.port.as_deref(), Some("-1"));
        assert!(read(&["-x"]).0.nobc);
        assert!(read(&["--no"]).0.nobc);
    }

    #[test]
    fn all_unknown_words_are_reported() {
        let (args, mistakes) = read(&["--bogus=1", "-n", "host", "extra", "-y", "--n=1"]);
        assert_eq!(args.host.as_deref(), Some("host"));
        assert_eq!(
            mistakes,
            [
                "--bogus: unknown option",
                "extra: unexpected word",
                "-y: unknown option",
                "--n: may mean any of --nathost, --natport, --nobc, --node-id",
            ]
        );
    }

    #[test]
    fn abbreviations_of_pyro4_ns_still_mean_what_they_did() {
        assert_eq!(read(&["--p", "7"]).0.port.as_deref(), Some("7"));
        assert_eq!(read(&["--p=7"]).0.port.as_deref(), Some("7"));
        assert!(read(&["--no"]).0.nobc);
        assert!(matches!(
            Args::read(["hearthd", "--he"].map(OsString::from)),
            Parsed::Text(_)
        ));
        let (args, mistakes) = read(&["--pe", "h:1", "--nod", "3", "--hea=5"]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(args.peer_addr.as_deref(), Some("h:1"));
        assert_eq!(args.node_id.as_deref(), Some("3"));
        assert_eq!(args.heartbeat_interval.as_deref(), Some("5"));
    }

    #[test]
    fn a_missing_value_is_reported() {
        let (_, mistakes) = read(&["-p"]);
        assert_eq!(mistakes.len(), 1);
        assert!(mistakes[0].contains("--port"), "{mistakes:?}");
    }

    #[test]
    fn help_and_version_are_texts() {
        for (word, part) in [
            ("-h", "Usage: hearthd"),
            ("--help", "Cluster:"),
            ("-V", "hearthd "),
        ] {
            match Args::read(["hearthd", word].map(OsString::from)) {
                Parsed::Text(text) => assert!(text.contains(part), "{text}"),
                Parsed::Args(..) => panic!("{word} was not recognised"),
            }
        }
    }
}
