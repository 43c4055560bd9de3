//! The command line; the comments are its help.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use hearth_jepsen_tests::campaign::{self, faults};
use hearth_jepsen_tests::folder::Network;
use hearth_jepsen_tests::{sim, workload};

/// Real nodes of Hearth, real faults, and a verdict.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A few seconds of the usual rate.
const LOG_SIZE_MAX: u64 = 24 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start nodes, let clients work while faults are injected, and judge what the clients saw
    Run(RunArgs),
    /// One long mixture: three nodes and then five, all workloads, all nemeses, each installed several times
    Nightly(NightlyArgs),
    /// Clients without a key do everything wrong that they can, while faults happen and others work; in the
    /// end every node must restart and serve, with bounded memory and readable logs
    Stranger(StrangerArgs),
    /// Run simulated clusters, each wholly determined by its seed
    Simulate {
        /// Seeds, A..B or one
        #[arg(long, default_value = "0..200", value_parser = sim::seeds)]
        seeds: std::ops::Range<u64>,
    },
    /// Show all workloads and nemeses
    List,
    /// Write the report of a run again, from its folder alone
    Report {
        /// The folder that the run left
        folder: PathBuf,
    },
    /// Run the checkers again over the folder of a run
    Check {
        /// The folder
        folder: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// Nodes at the beginning; several numbers, with commas between them, are runs one after the other. Three
    /// voters read in another way than five
    #[arg(long, default_value = "3,5", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(3..=7))]
    pub(crate) nodes: Vec<u64>,
    /// How long faults are injected, in each run
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// What all random choices are made from; printed at the beginning of each run
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Operations a second that all workloads together aim at; 0 for as many as possible
    #[arg(long, default_value_t = 250)]
    pub(crate) rate: u64,
    /// Clients of each workload
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) clients: u32,
    /// Workloads, with commas between them, or `all`
    #[arg(long, default_value = "all", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Nemeses, with commas between them, `all` or `none`
    #[arg(long, default_value = "all", value_delimiter = ',')]
    nemeses: Vec<String>,
    /// Where the run leaves its files; a new folder here without it. Of several runs, each has a folder in it
    #[arg(long)]
    pub(crate) folder: Option<PathBuf>,
    /// Use loopback addresses: needs no root and no namespaces, and has no faults of the network
    #[arg(long)]
    pub(crate) loopback: bool,
    /// The program under test; without it, the one beside this program
    #[arg(long, value_name = "PATH")]
    pub(crate) hearthd: Option<PathBuf>,
    /// Bytes of the replicated log that nodes keep; short enough that a node that was away for some
    /// seconds needs a snapshot. 0 for as many as usual
    #[arg(long, value_name = "BYTES", default_value_t = LOG_SIZE_MAX)]
    pub(crate) log_size_max: u64,
    /// One more option of every node, such as --node-option=--heartbeat-interval=200
    #[arg(
        long = "node-option",
        value_name = "OPTION",
        allow_hyphen_values = true
    )]
    pub(crate) node_options: Vec<String>,
    /// How often each chosen nemesis must have been installed
    #[arg(long, value_name = "N")]
    pub(crate) min_installed: Option<u64>,
    /// Names to register before anything else
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) names: u64,
    /// Megabytes that a node may hold; without it, that is only told
    #[arg(long, value_name = "MB")]
    pub(crate) memory_max: Option<u64>,
    /// How long a node may take to serve again at the end, in seconds; without it, that is only told
    #[arg(long, value_name = "SECONDS")]
    pub(crate) restart_max: Option<u64>,
}

impl RunArgs {
    /// The chosen workloads. Of all, those that this machine cannot have are left out, and that is told.
    pub(crate) fn workloads(&self) -> Vec<String> {
        let network = match self.loopback {
            true => Network::Loopback,
            false => Network::Namespaces,
        };
        let all = || {
            let (here, not) = workload::all_here(network);
            for (name, reason) in not {
                eprintln!("workload {name} is left out: {reason}");
            }
            here
        };
        chosen(&self.workloads, all)
    }

    pub(crate) fn nemeses(&self) -> Vec<String> {
        let all = || {
            faults::all()
                .iter()
                .map(|one| one.name().to_owned())
                .collect()
        };
        chosen(&self.nemeses, all)
    }
}

