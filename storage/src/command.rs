//! Every change of the registry. Commands go through the log and are applied in its order.

use serde::{Deserialize, Serialize};

use crate::model::{Name, Tags};

/// What `register` does when the name stands for something already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IfTaken {
    /// Replace URI and tags.
    Replace,
    /// Refuse (`safe=True`).
    Refuse,
}

/// One change. Applying it depends on the registry and on the command alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Let `name` stand for `uri` with these tags.
    Register {
        /// The name.
        name: Name,
        /// URI text, already checked.
        uri: String,
        /// All its tags; those it had before go.
        tags: Tags,
        /// What to do when the name exists.
        if_taken: IfTaken,
    },
    /// Replace the tags of `name`.
    SetMetadata {
        /// The name.
        name: Name,
        /// All its tags from now on.
        tags: Tags,
    },
    /// Remove one name.
    Remove {
        /// The name.
        name: Name,
    },
    /// Remove `name` if it still stands for `uri` (autoclean has looked, and the world moves on).
    RemoveIf {
        /// The name.
        name: Name,
        /// The URI text that was checked.
        uri: String,
    },
    /// Remove every name that starts with one of these.
    RemovePrefix {
        /// Prefixes; an empty one matches every name.
        prefixes: Vec<String>,
    },
    /// Remove every name that the pattern matches at its start.
    RemoveRegex {
        /// A pattern in Python's syntax that [`crate::Pattern::parse`] accepts.
        pattern: String,
    },
}

impl Command {
    /// Whether it can only make the registry smaller.
    pub fn is_removal(&self) -> bool {
        match self {
            Self::Register { .. } | Self::SetMetadata { .. } => false,
            Self::Remove { .. }
            | Self::RemoveIf { .. }
            | Self::RemovePrefix { .. }
            | Self::RemoveRegex { .. } => true,
        }
    }
}

/// What a command did. A refusal is a reply, the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// Done; so many entries were removed.
    Removed(u64),
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// `register` with [`IfTaken::Refuse`] of a name that exists.
    NameTaken {
        /// URI text that it stands for.
        uri: String,
    },
    /// `set_metadata` of a name that does not exist.
    UnknownName,
    /// The pattern does not parse, or ran into its bound; the text for the client.
    Pattern(String),
}
