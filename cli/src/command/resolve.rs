//! The `resolve` command.

use clap::Args;
use hearth_cli::{ClientError, NameServer, resolve, resolve_at};
use hearth_wire::Uri;
use hearth_wire::uri::{Location, Target};
use serde_json::json;

use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::{Effect, Session};

const EXAMPLES: &str = "\
Examples:
  nsctl resolve PYRONAME:sensor.1
  nsctl resolve PYRONAME:sensor.1@neptune:9090   on that host's name server
  nsctl resolve PYROMETA:sensor,outdoor          a random one that has both tags

JSON: {\"uri\": \"PYRO:obj@host:4000\"}";

/// Print the PYRO: URI that a PYRONAME: or PYROMETA: URI stands for
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Resolve {
    /// The URI; a host in it goes before -n
    pub(crate) uri: String,
}

impl Resolve {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome, Failure> {
        let config = &session.config;
        let uri = Uri::parse(&self.uri, config.ns_port).map_err(ClientError::from)?;
        let is_elsewhere = matches!(uri.location, Some(Location::Tcp { .. }));
        let resolved = if is_elsewhere || matches!(uri.target, Target::Object(_)) {
            resolve(&self.uri, config).await.map_err(located)?
        } else {
            let work = async |server: &mut NameServer| Ok(resolve_at(server, &uri, config).await?);
            let (_, resolved) = session.on_name_server(Effect::Reads, work).await?;
            resolved
        };
        let text = resolved.to_string();
        Ok(Outcome::done(text.clone(), json!({"uri": text})))
    }
}

fn located(error: ClientError) -> Failure {
    match error {
        error @ ClientError::NotLocated { .. } => Failure::Locate(error),
        error => Failure::Call(error),
    }
}
