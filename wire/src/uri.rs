//! Pyro URIs: the exact grammar of both families, parsed and printed.
//!
//! Both families read URIs with one regular expression and one location parser (`Pyro4/core.py`,
//! `Pyro5/core.py`, class `URI`). This module follows them, oddities included: it accepts every text that one
//! of their servers accepts, and prints what they print. It does not resolve host names and opens no socket.

use std::collections::BTreeSet;
use std::fmt;

/// The object part of a URI.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// `PYRO:object@location`: an object in a daemon.
    Object(String),
    /// `PYRONAME:name[@location]`: a name for a name server to look up.
    Name(String),
    /// `PYROMETA:tag,tag[@location]`: any object that has all the tags.
    Meta(BTreeSet<String>),
}

/// The address at which a daemon or a name server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// TCP. IPv6 hosts have no brackets. The port may be out of range, because Pyro does not check it.
    Tcp {
        /// Host name or address; may be empty.
        host: String,
        /// Port as Python's `int()` reads it.
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
    /// The location. A parsed `PYRO:` always has one; a URI object that a peer sends may lack it.
    pub location: Option<Location>,
}

/// The object part of a [`UriState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UriObject<'a> {
    /// Object id or name.
    Text(&'a str),
    /// The tags of `PYROMETA:`, a set in Python.
    Tags(&'a BTreeSet<String>),
}

/// The five items of `URI.__getstate__`, in their order: the state of a URI object in a class dict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UriState<'a> {
    /// `PYRO`, `PYRONAME` or `PYROMETA`.
    pub protocol: &'a str,
    /// Object id, name or tags.
    pub object: UriObject<'a>,
    /// Path of a unix socket; `None` for TCP.
    pub sockname: Option<&'a str>,
    /// Host without brackets; `None` without a TCP location.
    pub host: Option<&'a str>,
    /// Port; `None` without a TCP location.
    pub port: Option<i64>,
}

/// The reason why a text is not a URI. The texts are those of Pyro's `PyroError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// The text does not have the shape of a URI.
    #[error("invalid uri")]
    Shape,
    /// The protocol is neither PYRO, PYRONAME nor PYROMETA.
    #[error("invalid uri (protocol)")]
    Protocol,
    /// A unix socket without a path, or with a colon in the path.
    #[error("invalid uri (location)")]
    Location,
    /// The port is missing, not a number, or does not fit 64 bits.
    #[error("invalid port in uri, port={0}")]
    Port(String),
    /// The part between brackets is not a numeric address.
    #[error("invalid ipv6 address: the part between brackets must be a numeric ipv6 address")]
    Ipv6,
    /// Two opening brackets.
    #[error("invalid ipv6 address: enclosed in too many brackets")]
    Brackets,
}

impl Uri {
    /// Creates `PYRO:id@location`.
    pub fn object(id: impl Into<String>, location: Location) -> Self {
        Self {
            target: Target::Object(id.into()),
            location: Some(location),
        }
    }

    /// Creates `PYRONAME:name[@location]`.
    pub fn name(name: impl Into<String>, location: Option<Location>) -> Self {
        Self {
            target: Target::Name(name.into()),
            location,
        }
    }

    /// Creates `PYROMETA:tag,tag[@location]`.
    pub fn meta(tags: BTreeSet<String>, location: Option<Location>) -> Self {
        Self {
            target: Target::Meta(tags),
            location,
        }
    }

