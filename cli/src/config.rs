//! The settings for finding and calling a name server: the client's part of Pyro's `PYRO_*` variables.
//!
//! Variables that a client does not use are ignored. All invalid values are reported at once, each with Pyro's
//! own text.

use std::time::Duration;

use hearth_wire::{Family, Limits, Serializer};

/// Pyro's default port of the name server.
pub const NS_PORT: u16 = 9090;

/// Pyro's default port of the broadcast responder.
pub const NS_BCPORT: u16 = 9091;

/// Maximum length of a message in bytes, Pyro5's own default.
const MESSAGE_LEN_MAX: usize = 1 << 30;

/// The wire protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Pyro5, or Pyro4 if the server answers that it supports only that. With an HMAC key it is Pyro4 only:
    /// Pyro5 cannot sign, and the client must not drop the signature on its own.
    #[default]
    Auto,
    /// This family and no other.
    Only(Family),
}

/// The order in which the addresses of a host name are tried (`PREFER_IP_VERSION`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpVersion {
    /// The order that the system gives.
    #[default]
    System,
    /// IPv4 first.
    V4,
    /// IPv6 first, and no broadcast, which IPv6 does not have.
    V6,
}

/// Options of a connection to a known server.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// The protocol family.
    pub protocol: Protocol,
    /// The serializer of calls and replies.
    pub serializer: Serializer,
    /// Key that signs every message (Pyro4 only). An empty key means none.
    pub hmac_key: Option<Box<[u8]>>,
    /// Longest time for connecting with its handshake, and for each call. `None` waits without a limit.
    pub timeout: Option<Duration>,
    /// True to compress requests that become smaller by it.
    pub compress: bool,
    /// Limits on the memory that a server can make the client allocate.
    pub limits: Limits,
    /// The order in which the addresses of a host name are tried.
    pub ip_version: IpVersion,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            protocol: Protocol::Auto,
            serializer: Serializer::Serpent,
            hmac_key: None,
            timeout: None,
            compress: false,
            limits: Limits {
                message_len_max: MESSAGE_LEN_MAX,
                inflated_len_max: MESSAGE_LEN_MAX,
                value_count_max: 64_000_000,
                ..Limits::default()
            },
            ip_version: IpVersion::System,
        }
    }
}

/// Settings for finding a name server and calling it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Host that is tried before and after the broadcast (`NS_HOST`).
    pub ns_host: String,
    /// Default port of the name server (`NS_PORT`).
    pub ns_port: u16,
    /// Default port of the broadcast (`NS_BCPORT`).
    pub ns_bcport: u16,
    /// Addresses to which broadcasts are sent; `<broadcast>` means 255.255.255.255 (`BROADCAST_ADDRS`).
    pub broadcast_addrs: Vec<String>,
    /// True to send broadcasts.
    pub broadcast: bool,
    /// Longest time that resolving waits for the unknown name or tags of a `PYRONAME:` or `PYROMETA:` URI
    /// (`NS_LOOKUP_DELAY`).
    pub lookup_delay: Duration,
    /// Options of connections to servers.
    pub connect: ConnectOptions,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ns_host: "localhost".into(),
            ns_port: NS_PORT,
            ns_bcport: NS_BCPORT,
            broadcast_addrs: vec!["<broadcast>".into(), "0.0.0.0".into()],
            broadcast: true,
            lookup_delay: Duration::ZERO,
            connect: ConnectOptions::default(),
        }
    }
}

/// A setting with an invalid value. The text is Pyro5's, which names the variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid Pyro environment config value: {variable}={value}")]
pub struct ConfigError {
    /// The environment variable.
    pub variable: String,
    /// Its value.
    pub value: String,
    /// The kind of value that it may have.
    pub expected: Expected,
}

/// The kinds of values of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expected {
    /// Any text.
    Text,
    /// A whole number in the range of the setting.
    Number,
    /// A number of seconds, 0 or more.
    Seconds,
    /// One of Pyro's words for yes or no.
    Boolean,
    /// A serializer's name.
    Serializer,
}

impl Config {
    /// Returns the defaults, changed by the `PYRO_*` variables of this process.
    ///
    /// # Errors
    /// One [`ConfigError`] for each variable with an invalid value.
    pub fn from_env() -> Result<Self, Vec<ConfigError>> {
        Self::from_variables(|name| {
            std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
        })
    }

