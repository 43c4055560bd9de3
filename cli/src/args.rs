//! The command line of `nsctl`. The doc comments in this file are the help texts; man pages and completions
//! show them as well.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use hearth_cli::{Address, Protocol};
use hearth_wire::{Family, Serializer};

use crate::command::Command;

/// The end of the help text. Its lines have at most 80 columns, because clap would break longer ones in the
/// middle of an example.
const AFTER_HELP: &str = "\
Exit codes:
  0 done   1 failed   2 wrong usage   3 not found   4 name taken, or refused
  5 no name server reached, or no quorum   6 denied   124 timed out

Environment:
  PYRO_NS_HOST, PYRO_NS_PORT, PYRO_NS_BCPORT, PYRO_BROADCAST_ADDRS,
  PYRO_NS_LOOKUP_DELAY, PYRO_COMMTIMEOUT, PYRO_SERIALIZER, PYRO_HMAC_KEY,
  PYRO_COMPRESSION, PYRO_MAX_MESSAGE_SIZE and PYRO_PREFER_IP_VERSION mean what
  they mean to Pyro. Options win over the environment.

Examples:
  nsctl list                       every name, on the server Pyro would find
  nsctl -n neptune lookup sensor.1 one name, on that host's server
  nsctl --endpoints a,b,c -o json list sens
                                   as JSON, from the first that answers
  nsctl help register              more about one command";

/// Looks at and changes what a Pyro name server holds.
///
/// Works with every name server that speaks the Pyro4 or the Pyro5 protocol, and finds it as Pyro's
/// own clients do: on this machine, by broadcast, then at PYRO_NS_HOST.
#[derive(Debug, Parser)]
#[command(name = "nsctl", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server and output")]
pub(crate) struct Global {
    /// Host of the name server; without it, it is searched for
    #[arg(short = 'n', long, global = true, value_name = "HOST")]
    pub(crate) host: Option<String>,

    /// Port of the name server, or of the broadcast if no host is given
    #[arg(short, long, global = true, value_name = "PORT")]
    pub(crate) port: Option<u16>,

    /// Unix socket of the name server
    #[arg(short, long, global = true, value_name = "PATH")]
    pub(crate) unixsocket: Option<String>,

    /// Name servers to try in turn: HOST, HOST:PORT or ./u:PATH; -n, -p and -u go before the variable
    #[arg(
        long,
        global = true,
        value_name = "A,B,C",
        env = "NSCTL_ENDPOINTS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) endpoints: Vec<Address>,

    /// HMAC key; other users of this machine can see it, so prefer PYRO_HMAC_KEY
    #[arg(short, long, global = true, value_name = "KEY")]
    pub(crate) key: Option<String>,

    /// File with the key of the cluster, to prove before a change of its members
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "NSCTL_CLUSTER_KEY_FILE",
        hide_env_values = true
    )]
    pub(crate) cluster_key_file: Option<PathBuf>,

    /// Protocol to speak
    #[arg(
        long,
        global = true,
        value_enum,
        env = "NSCTL_PROTOCOL",
        hide_env_values = true,
        default_value_t
    )]
    pub(crate) protocol: ProtocolArg,

    /// Format of calls and replies on the wire [default: PYRO_SERIALIZER, else serpent]
    #[arg(
        long,
        global = true,
        value_enum,
        env = "NSCTL_SERIALIZER",
        hide_env_values = true
    )]
    pub(crate) serializer: Option<SerializerArg>,

    /// Longest time for connecting and for each call, 0 for no limit [default: PYRO_COMMTIMEOUT, else 30]
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        env = "NSCTL_TIMEOUT",
        hide_env_values = true,
        value_parser = seconds
    )]
    pub(crate) timeout: Option<Duration>,

    /// How to print results; `text` is what pyro4-nsc and pyro5-nsc print
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        env = "NSCTL_OUTPUT",
        hide_env_values = true,
        default_value_t
    )]
    pub(crate) output: Format,

    /// Ask nothing, do it
    #[arg(short, long, global = true)]
    pub(crate) yes: bool,

    /// Say which name server was found
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// As the original tools print
    #[default]
    Text,
    /// In columns
    Table,
    /// One JSON document
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ProtocolArg {
    /// What the server speaks
    #[default]
    Auto,
    /// Pyro4 only
    Pyro4,
    /// Pyro5 only
    Pyro5,
}

impl From<ProtocolArg> for Protocol {
    fn from(protocol: ProtocolArg) -> Self {
        match protocol {
            ProtocolArg::Auto => Self::Auto,
            ProtocolArg::Pyro4 => Self::Only(Family::Pyro4),
            ProtocolArg::Pyro5 => Self::Only(Family::Pyro5),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SerializerArg {
    Serpent,
    Json,
    Marshal,
    Msgpack,
}

impl From<SerializerArg> for Serializer {
    fn from(serializer: SerializerArg) -> Self {
        match serializer {
            SerializerArg::Serpent => Self::Serpent,
            SerializerArg::Json => Self::Json,
            SerializerArg::Marshal => Self::Marshal,
            SerializerArg::Msgpack => Self::Msgpack,
        }
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a number of seconds".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_stand_after_the_command() {
        let cli = Cli::try_parse_from(["nsctl", "lookup", "-n", "h", "x", "-p", "1"])
            .expect("valid arguments");
        assert_eq!(cli.global.host.as_deref(), Some("h"));
        assert_eq!(cli.global.port, Some(1));
    }
}