    /// Parses `text`. `ns_port` is the port of a `PYRONAME:` or `PYROMETA:` location that has none (`NS_PORT`,
    /// 9090).
    ///
    /// # Errors
    /// [`UriError`], with the text of Pyro's own `PyroError`.
    pub fn parse(text: &str, ns_port: u16) -> Result<Self, UriError> {
        let (protocol, rest) = text.split_once(':').ok_or(UriError::Shape)?;
        let is_pyro = protocol
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case("pyro"));
        if !is_pyro || !protocol.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(UriError::Shape);
        }
        let (object, location) = split_object(rest).ok_or(UriError::Shape)?;
        let magic = |location: Option<&str>| {
            location
                .map(|text| Location::parse(text, Some(ns_port)))
                .transpose()
        };
        if protocol.len() == 4 {
            let location = Location::parse(location.ok_or(UriError::Shape)?, None)?;
            Ok(Self::object(object, location))
        } else if protocol.eq_ignore_ascii_case("pyroname") {
            Ok(Self::name(object, magic(location)?))
        } else if protocol.eq_ignore_ascii_case("pyrometa") {
            let tags = object.split(',').map(str::to_owned).collect();
            Ok(Self::meta(tags, magic(location)?))
        } else {
            Err(UriError::Protocol)
        }
    }

    /// `PYRO`, `PYRONAME` or `PYROMETA`.
    pub const fn protocol(&self) -> &'static str {
        match self.target {
            Target::Object(_) => "PYRO",
            Target::Name(_) => "PYRONAME",
            Target::Meta(_) => "PYROMETA",
        }
    }

    /// The location, if a client can connect to it: Pyro treats a location with an empty host as missing.
    pub fn location(&self) -> Option<&Location> {
        self.location.as_ref().filter(|location| match location {
            Location::Tcp { host, .. } => !host.is_empty(),
            Location::Unix(path) => !path.is_empty(),
        })
    }

    /// The items of `URI.__getstate__`.
    pub fn state(&self) -> UriState<'_> {
        let object = match &self.target {
            Target::Object(text) | Target::Name(text) => UriObject::Text(text),
            Target::Meta(tags) => UriObject::Tags(tags),
        };
        let (sockname, host, port) = match &self.location {
            None => (None, None, None),
            Some(Location::Unix(path)) => (Some(path.as_str()), None, None),
            Some(Location::Tcp { host, port }) => (None, Some(host.as_str()), Some(*port)),
        };
        UriState {
            protocol: self.protocol(),
            object,
            sockname,
            host,
            port,
        }
    }

    /// Creates a URI from the state that a peer sent. Pyro checks nothing here and fails later, when the object
    /// is printed; this function fails at once.
    ///
    /// # Errors
    /// [`UriError::Protocol`] for an unknown protocol, [`UriError::Shape`] if the object does not suit the
    /// protocol, [`UriError::Port`] for a host without a port.
    pub fn from_state(state: UriState<'_>) -> Result<Self, UriError> {
        let target = match (state.protocol, state.object) {
            ("PYRO", UriObject::Text(id)) => Target::Object(id.to_owned()),
            ("PYRONAME", UriObject::Text(name)) => Target::Name(name.to_owned()),
            ("PYROMETA", UriObject::Tags(tags)) => Target::Meta(tags.clone()),
            ("PYRO" | "PYRONAME" | "PYROMETA", _) => return Err(UriError::Shape),
            _ => return Err(UriError::Protocol),
        };
        // The host takes precedence over the socket name, and empty ones count as absent: Pyro's `location`
        // property checks them in this order.
        let location = match (state.host, state.sockname, state.port) {
            (Some(host), _, None) if !host.is_empty() => {
                return Err(UriError::Port("None".to_owned()));
            }
            (Some(host), _, Some(port)) if !host.is_empty() => Some(Location::tcp(host, port)),
            (_, Some(path), _) if !path.is_empty() => Some(Location::unix(path)),
            (Some(host), _, Some(port)) => Some(Location::tcp(host, port)),
            _ => None,
        };
        Ok(Self { target, location })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol())?;
        f.write_str(":")?;
        match &self.target {
            Target::Object(text) | Target::Name(text) => f.write_str(text)?,
            Target::Meta(tags) => {
                for (index, tag) in tags.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    f.write_str(tag)?;
                }
            }
        }
        match self.location() {
            Some(location) => write!(f, "@{location}"),
            None => Ok(()),
        }
    }
}

impl Location {
    /// Creates a TCP location; `host` has no brackets.
    pub fn tcp(host: impl Into<String>, port: impl Into<i64>) -> Self {
        Self::Tcp {
            host: host.into(),
            port: port.into(),
        }
    }

    /// Creates the location of a unix socket.
    pub fn unix(path: impl Into<String>) -> Self {
        Self::Unix(path.into())
    }

