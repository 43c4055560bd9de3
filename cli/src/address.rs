//! Server addresses, as an operator writes them and as URIs hold them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use hearth_wire::uri::Location;

/// Prefix of a unix socket's location in Pyro URIs.
const UNIX_PREFIX: &str = "./u:";

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Host name or address (IPv6 without brackets) and TCP port. An empty host means this machine.
    Tcp {
        /// Host.
        host: String,
        /// Port, 0 to 65535; connecting to 0 fails.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// The reason why a text or a URI's location is not a valid address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The port is not a number from 0 to 65535.
    #[error("invalid port in {text:?}")]
    Port {
        /// The whole address.
        text: String,
    },
    /// A URI's port is out of TCP's range. The text is Python's.
    #[error("connect(): port must be 0-65535.")]
    PortRange {
        /// The number.
        port: i64,
    },
    /// The path of the unix socket is missing.
    #[error("no path after \"./u:\"")]
    UnixPath,
    /// The brackets of an IPv6 address do not match.
    #[error("invalid ipv6 address in {text:?}")]
    Brackets {
        /// The whole address.
        text: String,
    },
}

impl Address {
    /// Creates an address from a host and a port.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp {
            host: host.into(),
            port,
        }
    }

    /// Creates an address from a host as `-n` and `NS_HOST` give it. The host may also be
    /// `./u:path`.
    ///
    /// # Errors
    /// [`AddressError::UnixPath`] for an empty path.
    pub fn from_host(host: &str, port: u16) -> Result<Self, AddressError> {
        match host.strip_prefix(UNIX_PREFIX) {
            Some("") => Err(AddressError::UnixPath),
            Some(path) => Ok(Self::Unix(path.into())),
            None => Ok(Self::tcp(host, port)),
        }
    }

    /// Creates an address from a URI's location.
    ///
    /// # Errors
    /// [`AddressError::PortRange`]: a URI may hold a port that is out of TCP's range.
    pub fn from_location(location: &Location) -> Result<Self, AddressError> {
        match location {
            Location::Unix(path) => Ok(Self::Unix(path.into())),
            Location::Tcp { host, port } => match u16::try_from(*port) {
                Ok(port) => Ok(Self::tcp(host.clone(), port)),
                Err(_) => Err(AddressError::PortRange { port: *port }),
            },
        }
    }

    /// Parses `host`, `host:port`, `[v6]`, `[v6]:port`, a bare IPv6 address or `./u:path`. A
    /// missing port becomes `default_port`.
    ///
    /// # Errors
    /// [`AddressError`] for any other text.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, AddressError> {
        if text.starts_with(UNIX_PREFIX) {
            return Self::from_host(text, default_port);
        }
        let port_of = |port: &str| {
            port.parse().map_err(|_| AddressError::Port {
                text: text.to_owned(),
            })
        };
        if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| AddressError::Brackets {
                text: text.to_owned(),
            })?;
            return match rest.strip_prefix(':') {
                Some(port) => Ok(Self::tcp(host, port_of(port)?)),
                None if rest.is_empty() => Ok(Self::tcp(host, default_port)),
                None => Err(AddressError::Brackets {
                    text: text.to_owned(),
                }),
            };
        }
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => Ok(Self::tcp(text, default_port)),
            Some((host, port)) => Ok(Self::tcp(host, port_of(port)?)),
            None => Ok(Self::tcp(text, default_port)),
        }
    }

    /// The location to write into a URI.
    pub fn to_location(&self) -> Location {
        match self {
            Self::Tcp { host, port } => Location::Tcp {
                host: host.clone(),
                port: i64::from(*port),
            },
            Self::Unix(path) => Location::Unix(path.to_string_lossy().into_owned()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Does the same as [`Address::parse`] with Pyro's default port 9090.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, crate::config::NS_PORT)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_written_form_is_read_and_printed() {
        for (text, printed) in [
            ("neptune", "neptune:9090"),
            ("neptune:1", "neptune:1"),
            ("::1", "[::1]:9090"),
            ("[::1]", "[::1]:9090"),
            ("[::1]:65535", "[::1]:65535"),
            ("./u:/run/ns.sock", "./u:/run/ns.sock"),
        ] {
            let address: Address = text.parse().expect("a valid address");
            assert_eq!(address.to_string(), printed);
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["h:x", "h:", "h:65536", "h:-1", "[::1", "[::1]x", "./u:"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_uri_may_hold_a_port_that_tcp_does_not_have() {
        let location = Location::Tcp {
            host: "h".into(),
            port: 99_999,
        };
        assert_eq!(
            Address::from_location(&location),
            Err(AddressError::PortRange { port: 99_999 })
        );
    }
}
