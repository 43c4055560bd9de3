//! The `cluster promote` command.

use clap::Args;
use hearth_cli::Cluster;
use serde_json::json;

use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::{Effect, Session};

const EXAMPLES: &str = "\
Examples:
  nsctl cluster promote 4

Nodes that join without --learner are promoted by themselves when they have caught up. A learner that
is far behind is refused, because the cluster would wait for it.

JSON: {\"promoted\": 4}";

/// Make a learner a voter
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Promote {
    /// The learner's number
    #[arg(value_name = "N")]
    node_id: u64,
}

impl Promote {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome, Failure> {
        let work = async |cluster: &mut Cluster<'_>| Ok(cluster.promote(self.node_id).await?);
        session.on_cluster(Effect::Writes, work).await?;
        Ok(Outcome::done(
            format!("Node {} is a voter", self.node_id),
            json!({"promoted": self.node_id}),
        ))
    }
}
