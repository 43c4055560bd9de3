//! What clients asked and what they were told: the only thing that the checkers see.
//!
//! Times are nanoseconds of one monotonic clock, the recorder's. A call's time is taken before the
//! request is sent and its end after the reply was read, so the moment at which an operation took effect,
//! if it did, lies in between; for one with an unknown outcome it lies anywhere after the call.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Nanoseconds since the run began.
pub type Nanos = u64;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// The URI.
    pub uri: String,
    /// Its tags.
    pub tags: BTreeSet<String>,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// `register`.
    Register {
        /// The name.
        name: String,
        /// What it shall stand for.
        entry: Entry,
        /// Only if it stands for nothing.
        safe: bool,
    },
    /// `set_metadata`.
    SetMetadata {
        /// The name.
        name: String,
        /// Its tags from now on.
        tags: BTreeSet<String>,
    },
    /// `lookup`, with metadata.
    Lookup {
        /// The name.
        name: String,
    },
    /// `remove` of one name.
    Remove {
        /// The name.
        name: String,
    },
    /// `remove` of all names with a prefix, by prefix or by an equal regular expression.
    RemovePrefix {
        /// The prefix.
        prefix: String,
        /// Asked for as a regular expression.
        by_regex: bool,
    },
    /// `list` of all names with a prefix, with metadata.
    List {
        /// The prefix.
        prefix: String,
    },
    /// `yplookup` of all names that have a tag, with metadata.
    Tagged {
        /// The tag.
        tag: String,
    },
    /// Something else that changes no name, such as a broadcast: no checker of names looks at it.
    Other {
        /// A word for tables.
        kind: String,
        /// What exactly was asked.
        text: String,
    },
}

impl Action {
    /// Whether it may change something.
    pub fn is_write(&self) -> bool {
        !matches!(
            self,
            Self::Lookup { .. } | Self::List { .. } | Self::Tagged { .. } | Self::Other { .. }
        )
    }

    /// A word for tables.
    pub fn kind(&self) -> &str {
        match self {
            Self::Register { safe: false, .. } => "register",
            Self::Register { safe: true, .. } => "safe register",
            Self::SetMetadata { .. } => "set_metadata",
            Self::Lookup { .. } => "lookup",
            Self::Remove { .. } => "remove",
            Self::RemovePrefix {
                by_regex: false, ..
            } => "remove prefix",
            Self::RemovePrefix { by_regex: true, .. } => "remove regex",
            Self::List { .. } => "list",
            Self::Tagged { .. } => "yplookup",
            Self::Other { kind, .. } => kind,
        }
    }
}

/// What the name server said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// `name already registered`.
    Taken,
    /// `unknown name`, of a change.
    UnknownName,
    /// So many names were removed.
    Removed(u64),
    /// What the name stands for, if anything.
    Entry(Option<Entry>),
    /// The names that were asked for.
    Entries(BTreeMap<String, Entry>),
    /// What was found, in words; only of [`Action::Other`].
    Text(String),
}

/// What became of it, as far as the client can honestly say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It happened, and this was the answer.
    Ok(Answer),
    /// It certainly did not happen and will not.
    Failed(String),
    /// It may have happened, or may still.
    Unknown(String),
}

/// One operation of one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The client; it has one operation under way at a time.
    pub client: u32,
    /// The node that it talked to.
    pub node: u64,
    /// Before the request was sent.
    pub call: Nanos,
    /// After the answer, or after the client gave up.
    pub end: Nanos,
    /// What was asked.
    pub action: Action,
    /// What became of it.
    pub outcome: Outcome,
}

impl Operation {
    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Failed(_) | Outcome::Unknown(_) => None,
        }
    }

    /// When it had taken effect at the latest; `None` when that is open.
    pub fn end_of_effect(&self) -> Option<Nanos> {
        self.answer().map(|_| self.end)
    }

    /// Whether it certainly did nothing: it failed, or was a read that nobody answered.
    pub fn is_void(&self) -> bool {
        match self.outcome {
            Outcome::Ok(_) => false,
            Outcome::Failed(_) => true,
            Outcome::Unknown(_) => !self.action.is_write(),
        }
    }
}
