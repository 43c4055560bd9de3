//! `nsctl`: a command line for Pyro name servers.
//!
//! If the program is called `pyro4-nsc` or `pyro5-nsc`, it behaves as that program, with its
//! options, streams and exit codes, so that scripts keep working without changes.

mod args;
mod command;
mod failure;
mod legacy;
mod outcome;
mod output;
mod session;

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches};

use crate::args::Cli;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().collect();
    let program = arguments.first().map(Path::new).and_then(Path::file_name);
    let outcome = match program
        .and_then(OsStr::to_str)
        .and_then(legacy::Tool::named)
    {
        Some(tool) => run(legacy::run(tool, arguments.get(1..).unwrap_or_default())),
        None => {
            let matches = Cli::command().get_matches_from(arguments);
            match Cli::from_arg_matches(&matches) {
                Ok(cli) => run(session::run(cli, &matches)),
                Err(error) => error.exit(),
            }
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs `work` on this thread. One connection needs no other threads.
fn run(work: impl Future<Output = ExitCode>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    Ok(runtime.block_on(work))
}
