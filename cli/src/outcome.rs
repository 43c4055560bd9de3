//! What a command achieved, before anyone has decided how to print it.

use std::collections::BTreeSet;

use hearth_cli::{Listing, NameServer};
use hearth_wire::{Family, Serializer};
use serde_json::Value as Json;

/// Something was not there to be found or removed.
pub(crate) const EXIT_NOT_FOUND: u8 = 3;

/// How text shows metadata tags: as Python prints the value that a Python client would have got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagStyle {
    /// `['a', 'b']`
    List,
    /// `{'a', 'b'}`
    Set,
}

impl TagStyle {
    /// Pyro4 sends lists, Pyro5 sends sets where the serializer has such a thing.
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
        /// For people; `None` says nothing at all.
        text: Option<String>,
        /// For programs.
        json: Json,
        /// The exit code of `nsctl`.
        exit_code: u8,
    },
    /// Rows under a head, with sentences before and after.
    Table {
        /// For people; the table format leaves it out.
        heading: Option<String>,
        /// The columns' names.
        columns: Vec<&'static str>,
        /// As many cells each as there are columns.
        rows: Vec<Vec<String>>,
        /// For people; the table format leaves them out.
        notes: Vec<String>,
        /// For programs.
        json: Json,
    },
    /// One entry.
    Entry {
        /// Its name.
        name: String,
        /// Its URI.
        uri: String,
        /// Its tags.
        metadata: BTreeSet<String>,
        /// How text shows the tags.
        tag_style: TagStyle,
    },
    /// Some entries.
    Listing {
        /// What the original tools print beside START LIST and END LIST.
        title: String,
        /// The entries.
        listing: Listing,
        /// How text shows their tags.
        tag_style: TagStyle,
    },
}

impl Outcome {
    /// A command that did what it was asked.
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
