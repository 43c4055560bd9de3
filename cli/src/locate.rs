//! Finding a name server, in the order of Pyro's `locateNS` and `locate_ns`.
//!
//! 1. If a host is given: that host and no other.
//! 2. `NS_HOST` if it is this machine, then 127.0.1.1 if that address has a name on this machine.
//! 3. A broadcast on the local network.
//! 4. `NS_HOST` and `NS_PORT`.
//!
//! There is one difference: if the network refuses to carry broadcasts, only step 3 ends; Pyro's own clients
//! fail with a bare `OSError`.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hearth_wire::Uri;
use hearth_wire::uri::UriError;
use tokio::net::{UdpSocket, lookup_host};

use crate::{Address, Attempt, ClientError, Config, IpVersion, NameServer};

/// The datagram that asks for a name server.
const BROADCAST_REQUEST: &[u8] = b"GET_NSURI";

/// The longest time that one round of broadcasting waits for an answer.
const BROADCAST_WAIT: Duration = Duration::from_millis(700);

/// Number of rounds of broadcasting.
const BROADCAST_ROUND_COUNT: usize = 3;

/// Maximum length of an answer in bytes. A longer answer is truncated, as in Pyro.
const BROADCAST_REPLY_LEN_MAX: usize = 100;

/// The second address that Debian gives to a machine's own name.
const OWN_NAME_ADDRESS: &str = "127.0.1.1";

/// Finds a name server. `host` may be `./u:path`. `port` is the port of direct connections and of broadcasts; 0
/// means none given.
///
/// A name server found by broadcast is connected on first use; all others are connected already.
///
/// # Errors
/// [`ClientError::NotLocated`] with all places that were tried; [`ClientError::Uri`] or
/// [`ClientError::Address`] for a broadcast answer that is not a usable URI.
pub async fn locate_ns(
    host: Option<&str>,
    port: Option<u16>,
    config: &Config,
) -> Result<NameServer, ClientError> {
    let port = port.filter(|port| *port != 0);
    let mut attempts = Vec::new();
    if let Some(host) = host {
        let port = port.unwrap_or(config.ns_port);
        return match try_host(host, port, config, &mut attempts).await {
            Some(name_server) => Ok(name_server),
            None => Err(ClientError::NotLocated { attempts }),
        };
    }
    if is_this_machine(&config.ns_host) {
        let port = port.unwrap_or(config.ns_port);
        if let Some(found) = try_host(&config.ns_host, port, config, &mut attempts).await {
            return Ok(found);
        }
        let is_other = ![OWN_NAME_ADDRESS, "::1"].contains(&config.ns_host.as_str());
        if is_other && has_name(OWN_NAME_ADDRESS).await {
            let found = try_host(OWN_NAME_ADDRESS, port, config, &mut attempts).await;
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }
    if config.broadcast && config.connect.ip_version != IpVersion::V6 {
        let port = port.unwrap_or(config.ns_bcport);
        match broadcast(port, config).await {
            Ok(Some(uri)) => return at_uri(&uri, config),
            Ok(None) => attempts.push(Attempt::Broadcast { port, error: None }),
            Err(error) => attempts.push(Attempt::Broadcast {
                port,
                error: Some(error),
            }),
        }
    }
    match try_host(&config.ns_host, config.ns_port, config, &mut attempts).await {
        Some(name_server) => Ok(name_server),
        None => Err(ClientError::NotLocated { attempts }),
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host == "::1" || host.starts_with("127.")
}

async fn try_host(
    host: &str,
    port: u16,
    config: &Config,
    attempts: &mut Vec<Attempt>,
) -> Option<NameServer> {
    let address = match Address::from_host(host, port) {
        Ok(address) => address,
        Err(error) => {
            attempts.push(Attempt::Address(error));
            return None;
        }
    };
    match NameServer::connect(&address, &config.connect).await {
        Ok(name_server) => Some(name_server),
        Err(error) => {
            tracing::debug!(%address, %error, "no name server");
            attempts.push(Attempt::Connect {
                address,
                error: Box::new(error),
            });
            None
        }
    }
}

/// Returns true if the system knows a name for this address.
async fn has_name(address: &str) -> bool {
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let lookup = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&address));
    // If there is no name, the system returns the address in digits.
    matches!(lookup.await, Ok(Ok(name)) if name != address.to_string())
}

/// Creates a name server from the URI in a broadcast's answer.
fn at_uri(text: &str, config: &Config) -> Result<NameServer, ClientError> {
    let uri = Uri::parse(text, config.ns_port)?;
    let location = uri.location.as_ref().ok_or(UriError::Shape)?;
    let address = Address::from_location(location)?;
    Ok(NameServer::new(address, config.connect.clone()))
}

/// Returns the first answer to a broadcast; `None` if there is no answer.
async fn broadcast(port: u16, config: &Config) -> io::Result<Option<String>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.set_broadcast(true)?;
    let mut reply = [0; BROADCAST_REPLY_LEN_MAX];
    for _ in 0..BROADCAST_ROUND_COUNT {
        for host in &config.broadcast_addrs {
            match send_request(&socket, host, port).await {
                Err(error) if is_fatal(&error) => return Err(error),
                _ => {}
            }
        }
        let answer = tokio::time::timeout(BROADCAST_WAIT, socket.recv_from(&mut reply)).await;
        if let Ok(received) = answer {
            let (len, _) = received?;
            let bytes = reply.get(..len).unwrap_or_default();
            // The answer is ISO-8859-1, whose bytes are the first 256 code points.
            return Ok(Some(bytes.iter().map(|byte| char::from(*byte)).collect()));
        }
    }
    Ok(None)
}

async fn send_request(socket: &UdpSocket, host: &str, port: u16) -> io::Result<()> {
    let address = match host {
        "<broadcast>" => (Ipv4Addr::BROADCAST, port).into(),
        "" => (Ipv4Addr::UNSPECIFIED, port).into(),
        host => lookup_host((host, port))
            .await?
            .find(|address| address.is_ipv4())
            .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?,
    };
    socket.send_to(BROADCAST_REQUEST, address).await.map(drop)
}

/// Returns true for errors that end the broadcast. Some systems refuse single addresses, which Pyro's clients
/// ignore.
fn is_fatal(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse
    )
}
