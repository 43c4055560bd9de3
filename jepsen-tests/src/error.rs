//! What can go wrong with the rig itself. None of it says anything about Hearth: a run that ends with
//! one of these has no verdict.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why the rig could not do what a test asked of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RigError {
    /// The system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried, with its object.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program that the rig uses said no.
    #[error("{command}: {status}: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// A program ended although it was expected to run.
    #[error("{name} ended ({status}); its log is {log:?} and ends with:\n{tail}")]
    Ended {
        /// The process.
        name: String,
        /// How it ended.
        status: String,
        /// Where its log is.
        log: PathBuf,
        /// Last lines of the log.
        tail: String,
    },
    /// A condition did not come true in time.
    #[error("{what}: not within {waited:?}; at last: {seen}")]
    NotInTime {
        /// The condition.
        what: String,
        /// How long was waited.
        waited: Duration,
        /// What was there instead.
        seen: String,
    },
    /// A node that was asked about itself said no, or nothing.
    #[error("{what}: {source}")]
    Node {
        /// What was asked.
        what: String,
        /// What went wrong.
        source: Box<hearth_cli::ClientError>,
    },
    /// What was asked for cannot be had.
    #[error("{what}: {reason}")]
    Refused {
        /// What was asked for, with its value.
        what: String,
        /// Why not, and the way out.
        reason: String,
    },
    /// A part of the rig itself panicked.
    #[error("{what} panicked: {reason}")]
    Panicked {
        /// The part.
        what: String,
        /// What is known of it.
        reason: String,
    },
    /// A program printed what it should not.
    #[error("cannot read what {command} printed: {reason}: {text}")]
    Unreadable {
        /// The command line.
        command: String,
        /// Why.
        reason: String,
        /// What it printed.
        text: String,
    },
}

impl RigError {
    /// Adds to an error of the system what was tried.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::System { what, source }
    }
}

/// What the rig's functions return.
pub type Result<T> = std::result::Result<T, RigError>;
