//! The `cluster health` command.

use clap::Args;
use hearth_cli::Cluster;

use super::leader_text;
use crate::failure::{EXIT_UNREACHABLE, Failure};
use crate::outcome::Outcome;
use crate::session::{Effect, Session};

const EXAMPLES: &str = "\
Examples:
  nsctl -n localhost cluster health || echo this node cannot serve
  nsctl --endpoints a,b,c cluster health || echo page somebody

Exit code 0 says that the node could serve reads and writes, that every voter answers it and that
there is no alarm; 5 that one of these does not hold, or that no node was reached. Of several endpoints
the first that finds all well counts.

JSON: {\"healthy\": false, \"ready\": false, \"leader\": null, \"alarms\": [], \"reason\": \"...\"}";

/// Tell by the exit code whether all is well
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Health {}

impl Health {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome, Failure> {
        // If a node is not healthy, its answer is kept and the next endpoint is asked.
        let mut ailing = None;
        let work = async |cluster: &mut Cluster<'_>| {
            let health = cluster.health().await?;
            if health.healthy {
                return Ok(health);
            }
            ailing = Some(health);
            Err(Failure::NotHealthy)
        };
        let health = match session.on_cluster(Effect::Reads, work).await {
            Ok(health) => health,
            Err(failure) => ailing.ok_or(failure)?,
        };
        let mut text = match health.healthy {
            true => format!("healthy, {}", leader_text(health.leader)),
            false => {
                let reason = health.reason.as_deref().unwrap_or("no reason given");
                format!("not healthy: {reason}")
            }
        };
        let told = |alarm: &&String| !text.contains(alarm.as_str());
        let untold: Vec<_> = health.alarms.iter().filter(told).cloned().collect();
        for alarm in untold {
            text.push_str(&format!("\nalarm: {alarm}"));
        }
        Ok(Outcome::Message {
            text: Some(text),
            json: serde_json::to_value(&health).unwrap_or_default(),
            exit_code: match health.healthy {
                true => 0,
                false => EXIT_UNREACHABLE,
            },
        })
    }
}
