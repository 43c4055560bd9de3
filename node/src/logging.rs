//! The log of `hearthd`: lines on standard error or in a file, as text or as JSON.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::DEFAULTS;

/// What is logged, how and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives of `tracing_subscriber`'s `EnvFilter`, checked.
    pub filter: String,
    /// Text or JSON.
    pub format: LogFormat,
    /// Appended to; standard error where there is none.
    pub file: Option<PathBuf>,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            filter: DEFAULTS.log_filter.to_owned(),
            format: LogFormat::Text,
            file: None,
        }
    }
}

/// Accepts what `EnvFilter` accepts.
pub(crate) fn check_filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "'{text}': {error}; use error, warn, info, debug or trace"
        )),
    }
}

/// Makes this the process's log. To be called once, by a program and not by a library.
///
/// # Errors
/// When the file cannot be opened, or when the process has a log already.
pub fn start(config: &LogConfig) -> io::Result<()> {
    match &config.file {
        None => install(config, io::stderr, io::stderr().is_terminal()),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            install(config, Mutex::new(file), false)
        }
    }
}

fn install<W>(config: &LogConfig, writer: W, colours: bool) -> io::Result<()>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&config.filter).map_err(io::Error::other)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours);
    match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(io::Error::other)
}
