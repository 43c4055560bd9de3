//! Resolving a `PYRONAME:` or `PYROMETA:` URI to the `PYRO:` URI of an object.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_wire::Uri;
use hearth_wire::uri::{Location, Target};
use rand::seq::IteratorRandom;
use tokio::time::Instant;

use crate::{ClientError, Config, Filter, NameServer, locate_ns};

/// Pause between two lookups of a name that is not registered yet.
const LOOKUP_PAUSE: Duration = Duration::from_millis(100);

/// Resolves `uri`. A `PYRO:` URI is returned as it is, a `PYRONAME:` URI is looked up, and for a `PYROMETA:`
/// URI one of the objects with all the tags is picked at random. The name server is the one at the URI's
/// location, or the one that [`locate_ns`] finds; as in Pyro, a unix socket in the URI counts as no location.
/// An unknown name is looked up again until [`Config::lookup_delay`] has elapsed.
///
/// # Errors
/// [`ClientError::Uri`] and [`ClientError::Address`]; those of [`locate_ns`]; the name server's `NamingError`
/// for an unknown name; [`ClientError::NoCandidate`].
pub async fn resolve(uri: &str, config: &Config) -> Result<Uri, ClientError> {
    let uri = Uri::parse(uri, config.ns_port)?;
    if matches!(uri.target, Target::Object(_)) {
        return Ok(uri);
    }
    let (host, port) = match &uri.location {
        Some(Location::Tcp { host, port }) => (Some(host.as_str()), Some(*port)),
        Some(Location::Unix(_)) | None => (None, None),
    };
    let port = match port {
        Some(port) => {
            Some(u16::try_from(port).map_err(|_| crate::AddressError::PortRange { port })?)
        }
        None => None,
    };
    let mut name_server = locate_ns(host, port, config).await?;
    resolve_at(&mut name_server, &uri, config).await
}

/// Resolves `uri` at this name server and ignores the URI's location.
///
/// # Errors
/// The name server's `NamingError` for an unknown name; [`ClientError::NoCandidate`]; [`ClientError::Uri`] for
/// a registered URI that does not parse; the errors of [`NameServer::list_uris`].
pub async fn resolve_at(
    name_server: &mut NameServer,
    uri: &Uri,
    config: &Config,
) -> Result<Uri, ClientError> {
    let deadline = Instant::now() + config.lookup_delay;
    loop {
        let found = match &uri.target {
            Target::Object(_) => return Ok(uri.clone()),
            Target::Name(name) => name_server.lookup(name).await,
            Target::Meta(tags) => pick(name_server, tags, config).await,
        };
        match found {
            Err(error) if is_unknown(&error) && Instant::now() + LOOKUP_PAUSE <= deadline => {
                tokio::time::sleep(LOOKUP_PAUSE).await;
            }
            found => return found,
        }
    }
}

async fn pick(
    name_server: &mut NameServer,
    tags: &BTreeSet<String>,
    config: &Config,
) -> Result<Uri, ClientError> {
    let candidates = name_server.list_uris(Filter::MetaAll(tags)).await?;
    match candidates.values().choose(&mut rand::rng()) {
        Some(uri) => Ok(Uri::parse(uri, config.ns_port)?),
        None => Err(ClientError::NoCandidate { tags: tags.clone() }),
    }
}

fn is_unknown(error: &ClientError) -> bool {
    match error {
        ClientError::NoCandidate { .. } => true,
        ClientError::Remote { exception, .. } => exception.class.name() == "NamingError",
        _ => false,
    }
}
