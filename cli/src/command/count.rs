//! The `count` command.

use clap::Args;
use hearth_cli::NameServer;
use serde_json::json;

use crate::failure::Failure;
use crate::outcome::Outcome;

const EXAMPLES: &str = "\
Examples:
  nsctl count
  nsctl -o json count | jq .count

JSON: {\"count\": 3}";

/// Print how many names are registered, the name server's own included
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Count {}

impl Count {
    pub(crate) async fn run(&self, name_server: &mut NameServer) -> Result<Outcome, Failure> {
        let count = name_server.count().await?;
        Ok(Outcome::done(count.to_string(), json!({"count": count})))
    }
}
