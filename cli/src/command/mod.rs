//! The commands of `nsctl`, one subject per file. Each turns its arguments into calls and the replies into an
//! [`Outcome`]. None prints.

mod bench;
mod cluster;
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
mod snapshot;
mod yplookup;

use std::collections::BTreeSet;

use clap::Subcommand;
use hearth_cli::NameServer;

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
use crate::session::{Effect, Session};

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
    Cluster(cluster::ClusterCommand),
    Snapshot(snapshot::SnapshotCommand),
    Bench(bench::Bench),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Command {
    pub(crate) async fn run(self, session: &Session) -> Result<Outcome, Failure> {
        macro_rules! on_name_server {
            ($effect:ident, $command:expr) => {{
                let work = async |server: &mut NameServer| $command.run(server).await;
                session
                    .on_name_server(Effect::$effect, work)
                    .await
                    .map(|(_, done)| done)
            }};
        }
        match self {
            Self::Ping(command) => on_name_server!(Reads, command),
            Self::Count(command) => on_name_server!(Reads, command),
            Self::List(command) => on_name_server!(Reads, command),
            Self::ListMatching(command) => on_name_server!(Reads, command),
            Self::Lookup(command) => on_name_server!(Reads, command),
            Self::Register(command) => on_name_server!(Writes, command),
            Self::Remove(command) => on_name_server!(Writes, command),
            Self::RemoveMatching(command) => {
                let mut confirm = session.confirm();
                let work = async |server: &mut NameServer| command.run(server, &mut confirm).await;
                let done = session.on_name_server(Effect::Writes, work).await;
                done.map(|(_, done)| done)
            }
            Self::SetMetadata(command) => on_name_server!(Writes, command),
            Self::YplookupAll(command) => on_name_server!(Reads, command),
            Self::YplookupAny(command) => on_name_server!(Reads, command),
            Self::Resolve(command) => command.run(session).await,
            Self::Cluster(command) => command.run(session).await,
            Self::Snapshot(command) => command.run(session).await,
            Self::Bench(command) => command.run(session).await,
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
        }
    }
}

fn tag_set(tags: &[String]) -> BTreeSet<String> {
    tags.iter().cloned().collect()
}
