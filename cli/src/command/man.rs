//! The `man` command.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use serde_json::json;

use crate::args::Cli;
use crate::failure::Failure;
use crate::outcome::Outcome;

const EXAMPLES: &str = "\
Examples:
  nsctl man /usr/local/share/man/man1 && man nsctl-register

JSON: {\"directory\": \"/usr/local/share/man/man1\"}";

/// Write the manual pages into a folder
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Man {
    /// The folder; made if it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(&self) -> Result<Outcome, Failure> {
        fs::create_dir_all(&self.directory)?;
        clap_mangen::generate_to(Cli::command(), &self.directory)?;
        let directory = self.directory.display().to_string();
        Ok(Outcome::done(
            format!("Manual pages written to {directory}"),
            json!({"directory": directory}),
        ))
    }
}
