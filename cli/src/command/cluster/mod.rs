//! The `cluster` commands, about the nodes behind the name server. Each command has its own file.

mod add;
mod health;
mod members;
mod promote;
mod remove;
mod status;
mod transfer_leader;

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  nsctl cluster status                         every node, its role and its state
  nsctl --endpoints a,b,c cluster health       from the first node that can serve
  nsctl help cluster add                       more about one of the commands

Every node answers for the whole cluster. Exit codes: 3 unknown member, 4 refused (the reason is
printed), 5 no node reached or no quorum, 6 denied, 1 a change that may or may not have been made.

Everybody may look. Changes are taken from the node's own machine, from those who have its HMAC key, and
with --cluster-key-file FILE (or NSCTL_CLUSTER_KEY_FILE), the file that the nodes themselves have.";

/// Look at and change the cluster of nodes behind the name server
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ClusterCommand {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    Status(status::Status),
    Health(health::Health),
    Members(members::Members),
    Add(add::Add),
    Promote(promote::Promote),
    Remove(remove::Remove),
    TransferLeader(transfer_leader::TransferLeader),
}

impl ClusterCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<Outcome, Failure> {
        match self.subject {
            Subject::Status(command) => command.run(session).await,
            Subject::Health(command) => command.run(session).await,
            Subject::Members(command) => command.run(session).await,
            Subject::Add(command) => command.run(session).await,
            Subject::Promote(command) => command.run(session).await,
            Subject::Remove(command) => command.run(session).await,
            Subject::TransferLeader(command) => command.run(session).await,
        }
    }
}

/// The text for an unknown value in a table.
const ABSENT: &str = "-";

fn or_absent(value: Option<impl ToString>) -> String {
    value.map_or_else(|| ABSENT.to_owned(), |value| value.to_string())
}

fn yes_or_no(is: bool) -> String {
    match is {
        true => "yes".into(),
        false => "no".into(),
    }
}

/// `leader node 2`, or `no leader`.
fn leader_text(leader: Option<u64>) -> String {
    leader.map_or_else(|| "no leader".into(), |id| format!("leader node {id}"))
}
