//! What `hearthd` does with a data folder while no node runs on it: `verify`, `dump`, `recover`, `restore`.
//!
//! The work is [`hearth_raft::offline`]'s; this is its command line.

mod args;
mod dump;
mod restore;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use hearth_raft::offline::{self, NewCluster, OfflineError, Recovery};

use self::args::{Command, Line};

/// Something is damaged, or it was not done.
const EXIT_FAILURE: u8 = 1;
/// It was asked for in a wrong way.
const EXIT_USAGE: u8 = 2;

/// Why a command did not do what it should; printed already where that is more than a line.
type Outcome = Result<ExitCode, OfflineError>;

/// Runs the command that the line names, with the program's name first; `None` if it names none.
pub fn run(words: &[OsString]) -> Option<ExitCode> {
    let first = words.get(1).map(OsString::as_os_str)?;
    if !args::NAMES.iter().any(|name| first == OsStr::new(name)) {
        return None;
    }
    let line = match Line::try_parse_from(words) {
        Ok(line) => line,
        Err(error) => {
            // Help goes to standard output, mistakes to the other one.
            let _ = error.print();
            return Some(if error.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            });
        }
    };
    let done = match line.command {
        Command::Verify { storage } => verify(&storage.0),
        Command::Dump { storage } => dump::run(&storage.0),
        Command::Recover {
            storage,
            force_new_cluster,
            yes,
        } => {
            if force_new_cluster {
                recover(&storage.0, yes)
            } else {
                say(
                    "recover makes the state of this node a new cluster of one; say so with --force-new-cluster",
                );
                Ok(ExitCode::from(EXIT_USAGE))
            }
        }
        Command::Restore {
            file,
            storage,
            node_id,
            cluster_name,
        } => restore::run(&file, &storage.0, node_id, cluster_name),
    };
    Some(done.unwrap_or_else(|error| {
        say(&error);
        ExitCode::from(EXIT_FAILURE)
    }))
}

fn verify(folder: &std::path::Path) -> Outcome {
    let verified = offline::verify(folder)?;
    let mut out = io::stdout().lock();
    for line in &verified.lines {
        writeln!(out, "{line}").map_err(on_stdout)?;
    }
    if verified.problems.is_empty() {
        writeln!(out, "nothing is damaged").map_err(on_stdout)?;
        return Ok(ExitCode::SUCCESS);
    }
    for problem in &verified.problems {
        say(&format_args!("damaged: {problem}"));
    }
    say("hearthd dump prints what can be read; docs/recovery.md has the steps");
    Ok(ExitCode::from(EXIT_FAILURE))
}

fn recover(folder: &std::path::Path, yes: bool) -> Outcome {
    let recovery = Recovery::open(folder)?;
    for line in recovery.consequences()? {
        say(&line);
    }
    if !yes && !confirmed() {
        say("nothing was changed; with --yes it is done without a question");
        return Ok(ExitCode::from(EXIT_FAILURE));
    }
    tell(&recovery.carry_out()?)?;
    Ok(ExitCode::SUCCESS)
}

/// What a node is from now on, and how it is started.
fn tell(cluster: &NewCluster) -> Result<(), OfflineError> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "node {} is the only member of the cluster {:?}, {}\n{} names, state hash {}\nstart it with its old \
         command line; --initial-cluster and --join are ignored",
        cluster.node_id,
        cluster.cluster_name,
        cluster.cluster_id,
        cluster.name_count,
        cluster.state_hash
    )
    .map_err(on_stdout)
}

/// Asks whoever sits there; nobody does where standard input is no terminal.
fn confirmed() -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    let _ = write!(io::stderr(), "hearthd: go on? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn on_stdout(source: io::Error) -> OfflineError {
    OfflineError::Io {
        what: "standard output".to_owned(),
        source,
    }
}

fn say(text: &(impl Display + ?Sized)) {
    let _ = writeln!(io::stderr(), "hearthd: {text}");
}