fn chosen(given: &[String], all: impl Fn() -> Vec<String>) -> Vec<String> {
    match given {
        [one] if one == "all" => all(),
        [one] if one == "none" => Vec::new(),
        some => some.to_vec(),
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NightlyArgs {
    /// Nodes at the beginning of each run
    #[arg(long, default_value = "3,5", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(3..=7))]
    nodes: Vec<u64>,
    /// How long faults are injected, in each run
    #[arg(long, default_value_t = 1_950)]
    seconds: u64,
    /// What all random choices are made from; printed at the beginning
    #[arg(long)]
    seed: Option<u64>,
    /// Operations a second that all workloads together aim at
    #[arg(long, default_value_t = 400)]
    rate: u64,
    /// Where the run leaves its files; a new folder here without it
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The program under test; without it, the one beside this program
    #[arg(long, value_name = "PATH")]
    hearthd: Option<PathBuf>,
    /// How often each nemesis must have been installed
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) min_installed: u64,
}

impl NightlyArgs {
    /// The run that it stands for.
    pub(crate) fn to_run(&self) -> RunArgs {
        RunArgs {
            nodes: self.nodes.clone(),
            seconds: self.seconds,
            seed: self.seed,
            rate: self.rate,
            clients: 5,
            workloads: vec!["all".into()],
            nemeses: vec!["all".into()],
            folder: self.folder.clone(),
            loopback: false,
            hearthd: self.hearthd.clone(),
            log_size_max: LOG_SIZE_MAX,
            node_options: Vec::new(),
            min_installed: Some(self.min_installed),
            names: 0,
            memory_max: None,
            restart_max: None,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StrangerArgs {
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=7))]
    nodes: u64,
    /// How long strangers work and faults are injected
    #[arg(long, default_value_t = 3_600)]
    seconds: u64,
    /// Names to register before that
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    names: u64,
    /// What all random choices are made from; printed at the beginning
    #[arg(long)]
    seed: Option<u64>,
    /// Operations a second that all other workloads together aim at
    #[arg(long, default_value_t = 150)]
    rate: u64,
    /// Nemeses, with commas between them, or `none`
    #[arg(long, value_delimiter = ',', default_values_t = campaign::AMONG_STRANGERS.map(str::to_owned))]
    nemeses: Vec<String>,
    /// Where the run leaves its files; a new folder here without it
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The program under test; without it, the one beside this program
    #[arg(long, value_name = "PATH")]
    hearthd: Option<PathBuf>,
    /// Megabytes that a node may hold
    #[arg(long, default_value_t = 500, value_name = "MB")]
    memory_max: u64,
    /// How long a node may take to serve again at the end, in seconds
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    restart_max: u64,
    /// One more option of every node
    #[arg(
        long = "node-option",
        value_name = "OPTION",
        allow_hyphen_values = true
    )]
    node_options: Vec<String>,
}

impl StrangerArgs {
    /// The run that it stands for.
    pub(crate) fn to_run(&self) -> RunArgs {
        let workloads = campaign::BESIDE_STRANGERS
            .iter()
            .chain([&workload::stranger::NAME]);
        RunArgs {
            nodes: vec![self.nodes],
            seconds: self.seconds,
            seed: self.seed,
            rate: self.rate,
            clients: 3,
            workloads: workloads.map(|&name| name.to_owned()).collect(),
            nemeses: self.nemeses.clone(),
            folder: self.folder.clone(),
            loopback: false,
            hearthd: self.hearthd.clone(),
            // Among many names each snapshot is long.
            log_size_max: 0,
            node_options: self.node_options.clone(),
            min_installed: None,
            names: self.names,
            memory_max: Some(self.memory_max),
            restart_max: Some(self.restart_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Args::command().debug_assert();
    }

    fn run(words: &[&str]) -> RunArgs {
        let words = ["hearth-jepsen-tests", "run"].iter().chain(words);
        match Args::parse_from(words).command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_is_all_and_lists_have_commas() {
        let args = run(&["--workloads", "names,once", "--nemeses", "none"]);
        assert_eq!(args.workloads(), ["names", "once"]);
        assert!(args.nemeses().is_empty());
        assert_eq!(run(&[]).nemeses().len(), faults::all().len());
        assert_eq!(
            run(&["--node-option=--reads=stale"]).node_options,
            ["--reads=stale"]
        );
    }
}