    /// Returns the defaults, changed by the values that `variable` returns for the names of `PYRO_*` variables.
    ///
    /// # Errors
    /// One [`ConfigError`] for each variable with an invalid value.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut config = Self::default();
        let mut errors = Vec::new();
        let mut read = |name: &str, expected, apply: &mut dyn FnMut(&str) -> Option<()>| {
            if let Some(value) = variable(name)
                && apply(&value).is_none()
            {
                errors.push(ConfigError {
                    variable: name.to_owned(),
                    value,
                    expected,
                });
            }
        };
        read("PYRO_NS_HOST", Expected::Text, &mut |value| {
            config.ns_host = value.to_owned();
            Some(())
        });
        read("PYRO_NS_PORT", Expected::Number, &mut |value| {
            config.ns_port = port(value)?;
            Some(())
        });
        read("PYRO_NS_BCPORT", Expected::Number, &mut |value| {
            config.ns_bcport = port(value)?;
            Some(())
        });
        read("PYRO_BROADCAST_ADDRS", Expected::Text, &mut |value| {
            config.broadcast_addrs = value
                .split(',')
                .map(|a| broadcast_address(a.trim()))
                .collect();
            Some(())
        });
        read("PYRO_NS_LOOKUP_DELAY", Expected::Seconds, &mut |value| {
            config.lookup_delay = seconds(value)?;
            Some(())
        });
        read("PYRO_COMMTIMEOUT", Expected::Seconds, &mut |value| {
            config.connect.timeout = Some(seconds(value)?).filter(|time| !time.is_zero());
            Some(())
        });
        read("PYRO_SERIALIZER", Expected::Serializer, &mut |value| {
            if !is_pickle(value) {
                config.connect.serializer = serializer(value)?;
            }
            Some(())
        });
        read("PYRO_COMPRESSION", Expected::Boolean, &mut |value| {
            config.connect.compress = boolean(value)?;
            Some(())
        });
        read("PYRO_MAX_MESSAGE_SIZE", Expected::Number, &mut |value| {
            let len: usize = python_int(value)?.try_into().ok()?;
            if len > 0 {
                config.connect.limits.message_len_max = len;
            }
            Some(())
        });
        read("PYRO_PREFER_IP_VERSION", Expected::Number, &mut |value| {
            config.connect.ip_version = match python_int(value)? {
                0 => IpVersion::System,
                4 => IpVersion::V4,
                6 => IpVersion::V6,
                _ => return None,
            };
            Some(())
        });
        read("PYRO_HMAC_KEY", Expected::Text, &mut |value| {
            config.connect.hmac_key = hmac_key(value);
            Some(())
        });
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(errors)
        }
    }
}

/// Returns the HMAC key for a text: its UTF-8 bytes, or `None` for an empty text.
pub fn hmac_key(text: &str) -> Option<Box<[u8]>> {
    Some(text)
        .filter(|text| !text.is_empty())
        .map(|text| text.as_bytes().into())
}

/// Returns the serializer with this name in Pyro's settings. The pickle family is not supported.
pub fn serializer(name: &str) -> Option<Serializer> {
    [
        Serializer::Serpent,
        Serializer::Json,
        Serializer::Marshal,
        Serializer::Msgpack,
    ]
    .into_iter()
    .find(|serializer| serializer.name() == name)
}

/// Returns true if `name` is a serializer of the pickle family. Programs that exchange pickles among themselves
/// set it for all of Pyro. Calls of a name server do not need pickle and use the default serializer.
pub fn is_pickle(name: &str) -> bool {
    ["pickle", "cloudpickle", "dill"].contains(&name)
}

/// Python's `int(text)` for numbers that fit 64 bits: surrounding white space, a sign, and single underscores
/// between digits are allowed.
pub fn python_int(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let groups_are_digits = digits
        .split('_')
        .all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    if !groups_are_digits {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn port(text: &str) -> Option<u16> {
    u16::try_from(python_int(text)?).ok()
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.trim().parse().ok()?).ok()
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "0" | "off" | "no" | "false" => Some(false),
        "1" | "yes" | "on" | "true" => Some(true),
        _ => None,
    }
}

/// Converts an address of `BROADCAST_ADDRS`. Pyro4 writes an empty address as two quotes.
fn broadcast_address(text: &str) -> String {
    if text == "''" { "" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Config, Vec<ConfigError>> {
        Config::from_variables(|name| {
            variables
                .iter()
                .find(|(variable, _)| *variable == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn pyros_variables_change_the_defaults() {
        let config = with(&[
            ("PYRO_NS_HOST", "neptune"),
            ("PYRO_NS_PORT", " 1_0 "),
            ("PYRO_BROADCAST_ADDRS", "10.0.0.255, '' ,<broadcast>"),
            ("PYRO_COMMTIMEOUT", "1.5"),
            ("PYRO_SERIALIZER", "json"),
            ("PYRO_HMAC_KEY", ""),
            ("PYRO_COMPRESSION", "Yes"),
            ("PYRO_PREFER_IP_VERSION", "6"),
        ])
        .expect("a valid configuration");
        assert_eq!((config.ns_host.as_str(), config.ns_port), ("neptune", 10));
        assert_eq!(config.broadcast_addrs, ["10.0.0.255", "", "<broadcast>"]);
        assert_eq!(config.connect.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(config.connect.serializer, Serializer::Json);
        assert_eq!(config.connect.hmac_key, None);
        assert_eq!(config.connect.ip_version, IpVersion::V6);
        assert!(config.connect.compress);
    }

    #[test]
    fn pickles_are_for_others() {
        for name in ["pickle", "cloudpickle", "dill"] {
            let config = with(&[("PYRO_SERIALIZER", name)]).expect("a valid configuration");
            assert_eq!(config.connect.serializer, Serializer::Serpent, "{name}");
        }
    }

    #[test]
    fn a_timeout_of_zero_waits_for_ever() {
        let config = with(&[("PYRO_COMMTIMEOUT", "0.0")]).expect("a valid configuration");
        assert_eq!(config.connect.timeout, None);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let errors = with(&[
            ("PYRO_NS_PORT", "abc"),
            ("PYRO_COMMTIMEOUT", "-1"),
            ("PYRO_SERIALIZER", "yaml"),
            ("PYRO_COMPRESSION", "maybe"),
            ("PYRO_NS_HOST", "fine"),
        ])
        .expect_err("four mistakes");
        assert_eq!(errors.len(), 4);
        assert_eq!(
            errors[0].to_string(),
            "invalid Pyro environment config value: PYRO_NS_PORT=abc"
        );
    }

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        for (text, number) in [("+5", 5), (" -1\n", -1), ("007", 7), ("1_000", 1000)] {
            assert_eq!(python_int(text), Some(number), "{text:?}");
        }
        for text in ["", "_1", "1_", "1__0", "0x1", "1.0", "+-1", "+ 1"] {
            assert_eq!(python_int(text), None, "{text:?}");
        }
    }
}
