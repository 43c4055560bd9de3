//! The `lookup` command.

use clap::Args;
use hearth_cli::NameServer;

use crate::failure::Failure;
use crate::outcome::{Outcome, TagStyle};

const EXAMPLES: &str = "\
Examples:
  nsctl lookup sensor.1
  nsctl lookup sensor.1; [ $? = 3 ] && echo not registered

JSON: {\"name\": \"sensor.1\", \"uri\": \"PYRO:obj@host:4000\", \"metadata\": [\"tag\"]}";

/// Print the URI and the metadata tags of one name
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Lookup {
    /// The name
    pub(crate) name: String,
}

impl Lookup {
    pub(crate) async fn run(&self, name_server: &mut NameServer) -> Result<Outcome, Failure> {
        let (uri, metadata) = name_server.lookup_with_metadata(&self.name).await?;
        Ok(Outcome::Entry {
            name: self.name.clone(),
            uri: uri.to_string(),
            metadata,
            tag_style: TagStyle::of(name_server),
        })
    }
}
