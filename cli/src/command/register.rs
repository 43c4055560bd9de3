//! The `register` command.

use clap::Args;
use hearth_cli::{IfTaken, NameServer};
use serde_json::json;

use super::tag_set;
use crate::failure::Failure;
use crate::outcome::Outcome;

const EXAMPLES: &str = "\
Examples:
  nsctl register sensor.1 PYRO:obj_7@10.0.0.9:4000
  nsctl register sensor.1 PYRO:obj_8@10.0.0.9:4000 --replace
  nsctl register sensor.1 PYRO:obj_7@10.0.0.9:4000 --meta roof --meta outdoor

JSON: {\"name\": \"sensor.1\", \"uri\": \"PYRO:o@h:4000\", \"registered\": true}";

/// Register a URI under a name that is free
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Register {
    /// The name
    pub(crate) name: String,
    /// The object's URI
    pub(crate) uri: String,
    /// Take the place of an entry that has the name already, its tags included
    #[arg(long)]
    pub(crate) replace: bool,
    /// A metadata tag; may be given several times
    #[arg(long, value_name = "TAG")]
    pub(crate) meta: Vec<String>,
}

impl Register {
    pub(crate) async fn run(&self, name_server: &mut NameServer) -> Result<Outcome, Failure> {
        let if_taken = match self.replace {
            true => IfTaken::Replace,
            false => IfTaken::Refuse,
        };
        let tags = Some(tag_set(&self.meta)).filter(|tags| !tags.is_empty());
        name_server
            .register(&self.name, &self.uri, if_taken, tags.as_ref())
            .await?;
        Ok(Outcome::done(
            format!("Registered {}", self.name),
            json!({"name": self.name, "uri": self.uri, "registered": true}),
        ))
    }
}
