//! The `setmeta` command.

use clap::Args;
use hearth_cli::NameServer;
use serde_json::json;

use super::tag_set;
use crate::failure::Failure;
use crate::outcome::Outcome;

const EXAMPLES: &str = "\
Examples:
  nsctl setmeta sensor.1 roof outdoor   exactly these two
  nsctl setmeta sensor.1                none

JSON: {\"name\": \"sensor.1\", \"metadata\": [\"outdoor\", \"roof\"]}";

/// Replace the metadata tags of a name
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SetMetadata {
    /// The name
    pub(crate) name: String,
    /// The tags it will have; none clears them
    #[arg(value_name = "TAG")]
    pub(crate) tags: Vec<String>,
}

impl SetMetadata {
    pub(crate) async fn run(&self, name_server: &mut NameServer) -> Result<Outcome, Failure> {
        let tags = tag_set(&self.tags);
        name_server.set_metadata(&self.name, &tags).await?;
        let text = match tags.is_empty() {
            true => "Metadata cleared",
            false => "Metadata updated",
        };
        let json = json!({"name": self.name, "metadata": tags});
        Ok(Outcome::done(text, json))
    }
}
