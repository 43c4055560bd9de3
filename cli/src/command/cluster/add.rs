//! The `cluster add` command.

use clap::Args;
use hearth_cli::{Cluster, ClusterStatus};
use serde_json::json;

use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::{Effect, Session};

/// The default name of a cluster.
const DEFAULT_CLUSTER_NAME: &str = "hearth";

const EXAMPLES: &str = "\
Examples:
  nsctl cluster add                 the next free number
  nsctl cluster add --node-id 12    this one, if it was never used

Nothing changes for the other nodes until the new one is started: it then copies the names, and
becomes a voter when it has caught up. A node started with --join and without --node-id is given a
number by itself; this command is for those who want to know it before.

JSON: {\"node_id\": 4, \"command\": [\"hearthd\", \"--node-id\", \"4\", ...]}";

/// Reserve a number for a new node and print how to start it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Add {
    /// The number; without it, the next one that was never used
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    node_id: Option<u64>,
}

impl Add {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome, Failure> {
        // The status is requested first, so that nothing can fail between the reservation of a node id and its
        // output.
        let look = async |cluster: &mut Cluster<'_>| Ok(cluster.status().await?);
        let status = session.on_cluster(Effect::Reads, look).await?;
        let work = async |cluster: &mut Cluster<'_>| Ok(cluster.add(self.node_id).await?);
        let node_id = session.on_cluster(Effect::Writes, work).await?;
        let command = command_line(node_id, &status);
        let text = format!(
            "Node {node_id} may join. On its machine, with its own address and folder:\n  {}\n\
             If the cluster has a key, add --cluster-key-file FILE. For a node without a vote, add \
             --learner.",
            command.join(" ")
        );
        Ok(Outcome::done(
            text,
            json!({"node_id": node_id, "command": command}),
        ))
    }
}

fn command_line(node_id: u64, status: &ClusterStatus) -> Vec<String> {
    let voters = status.members.iter().filter(|member| member.voter);
    let seeds: Vec<&str> = voters
        .filter_map(|member| member.peer_addr.as_deref())
        .collect();
    let seeds = match seeds.is_empty() {
        true => "HOST:9092".to_owned(),
        false => seeds.join(","),
    };
    let mut words = vec!["hearthd".to_owned()];
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    option("--node-id", node_id.to_string());
    option("--join", seeds);
    if !["", DEFAULT_CLUSTER_NAME].contains(&status.cluster.as_str()) {
        option("--cluster-name", status.cluster.clone());
    }
    option("--peer-addr", "HOST:9092".into());
    option("-n", "HOST".into());
    option("-s", "rocksdb:DIR".into());
    words
}
