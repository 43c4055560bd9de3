//! The `cluster transfer-leader` command.

use clap::Args;
use hearth_cli::Cluster;
use serde_json::json;

use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::{Effect, Session};

const EXAMPLES: &str = "\
Examples:
  nsctl cluster transfer-leader      to the voter that is furthest
  nsctl cluster transfer-leader 2    to node 2

Clients notice a pause of some milliseconds. A leader that is stopped with SIGTERM does this by itself.

JSON: {\"leader\": 2}";

/// Hand leadership to another voter
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TransferLeader {
    /// The voter's number; without it, the one that is furthest
    #[arg(value_name = "N")]
    node_id: Option<u64>,
}

impl TransferLeader {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome, Failure> {
        let work =
            async |cluster: &mut Cluster<'_>| Ok(cluster.transfer_leader(self.node_id).await?);
        let leader = session.on_cluster(Effect::Writes, work).await?;
        Ok(Outcome::done(
            format!("Node {leader} leads"),
            json!({"leader": leader}),
        ))
    }
}
