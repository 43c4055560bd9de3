//! The log of `hearthd`: lines on standard error or in a file, as text or as JSON.
//!
//! Nothing that becomes of the log ends or delays the service: lines go through a `LineQueue`.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::config::DEFAULTS;
use crate::line_queue::LineQueue;

/// How long the end of the process waits for lines that are not written yet.
const LAST_LINES_TIMEOUT: Duration = Duration::from_millis(500);

/// Names and addresses of clients are nobody else's business.
const LOG_FILE_MODE: u32 = 0o600;

/// What is logged, how and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives of `tracing_subscriber`'s `EnvFilter`, checked.
    pub filter: String,
    /// Text or JSON.
    pub format: LogFormat,
    /// Appended to; standard error where there is none.
    pub file: Option<PathBuf>,
    /// Whether standard error takes the log where `file` cannot be opened, as with Pyro's own settings.
    pub may_fall_back: bool,
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
            may_fall_back: false,
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

/// Standard error of a program, and its log. Dropping it waits a moment for what is not written yet.
#[derive(Debug)]
pub struct Log {
    stderr: LineQueue,
    file: Option<LineQueue>,
}

impl Log {
    /// Takes over standard error. Nothing is logged before [`Self::start`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            stderr: LineQueue::start("hearth-stderr", io::stderr(), tell_dropped)?,
            file: None,
        })
    }

    /// One line for the person who started this, whatever the log is set to.
    pub fn say(&self, text: &str) {
        self.stderr.push(format!("hearthd: {text}\n").as_bytes());
    }

    /// Makes this the process's log. To be called once, by a program and not by a library.
    ///
    /// # Errors
    /// When the file cannot be opened, or when the process has a log already.
    pub fn start(&mut self, config: &LogConfig) -> io::Result<()> {
        if let Some(path) = &config.file {
            match append_to(path) {
                Ok(file) => {
                    self.file = Some(LineQueue::start("hearth-log", file, tell_dropped)?);
                }
                Err(error) if config.may_fall_back => self.say(&format!(
                    "cannot log to {}: {error}; logging to standard error",
                    path.display()
                )),
                Err(error) => return Err(error),
            }
        }
        let filter = EnvFilter::try_new(&config.filter).map_err(io::Error::other)?;
        let is_terminal = self.file.is_none() && io::stderr().is_terminal();
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(self.file.as_ref().unwrap_or(&self.stderr).clone())
            // It would say so on standard error, and panic if that is gone.
            .log_internal_errors(false)
            .with_ansi(is_terminal);
        match config.format {
            LogFormat::Text => builder.try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        }
        .map_err(io::Error::other)?;
        panic::set_hook(Box::new(log_panic));
        Ok(())
    }

    /// Whether the log goes elsewhere than to standard error.
    pub fn is_in_file(&self) -> bool {
        self.file.is_some()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        for queue in self.file.iter().chain([&self.stderr]) {
            queue.flush(LAST_LINES_TIMEOUT);
        }
    }
}

/// The longest that a log line repeats of what a client sent, in bytes.
const EXCERPT_LEN_MAX: usize = 256;

/// What a client sent, as far as a log line shows it. It belongs into a field of its own, as a text and not
/// by `%`: that is written with quotes and escapes, so that it can be taken for nothing else.
pub(crate) fn excerpt(text: &str) -> Cow<'_, str> {
    if text.len() <= EXCERPT_LEN_MAX {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(EXCERPT_LEN_MAX);
    Cow::Owned(format!("{}… ({} bytes)", &text[..end], text.len()))
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(LOG_FILE_MODE)
        .open(path)
}

fn tell_dropped(count: u64) {
    tracing::warn!(count, "lines could not be logged");
}

/// Takes the place of the default hook, which writes to standard error and waits for its reader.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        reason = &*excerpt(info.payload_as_str().unwrap_or("no text")),
        place = info.location().map(tracing::field::display),
        "panic"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_bounded_and_ends_between_characters() {
        assert_eq!(excerpt("short"), "short");
        let long = format!("x{}", "ü".repeat(1000));
        let cut = excerpt(&long);
        assert!(cut.ends_with("ü… (2001 bytes)"), "{cut}");
        assert!(cut.len() < EXCERPT_LEN_MAX + 20, "{cut}");
    }
}
