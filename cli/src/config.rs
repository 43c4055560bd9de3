//! How to find and call a name server: the client's part of Pyro's `PYRO_*` settings.
//!
//! Only what a client uses is read. Values that cannot be understood are all reported at once, each
//! with the text that Pyro has for it.

use std::time::Duration;

use hearth_wire::{Family, Limits, Serializer};

/// Pyro's default port of the name server.
pub const NS_PORT: u16 = 9090;

/// Pyro's default port of the broadcast responder.
pub const NS_BCPORT: u16 = 9091;

/// Largest message that a reply may be, in bytes: Pyro5's own default.
const MESSAGE_LEN_MAX: usize = 1 << 30;

/// Which wire protocol to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Pyro5, and Pyro4 where the server answers that it speaks only that. With an HMAC key Pyro4
    /// alone, since Pyro5 cannot sign and going on without the signature is not for us to decide.
    #[default]
    Auto,
    /// This family and no other.
    Only(Family),
}

/// Which addresses of a host name to try first (`PREFER_IP_VERSION`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpVersion {
    /// The order that the system gives.
    #[default]
    System,
    /// IPv4 first.
    V4,
    /// IPv6 first, and no broadcasting, which IPv6 does not have.
    V6,
}

/// How to talk to a server, once it is known where it is.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// The protocol family.
    pub protocol: Protocol,
    /// The format of calls and replies.
    pub serializer: Serializer,
    /// Secret that signs every message (Pyro4 only). Empty means none.
    pub hmac_key: Option<Box<[u8]>>,
    /// Longest time for connecting with its handshake, and for each call. `None` waits for ever.
    pub timeout: Option<Duration>,
    /// Whether to compress requests that gain by it.
    pub compress: bool,
    /// Bounds on what a server can make us hold.
    pub limits: Limits,
    /// Which addresses of a host name come first.
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

/// How to find a name server, and how to talk to it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to look before and after broadcasting (`NS_HOST`).
    pub ns_host: String,
    /// The name server's port where none is given (`NS_PORT`).
    pub ns_port: u16,
    /// The broadcast port where none is given (`NS_BCPORT`).
    pub ns_bcport: u16,
    /// Where to send broadcasts; `<broadcast>` is 255.255.255.255 (`BROADCAST_ADDRS`).
    pub broadcast_addrs: Vec<String>,
    /// Whether to broadcast at all.
    pub broadcast: bool,
    /// How long a `PYRONAME:` or `PYROMETA:` URI may be unknown before resolving it fails
    /// (`NS_LOOKUP_DELAY`).
    pub lookup_delay: Duration,
    /// How to talk to what was found.
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

/// A setting that cannot be understood. The text is Pyro5's, which names the variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid Pyro environment config value: {variable}={value}")]
pub struct ConfigError {
    /// The environment variable.
    pub variable: String,
    /// What it holds.
    pub value: String,
    /// What it may hold.
    pub expected: Expected,
}

/// The kinds of values that settings have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expected {
    /// Any text.
    Text,
    /// A whole number in the range that the setting has.
    Number,
    /// Seconds, 0 or more.
    Seconds,
    /// One of Pyro's words for yes and no.
    Boolean,
    /// A serializer's name.
    Serializer,
}

impl Config {
    /// The defaults, changed by the `PYRO_*` variables of this process.
    ///
    /// # Errors
    /// Every variable that cannot be understood.
    pub fn from_env() -> Result<Self, Vec<ConfigError>> {
        Self::from_variables(|name| {
            std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
        })
    }

    /// The defaults, changed by what `variable` returns for the names of `PYRO_*` variables.
    ///
    /// # Errors
    /// Every variable that cannot be understood.
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

/// The key that `text` stands for: its UTF-8 bytes, and none for an empty text.
pub fn hmac_key(text: &str) -> Option<Box<[u8]>> {
    Some(text)
        .filter(|text| !text.is_empty())
        .map(|text| text.as_bytes().into())
}

/// The serializer with this name in Pyro's settings. Pickle and its kin are not among them.
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

/// Whether this names a serializer of the pickle family. Programs that exchange pickles among themselves
/// set it for all of Pyro; what is said to a name server needs none, and stays in the default format.
pub fn is_pickle(name: &str) -> bool {
    ["pickle", "cloudpickle", "dill"].contains(&name)
}

/// Python's `int(text)`, for numbers that fit 64 bits: blanks around it, a sign, and single
/// underscores between digits are allowed.
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

/// Pyro4 writes an empty address as two quotes.
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
