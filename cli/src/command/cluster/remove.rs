//! The `cluster remove` command.

use clap::Args;
use hearth_cli::Cluster;
use serde_json::json;

use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::{Effect, Session};

const EXAMPLES: &str = "\
Examples:
  nsctl cluster remove 3          asks, then removes
  nsctl --yes cluster remove 3    for scripts

The node stops by itself when it learns of it. It cannot come back under its number: to bring its
machine back, empty its folder and let it join as a new node. A removal after which fewer voters answer
than a majority needs is refused, because nothing could be written then: bring another back first.

JSON: {\"removed\": 3}";

/// Remove a node for good, after a question
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Remove {
    /// The node's number
    #[arg(value_name = "N")]
    node_id: u64,
}

impl Remove {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome, Failure> {
        let node_id = self.node_id;
        let question =
            format!("Removing node {node_id} from the cluster for good. Are you sure (y/n)?");
        if !session.confirm().is_sure(&question)? {
            return Ok(Outcome::Message {
                text: None,
                json: json!({"removed": null}),
                exit_code: 0,
            });
        }
        let work = async |cluster: &mut Cluster<'_>| Ok(cluster.remove(node_id).await?);
        session.on_cluster(Effect::Writes, work).await?;
        Ok(Outcome::done(
            format!("Removed node {node_id}"),
            json!({"removed": node_id}),
        ))
    }
}
