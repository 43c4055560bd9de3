//! Many names that are there before anything else happens, and that nobody changes.

use std::time::Duration;

use hearth_cli::{Address, BatchCall, ConnectOptions, NAME_SERVER, NameServer};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use crate::cluster::PATIENCE;
use crate::error::{Result, RigError};
use crate::folder::{CheckerVerdict, Valid};

/// Connections that fill a cluster, and registrations in each of their messages. More connections than this
/// are no faster, and take a share that each address has.
const CONNECTION_COUNT: u64 = 48;
const BATCH_LEN: usize = 250;

/// How many of the names are looked up in the end, at each node.
const SAMPLE_COUNT: u64 = 200;

fn name(number: u64) -> String {
    format!("preload.{number:08}")
}

fn uri(number: u64) -> String {
    format!("PYRO:obj_{number}@machine.example:41234")
}

async fn connect(address: &Address) -> Result<NameServer> {
    let options = ConnectOptions {
        timeout: Some(PATIENCE),
        ..ConnectOptions::default()
    };
    NameServer::connect(address, &options)
        .await
        .map_err(node(address))
}

fn node(address: &Address) -> impl FnOnce(hearth_cli::ClientError) -> RigError + use<> {
    let what = format!("preloaded names at {address}");
    |source| RigError::Node {
        what,
        source: Box::new(source),
    }
}

/// Registers the names 0 to `count`, through all nodes at once.
///
/// # Errors
/// The first registration that is not acknowledged.
pub async fn register(endpoints: &[(u64, Address)], count: u64) -> Result<()> {
    let mut fillers = JoinSet::new();
    for (first, (_, address)) in (0..CONNECTION_COUNT).zip(endpoints.iter().cycle()) {
        let numbers: Vec<u64> = (first..count)
            .step_by(usize::try_from(CONNECTION_COUNT).unwrap_or(1))
            .collect();
        fillers.spawn(fill(address.clone(), numbers));
    }
    while let Some(filled) = fillers.join_next().await {
        filled.map_err(|error| RigError::Panicked {
            what: "a client that registers many names".into(),
            reason: error.to_string(),
        })??;
    }
    Ok(())
}

async fn fill(address: Address, numbers: Vec<u64>) -> Result<()> {
    let mut server = connect(&address).await?;
    for batch in numbers.chunks(BATCH_LEN) {
        let calls = batch.iter().map(|&number| BatchCall {
            method: "register".into(),
            args: vec![name(number).as_str().into(), uri(number).as_str().into()],
            kwargs: Vec::new(),
        });
        let connection = server.connection().await.map_err(node(&address))?;
        let replies = connection.batch(NAME_SERVER, calls.collect()).await;
        let replies = replies.map_err(node(&address))?;
        if let Some(refused) = replies.iter().find_map(|reply| reply.as_ref().err()) {
            return Err(RigError::Refused {
                what: format!("a name registered at {address}"),
                reason: refused.text(),
            });
        }
    }
    Ok(())
}

/// Looks at each node whether names of `count` are what they were.
pub async fn check(
    endpoints: &[(u64, Address)],
    count: u64,
    random: &mut SmallRng,
) -> CheckerVerdict {
    let title = "preloaded names are what they were";
    let mut looked = 0;
    for (place, address) in endpoints {
        let found = async {
            let mut server = connect(address).await?;
            for _ in 0..SAMPLE_COUNT.min(count) {
                let number = random.random_range(0..count);
                looked += 1;
                let found = server
                    .lookup(&name(number))
                    .await
                    .map(|uri| uri.to_string());
                match found {
                    Ok(found) if found == uri(number) => {}
                    Ok(found) => return Ok(Some(format!("{} is {found}", name(number)))),
                    Err(error) if error.exception().is_some() => {
                        return Ok(Some(error.to_string()));
                    }
                    Err(error) => return Err(node(address)(error)),
                }
            }
            Ok(None)
        };
        let (valid, text) = match tokio::time::timeout(Duration::from_secs(120), found).await {
            Ok(Ok(None)) => continue,
            Ok(Ok(Some(wrong))) => (Valid::False, wrong),
            Ok(Err(error)) => (Valid::Unknown, error.to_string()),
            Err(_) => (
                Valid::Unknown,
                "they cannot be looked up in time".to_owned(),
            ),
        };
        return CheckerVerdict::new(title, valid, format!("node {place}: {text}"));
    }
    let text = format!("{looked} look-ups of {count} names, at all nodes");
    CheckerVerdict::new(title, Valid::True, text)
}
