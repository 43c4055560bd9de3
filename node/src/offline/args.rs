//! The command lines of what is done with a data folder.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{StorageLocation, cluster_name, node_id, storage};

/// The words by which these command lines are known; no option of a node begins like that.
pub(super) const NAMES: [&str; 4] = ["verify", "dump", "recover", "restore"];

#[derive(Debug, Parser)]
#[command(name = "hearthd", version, disable_help_subcommand = true)]
pub(super) struct Line {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read everything in a data folder, and name what is damaged. Changes nothing
    Verify {
        /// The data folder
        #[arg(short, long, value_name = "rocksdb:DIR", value_parser = folder)]
        storage: Folder,
    },
    /// Print all names as JSON lines, also of a data folder that does not start. Changes nothing
    Dump {
        /// The data folder
        #[arg(short, long, value_name = "rocksdb:DIR", value_parser = folder)]
        storage: Folder,
    },
    /// After a majority was lost for good: make the state of this node a new cluster of one
    Recover {
        /// The data folder of the node that survived
        #[arg(short, long, value_name = "rocksdb:DIR", value_parser = folder)]
        storage: Folder,
        /// The only way there is so far
        #[arg(long)]
        force_new_cluster: bool,
        /// Ask nothing, do it
        #[arg(short, long)]
        yes: bool,
    },
    /// Bring a snapshot (nsctl snapshot save) into an empty data folder, as a new cluster of one
    Restore {
        /// The snapshot
        file: PathBuf,
        /// The data folder, empty or missing
        #[arg(short, long, value_name = "rocksdb:DIR", value_parser = folder)]
        storage: Folder,
        /// The number of the node that it becomes
        #[arg(long, value_name = "N", default_value = "1", value_parser = node_id)]
        node_id: u64,
        /// The name of its cluster (default: that of the snapshot)
        #[arg(long, value_name = "NAME", value_parser = cluster_name)]
        cluster_name: Option<String>,
    },
}

/// A data folder.
#[derive(Debug, Clone)]
pub(super) struct Folder(pub(super) PathBuf);

fn folder(text: &str) -> Result<Folder, String> {
    match storage(text)? {
        StorageLocation::Rocks(folder) => Ok(Folder(folder)),
        StorageLocation::Memory => Err("memory keeps nothing; give rocksdb:DIR".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Line::command().debug_assert();
        let names: Vec<_> = Line::command()
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .collect();
        assert_eq!(names, NAMES);
    }

    #[test]
    fn a_data_folder_is_asked_for() {
        for words in [
            &["hearthd", "verify"][..],
            &["hearthd", "verify", "-s", "memory"],
            &["hearthd", "dump", "-s", "sql:names"],
            &["hearthd", "restore", "-s", "rocksdb:d"],
            &[
                "hearthd",
                "restore",
                "f",
                "-s",
                "rocksdb:d",
                "--node-id",
                "0",
            ],
        ] {
            assert!(Line::try_parse_from(words).is_err(), "{words:?}");
        }
        let line = Line::try_parse_from(["hearthd", "recover", "-s", "rocksdb:d", "-y"]).unwrap();
        let Command::Recover { storage, yes, .. } = line.command else {
            panic!("another command");
        };
        assert_eq!((storage.0.to_str(), yes), (Some("d"), true));
    }
}
