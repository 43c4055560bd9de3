//! The `list` and `listmatching` commands.

use clap::Args;
use hearth_cli::{Filter, NameServer};

use crate::failure::Failure;
use crate::outcome::{Outcome, TagStyle};

const LIST_EXAMPLES: &str = "\
Examples:
  nsctl list                          everything
  nsctl list sensor.                  names that begin with \"sensor.\"
  nsctl -o table list                 in columns
  nsctl -o json list | jq -r '.[].name'

JSON, ordered by name:
  [{\"name\": \"a\", \"uri\": \"PYRO:obj@host:4000\", \"metadata\": [\"tag\"]}]";

const MATCHING_EXAMPLES: &str = "\
Examples:
  nsctl listmatching 'sensor\\.\\d+$'   sensor.1, not my.sensor.1 or sensor.1a
  nsctl listmatching '.*\\.backup'

The pattern is a Python regular expression and must match at the start of the name.

JSON: as `nsctl list`";

/// List names with their URIs and metadata tags
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct List {
    /// Only names that begin with this
    pub(crate) prefix: Option<String>,
}

impl List {
    pub(crate) async fn run(&self, name_server: &mut NameServer) -> Result<Outcome, Failure> {
        let (filter, title) = match &self.prefix {
            None => (Filter::All, String::new()),
            Some(prefix) => (Filter::Prefix(prefix), format!("- prefix '{prefix}'")),
        };
        let listing = name_server.list(filter).await?;
        Ok(Outcome::Listing {
            title,
            listing,
            tag_style: TagStyle::of(name_server),
        })
    }
}

/// List the names that a regular expression matches
#[derive(Debug, Args)]
#[command(after_help = MATCHING_EXAMPLES)]
pub(crate) struct ListMatching {
    /// Python regular expression
    pub(crate) pattern: String,
}

impl ListMatching {
    pub(crate) async fn run(&self, name_server: &mut NameServer) -> Result<Outcome, Failure> {
        let listing = name_server.list(Filter::Regex(&self.pattern)).await?;
        Ok(Outcome::Listing {
            title: format!("- regex '{}'", self.pattern),
            listing,
            tag_style: TagStyle::of(name_server),
        })
    }
}