    /// Parses the part after the `@`: `host:port`, `[ipv6]:port` or `./u:path`. A missing port becomes
    /// `default_port`; if that is `None`, it is an error.
    ///
    /// # Errors
    /// [`UriError`], with the text of Pyro's own `PyroError`.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, UriError> {
        if let Some(path) = text.strip_prefix("./u:") {
            if path.is_empty() || path.contains(':') {
                return Err(UriError::Location);
            }
            return Ok(Self::unix(path));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => split_ipv6(rest)?,
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let port = match (port, default_port) {
            ("", None) => return Err(UriError::Port("None".to_owned())),
            ("", Some(port)) => port.into(),
            (port, _) => python_int(port).ok_or_else(|| UriError::Port(port.to_owned()))?,
        };
        Ok(Self::tcp(host, port))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "./u:{path}"),
        }
    }
}

/// Splits the part after the protocol's colon as Pyro's `(?P<object>\S+?)(@(?P<location>.+))?$` does. The
/// object ends at the first `@` after its first character, if text follows that `@`. One newline at the very
/// end is ignored.
fn split_object(rest: &str) -> Option<(&str, Option<&str>)> {
    let line = rest.strip_suffix('\n').unwrap_or(rest);
    if line.contains('\n') {
        return None;
    }
    let (second, _) = line.char_indices().nth(1).unwrap_or((line.len(), ' '));
    let at = line
        .get(second..)
        .and_then(|tail| tail.find('@'))
        .map(|offset| second + offset);
    let (object, location) = match at.and_then(|at| line.split_at_checked(at)) {
        Some((object, location)) if location.len() > 1 => (object, location.get(1..)),
        _ => (line, None),
    };
    (!object.is_empty() && !object.chars().any(is_python_space)).then_some((object, location))
}

/// Splits `[host]:port`, given without its opening bracket, into host and port text. Text after the port's
/// digits is ignored, as in Pyro's unanchored pattern.
fn split_ipv6(rest: &str) -> Result<(&str, &str), UriError> {
    if rest.starts_with('[') {
        return Err(UriError::Brackets);
    }
    let is_address = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b':' || *byte == b'%';
    let (host, rest) = rest.split_once(']').ok_or(UriError::Ipv6)?;
    if host.is_empty() || !host.as_bytes().iter().all(is_address) {
        return Err(UriError::Ipv6);
    }
    let Some(port) = rest.strip_prefix(':') else {
        return Ok((host, ""));
    };
    let end = port
        .find(|c: char| decimal_digit(c).is_none())
        .unwrap_or(port.len());
    Ok((host, port.get(..end).unwrap_or("")))
}

/// Returns true for the characters of `\s` and `str.isspace` in Python: Unicode white space and four ASCII
/// separators.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Maximum number of digits that Python's `int()` reads, leading zeros included.
const INT_DIGITS_MAX: usize = 4300;

/// Python's `int(text)`: surrounding white space, a sign, single underscores between digits, and the decimal
/// digits of every script. `None` if Python raises or the number does not fit 64 bits.
fn python_int(text: &str) -> Option<i64> {
    // Unlike `str.isspace`, `int()` does not count the separators U+001C to U+001F as white space.
    let trimmed = text.trim_matches(char::is_whitespace);
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let mut value = 0_i64;
    let mut count = 0;
    let mut after_digit = false;
    for c in digits.chars() {
        if c == '_' && after_digit {
            after_digit = false;
            continue;
        }
        let digit = i64::from(decimal_digit(c)?);
        // Accumulates a negative number, because the lowest i64 has no positive counterpart.
        value = value.checked_mul(10)?.checked_sub(digit)?;
        count += 1;
        after_digit = true;
    }
    if !after_digit || count > INT_DIGITS_MAX {
        return None;
    }
    if negative {
        Some(value)
    } else {
        value.checked_neg()
    }
}

/// The zeros of all scripts' decimal digits (Unicode 14, category Nd). Each begins a run of ten digits.
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66,
    0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90,
    0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650,
    0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50,
    0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// The value of a decimal digit of any script.
fn decimal_digit(c: char) -> Option<u32> {
    if c.is_ascii() {
        return c.to_digit(10);
    }
    let code = u32::from(c);
    let run = ZEROS.partition_point(|zero| *zero <= code).checked_sub(1)?;
    let digit = code - ZEROS.get(run)?;
    (digit < 10).then_some(digit)
}

#[cfg(test)]
mod tests;
