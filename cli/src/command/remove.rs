//! The `remove` and `removematching` commands.

use std::io::{self, Write};

use clap::Args;
use hearth_cli::{NameServer, Removal};
use serde_json::json;

use crate::failure::Failure;
use crate::outcome::{EXIT_NOT_FOUND, Outcome};

const REMOVE_EXAMPLES: &str = "\
Examples:
  nsctl remove sensor.1

Exit code 3 says that there was nothing to remove.

JSON: {\"removed\": 1}";

const MATCHING_EXAMPLES: &str = "\
Examples:
  nsctl listmatching 'sensor\\.'          look first
  nsctl removematching 'sensor\\.'        asks, then removes
  nsctl --yes removematching 'sensor\\.'  for scripts

The pattern is a Python regular expression and must match at the start of the name.

JSON: {\"removed\": 12}";

const QUESTION: &str =
    "Potentially removing lots of items from the Name server. Are you sure (y/n)?";

/// Remove one name
#[derive(Debug, Args)]
#[command(after_help = REMOVE_EXAMPLES)]
pub(crate) struct Remove {
    /// The name
    pub(crate) name: String,
}

impl Remove {
    pub(crate) async fn run(&self, name_server: &mut NameServer) -> Result<Outcome, Failure> {
        let count = name_server.remove(Removal::Name(&self.name)).await?;
        let json = json!({"removed": count});
        if count > 0 {
            return Ok(Outcome::done(format!("Removed {}", self.name), json));
        }
        Ok(Outcome::Message {
            text: Some("Nothing removed".into()),
            json,
            exit_code: EXIT_NOT_FOUND,
        })
    }
}

/// Remove all names that a regular expression matches, after a question
#[derive(Debug, Args)]
#[command(after_help = MATCHING_EXAMPLES)]
pub(crate) struct RemoveMatching {
    /// Python regular expression
    pub(crate) pattern: String,
}

/// The form of confirmation before many entries are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// Given on the command line.
    Assumed,
    /// A question on standard output, as in the original tools.
    AskOnStdout,
    /// A question on standard error.
    AskOnStderr,
}

impl RemoveMatching {
    pub(crate) async fn run(
        &self,
        name_server: &mut NameServer,
        confirm: &mut Confirm,
    ) -> Result<Outcome, Failure> {
        if !confirm.is_sure(QUESTION)? {
            return Ok(Outcome::Message {
                text: None,
                json: json!({"removed": 0}),
                exit_code: 0,
            });
        }
        let count = name_server.remove(Removal::Regex(&self.pattern)).await?;
        Ok(Outcome::done(
            format!("{count} items removed."),
            json!({"removed": count}),
        ))
    }
}

impl Confirm {
    /// Asks the question and reads one line. Only `y` and `Y` mean yes. After a yes the question is
    /// not asked again.
    pub(super) fn is_sure(&mut self, question: &str) -> Result<bool, Failure> {
        match self {
            Self::Assumed => return Ok(true),
            Self::AskOnStdout => ask(question, &mut io::stdout())?,
            Self::AskOnStderr => ask(question, &mut io::stderr())?,
        }
        let mut answer = String::new();
        if io::stdin().read_line(&mut answer)? == 0 {
            return Err(Failure::EndOfInput);
        }
        let is_yes = matches!(answer.trim(), "y" | "Y");
        if is_yes {
            *self = Self::Assumed;
        }
        Ok(is_yes)
    }
}

fn ask(question: &str, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{question}")?;
    out.flush()
}
