//! The environment of the original tools, and their error texts for invalid variables.

use std::env;

use hearth_cli::{Config, ConfigError, Expected, is_pickle, serializer};
use hearth_wire::repr::str_repr;

use super::{Stop, Tool};

/// The settings of Pyro5, which refuses to start if there is any other `PYRO_` variable.
const PYRO5_ITEMS: &[&str] = &[
    "HOST",
    "NS_HOST",
    "NS_PORT",
    "NS_BCPORT",
    "NS_BCHOST",
    "NS_AUTOCLEAN",
    "NS_LOOKUP_DELAY",
    "NATHOST",
    "NATPORT",
    "COMPRESSION",
    "SERVERTYPE",
    "COMMTIMEOUT",
    "POLLTIMEOUT",
    "MAX_RETRIES",
    "SOCK_REUSE",
    "SOCK_NODELAY",
    "DETAILED_TRACEBACK",
    "THREADPOOL_SIZE",
    "THREADPOOL_SIZE_MIN",
    "MAX_MESSAGE_SIZE",
    "BROADCAST_ADDRS",
    "PREFER_IP_VERSION",
    "SERIALIZER",
    "SERPENT_BYTES_REPR",
    "ITER_STREAMING",
    "ITER_STREAM_LIFETIME",
    "ITER_STREAM_LINGER",
    "LOGFILE",
    "LOGLEVEL",
    "LOGWIRE",
    "SSL",
    "SSL_SERVERCERT",
    "SSL_SERVERKEY",
    "SSL_SERVERKEYPASSWD",
    "SSL_REQUIRECLIENTCERT",
    "SSL_CLIENTCERT",
    "SSL_CLIENTKEY",
    "SSL_CLIENTKEYPASSWD",
    "SSL_CACERTS",
];

/// Returns the settings of `tool`, and an error that it reports only when it looks for the name
/// server.
pub(super) fn configure(tool: Tool) -> Result<(Config, Option<String>), Stop> {
    if tool == Tool::Pyro5
        && let Some(variable) = unknown_variable()
    {
        return Err(Stop::Traceback(format!(
            "ValueError: invalid Pyro environment config variable: {variable}"
        )));
    }
    let variable = |name: &str| Some(env::var_os(name)?.to_string_lossy().into_owned());
    let unknown_serializer =
        variable("PYRO_SERIALIZER").filter(|name| serializer(name).is_none() && !is_pickle(name));
    let config = Config::from_variables(|name| match name {
        "PYRO_SERIALIZER" if unknown_serializer.is_some() => None,
        _ => variable(name),
    });
    let config = config.map_err(|errors| {
        let mistakes = errors.iter().map(|error| complaint(tool, error));
        Stop::Traceback(mistakes.collect::<Vec<_>>().join("\n"))
    })?;
    match (unknown_serializer, tool) {
        (None, _) => Ok((config, None)),
        (Some(_), Tool::Pyro5) => Err(Stop::Traceback(
            "ValueError: unknown serializer configured".into(),
        )),
        (Some(name), Tool::Pyro4) => {
            let name = str_repr(&name);
            let complaint = format!("Error: serializer {name} is unknown or not available");
            Ok((config, Some(complaint)))
        }
    }
}

fn unknown_variable() -> Option<String> {
    env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .find(|name| {
            name.strip_prefix("PYRO_")
                .is_some_and(|item| !PYRO5_ITEMS.contains(&item))
        })
}

fn complaint(tool: Tool, error: &ConfigError) -> String {
    let value = &error.value;
    match (error.expected, tool) {
        (Expected::Boolean, _) => format!(
            "ValueError: invalid boolean value: {}={}",
            error.variable,
            value.to_lowercase()
        ),
        (Expected::Number, Tool::Pyro4) => format!(
            "ValueError: invalid literal for int() with base 10: {}",
            str_repr(value)
        ),
        (Expected::Seconds, Tool::Pyro4) => format!(
            "ValueError: could not convert string to float: {}",
            str_repr(value)
        ),
        _ => format!("ValueError: {error}"),
    }
}
