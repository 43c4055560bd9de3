//! The `yplookup_all` and `yplookup_any` commands. Pyro4's tool calls them `listmeta_all` and
//! `listmeta_any`.

use clap::Args;
use hearth_cli::{Filter, NameServer};

use super::tag_set;
use crate::failure::Failure;
use crate::outcome::{Outcome, TagStyle};

/// Title of the list. The space before the hyphen is that of the original tools.
const TITLE: &str = " - searched by metadata";

const ALL_EXAMPLES: &str = "\
Examples:
  nsctl yplookup_all sensor outdoor

JSON: as `nsctl list`";

const ANY_EXAMPLES: &str = "\
Examples:
  nsctl yplookup_any indoor outdoor

JSON: as `nsctl list`";

/// List the names that have all the given metadata tags
#[derive(Debug, Args)]
#[command(after_help = ALL_EXAMPLES)]
pub(crate) struct YplookupAll {
    /// Tags that a name must have
    #[arg(value_name = "TAG", required = true)]
    pub(crate) tags: Vec<String>,
}

impl YplookupAll {
    pub(crate) async fn run(&self, name_server: &mut NameServer) -> Result<Outcome, Failure> {
        search(name_server, Filter::MetaAll(&tag_set(&self.tags))).await
    }
}

/// List the names that have at least one of the given metadata tags
#[derive(Debug, Args)]
#[command(after_help = ANY_EXAMPLES)]
pub(crate) struct YplookupAny {
    /// Tags of which a name must have one
    #[arg(value_name = "TAG", required = true)]
    pub(crate) tags: Vec<String>,
}

impl YplookupAny {
    pub(crate) async fn run(&self, name_server: &mut NameServer) -> Result<Outcome, Failure> {
        search(name_server, Filter::MetaAny(&tag_set(&self.tags))).await
    }
}

async fn search(name_server: &mut NameServer, filter: Filter<'_>) -> Result<Outcome, Failure> {
    let listing = name_server.list(filter).await?;
    Ok(Outcome::Listing {
        title: TITLE.into(),
        listing,
        tag_style: TagStyle::of(name_server),
    })
}
