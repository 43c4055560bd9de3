//! The `cluster members` command.

use clap::Args;
use hearth_cli::Cluster;

use super::{or_absent, yes_or_no};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::{Effect, Session};

const EXAMPLES: &str = "\
Examples:
  nsctl cluster members
  nsctl -o json cluster members | jq '[.[] | select(.voter)] | length'

Asks one node only, for the membership as it has it; `nsctl cluster status` asks every member.

JSON: [{\"id\": 1, \"peer_addr\": \"a:9092\", \"voter\": true, \"promotes_itself\": false}]";

/// List the members with their addresses
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Members {}

impl Members {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome, Failure> {
        let work = async |cluster: &mut Cluster<'_>| Ok(cluster.members().await?);
        let members = session.on_cluster(Effect::Reads, work).await?;
        let rows = members.iter().map(|member| {
            vec![
                member.id.to_string(),
                yes_or_no(member.voter),
                or_absent(member.peer_addr.as_ref()),
            ]
        });
        Ok(Outcome::Table {
            heading: None,
            columns: vec!["ID", "VOTER", "PEERS"],
            rows: rows.collect(),
            notes: vec![],
            json: serde_json::to_value(&members).unwrap_or_default(),
        })
    }
}
