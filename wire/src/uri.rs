//! Pyro URIs: the exact grammar of both families, parsed and printed.

use std::collections::BTreeSet;
use std::fmt;

/// What a URI's object part means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// `PYRO:object@location`: an object in a daemon.
    Object(String),
    /// `PYRONAME:name[@location]`: a name to be looked up.
    Name(String),
    /// `PYROMETA:tag,tag[@location]`: any object that has all the tags.
    Meta(BTreeSet<String>),
}

/// Where a daemon or a name server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// TCP. IPv6 hosts stand without brackets. Pyro checks no range of the port.
    Tcp {
        /// Host name or address, may be empty.
        host: String,
        /// Port as Python's `int()` read it.
        port: i64,
    },
    /// The path of a unix socket (`./u:path`).
    Unix(String),
}

/// A parsed URI.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Uri {
    /// Protocol and object.
    pub target: Target,
    /// Always there for `PYRO:`.
    pub location: Option<Location>,
}

/// Why a text is no URI; the text of Pyro's `PyroError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// The text does not have the shape of a URI.
    #[error("invalid uri")]
    Shape,
    /// Neither PYRO, PYRONAME nor PYROMETA.
    #[error("invalid uri (protocol)")]
    Protocol,
    /// A unix socket without a path, or with a colon in it.
    #[error("invalid uri (location)")]
    Location,
    /// The port is no number.
    #[error("invalid port in uri, port={0}")]
    Port(String),
    /// The part between brackets is no numeric address.
    #[error("invalid ipv6 address: the part between brackets must be a numeric ipv6 address")]
    Ipv6,
    /// Two opening brackets.
    #[error("invalid ipv6 address: enclosed in too many brackets")]
    Brackets,
}

impl Uri {
    /// Parses `text`. `ns_port` is the port of a `PYRONAME:` or `PYROMETA:` location without one
    /// (`NS_PORT`, 9090).
    ///
    /// # Errors
    /// [`UriError`], with the text of Pyro's own `PyroError`.
    pub fn parse(text: &str, ns_port: u16) -> Result<Self, UriError> {
        let _ = (text, ns_port);
        unimplemented!()
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}
