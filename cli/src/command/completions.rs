//! The `completions` command.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde_json::json;

use crate::args::Cli;
use crate::failure::Failure;
use crate::outcome::Outcome;

const EXAMPLES: &str = "\
Examples:
  nsctl completions bash > /etc/bash_completion.d/nsctl
  nsctl completions zsh > ~/.zfunc/_nsctl
  nsctl completions fish > ~/.config/fish/completions/nsctl.fish";

/// Print a script that completes nsctl's commands and options in a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<Outcome, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "nsctl", &mut script);
        let script = String::from_utf8_lossy(&script);
        let script = script.trim_end();
        Ok(Outcome::done(script, json!({"script": script})))
    }
}
