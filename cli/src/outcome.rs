//! The results of commands, independent of the output format.

use std::collections::BTreeSet;

use hearth_cli::{Listing, NameServer};
use hearth_wire::{Family, Serializer};
use serde_json::Value as Json;

/// Exit code for an entry or member that does not exist.
pub(crate) const EXIT_NOT_FOUND: u8 = 3;

/// The form of metadata tags in text output: as Python prints the value that a Python client would
/// get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagStyle {
    /// `['a', 'b']`
    List,
    /// `{'a', 'b'}`
    Set,
}

impl TagStyle {
    /// The form for this name server. Pyro4 sends lists; Pyro5 sends sets if the serializer has
    /// them.
    pub(crate) fn of(name_server: &NameServer) -> Self {
        let has_sets = |serializer| matches!(serializer, Serializer::Serpent | Serializer::Marshal);
        match (name_server.family(), name_server.serializer()) {
            (Some(Family::Pyro4), _) => Self::List,
            (_, serializer) if has_sets(serializer) => Self::Set,
            _ => Self::List,
        }
    }
}

/// The result of one command.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A sentence.
    Message {
        /// The sentence for operators; `None` prints nothing.
        text: Option<String>,
        /// The document for programs.
        json: Json,
        /// The exit code of `nsctl`.
        exit_code: u8,
    },
    /// Rows under a header, with sentences before and after.
    Table {
        /// A sentence for operators; the table format leaves it out.
        heading: Option<String>,
        /// The names of the columns.
        columns: Vec<&'static str>,
        /// The rows; each has as many cells as there are columns.
        rows: Vec<Vec<String>>,
        /// Sentences for operators; the table format leaves them out.
        notes: Vec<String>,
        /// The document for programs.
        json: Json,
    },
    /// One entry.
    Entry {
        /// The entry's name.
        name: String,
        /// The entry's URI.
        uri: String,
        /// The entry's tags.
        metadata: BTreeSet<String>,
        /// The form of the tags in text output.
        tag_style: TagStyle,
    },
    /// Several entries.
    Listing {
        /// The text that the original tools print beside START LIST and END LIST.
        title: String,
        /// The entries.
        listing: Listing,
        /// The form of the tags in text output.
        tag_style: TagStyle,
    },
}

impl Outcome {
    /// Creates the message of a command that succeeded.
    pub(crate) fn done(text: impl Into<String>, json: Json) -> Self {
        Self::Message {
            text: Some(text.into()),
            json,
            exit_code: 0,
        }
    }

    /// The exit code of `nsctl`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Message { exit_code, .. } => *exit_code,
            Self::Table { .. } | Self::Entry { .. } | Self::Listing { .. } => 0,
        }
    }
}
