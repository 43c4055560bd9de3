//! The `ping` command.

use clap::Args;
use hearth_cli::NameServer;
use serde_json::json;

use crate::failure::Failure;
use crate::outcome::Outcome;

const EXAMPLES: &str = "\
Examples:
  nsctl ping
  nsctl --endpoints a,b,c --timeout 2 ping && echo somebody is there

JSON: {\"ok\": true}";

/// Ask the name server for a sign of life
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Ping {}

impl Ping {
    pub(crate) async fn run(&self, name_server: &mut NameServer) -> Result<Outcome, Failure> {
        name_server.ping().await?;
        Ok(Outcome::done("Name server ping ok.", json!({"ok": true})))
    }
}
