//! The commands of `nsctl`, one subject per file. Each turns its arguments into calls and what comes
//! back into an [`Outcome`]; none prints.

mod bench;
mod completions;
mod count;
mod list;
mod lookup;
mod man;
mod ping;
mod register;
mod remove;
mod resolve;
mod set_metadata;
mod yplookup;

use std::collections::BTreeSet;

use clap::Subcommand;

pub(crate) use count::Count;
pub(crate) use list::{List, ListMatching};
pub(crate) use lookup::Lookup;
pub(crate) use ping::Ping;
pub(crate) use register::Register;
pub(crate) use remove::{Confirm, Remove, RemoveMatching};
pub(crate) use resolve::Resolve;
pub(crate) use set_metadata::SetMetadata;
pub(crate) use yplookup::{YplookupAll, YplookupAny};

use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::Session;

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Ping(Ping),
    Count(Count),
    List(List),
    #[command(name = "listmatching")]
    ListMatching(ListMatching),
    Lookup(Lookup),
    Register(Register),
    Remove(Remove),
    #[command(name = "removematching")]
    RemoveMatching(RemoveMatching),
    #[command(name = "setmeta")]
    SetMetadata(SetMetadata),
    #[command(name = "yplookup_all", visible_alias = "listmeta_all")]
    YplookupAll(YplookupAll),
    #[command(name = "yplookup_any", visible_alias = "listmeta_any")]
    YplookupAny(YplookupAny),
    Resolve(Resolve),
    Bench(bench::Bench),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Command {
    pub(crate) async fn run(self, session: &Session) -> Result<Outcome, Failure> {
        match self {
            Self::Ping(command) => command.run(&mut session.locate().await?).await,
            Self::Count(command) => command.run(&mut session.locate().await?).await,
            Self::List(command) => command.run(&mut session.locate().await?).await,
            Self::ListMatching(command) => command.run(&mut session.locate().await?).await,
            Self::Lookup(command) => command.run(&mut session.locate().await?).await,
            Self::Register(command) => command.run(&mut session.locate().await?).await,
            Self::Remove(command) => command.run(&mut session.locate().await?).await,
            Self::RemoveMatching(command) => {
                let mut name_server = session.locate().await?;
                command.run(&mut name_server, session.confirm()).await
            }
            Self::SetMetadata(command) => command.run(&mut session.locate().await?).await,
            Self::YplookupAll(command) => command.run(&mut session.locate().await?).await,
            Self::YplookupAny(command) => command.run(&mut session.locate().await?).await,
            Self::Resolve(command) => command.run(session).await,
            Self::Bench(command) => command.run(session).await,
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
        }
    }
}

fn tag_set(tags: &[String]) -> BTreeSet<String> {
    tags.iter().cloned().collect()
}
