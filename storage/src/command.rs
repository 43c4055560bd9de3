//! Every change of the registry. Commands go through the log and are applied in its order.

use serde::{Deserialize, Serialize};

use crate::model::{Name, Revision, Tags};

/// What `register` does when the name stands for something already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IfTaken {
    /// Replace URI and tags.
    Replace,
    /// Refuse (`safe=True`).
    Refuse,
}

/// One change. Applying it depends on the registry and on the command alone. Variants keep their place:
/// old logs hold them by number.
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
    /// Apply everything behind this by these [rules](crate::rules), if they are later than those in
    /// force. Proposed when every member knows them; the commands below, only when it was applied.
    UseRules {
        /// Their number.
        rules: u32,
    },
    /// Remove `name` if it has not changed since (autoclean has looked, and the world moves on).
    RemoveIfUnchanged {
        /// The name.
        name: Name,
        /// [`Entry::revision`](crate::Entry::revision) of what was looked at.
        revision: Revision,
    },
    /// Remove these names, which are all that somebody was looking for among those with this prefix when
    /// the state was at `as_of`. Refused with [`Refusal::Changed`] when there may be more by now: a name
    /// with that prefix was created since, or so many were that nobody looks through them.
    RemoveListed {
        /// The names; those that are gone are passed over.
        names: Vec<Name>,
        /// All names that were looked at start with it.
        prefix: String,
        /// Where the state was; [`Revision::end_of`] the log entry that was applied last.
        as_of: Revision,
    },
}

impl Command {
    /// Whether it can only make the registry smaller.
    pub fn is_removal(&self) -> bool {
        match self {
            Self::Register { .. } | Self::SetMetadata { .. } | Self::UseRules { .. } => false,
            Self::Remove { .. }
            | Self::RemoveIf { .. }
            | Self::RemovePrefix { .. }
            | Self::RemoveRegex { .. }
            | Self::RemoveIfUnchanged { .. }
            | Self::RemoveListed { .. } => true,
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

/// Bytes of a text in a [`Refusal`]: replies are replicated and kept, so they are small whatever the command
/// was.
pub const REFUSAL_TEXT_LEN_MAX: usize = 256;

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// `register` with [`IfTaken::Refuse`] of a name that exists.
    NameTaken {
        /// Always empty: a reply is kept, and repeats nothing that a client chose. Earlier builds put the URI
        /// here that the name stands for, and their replies are still read.
        uri: String,
    },
    /// `set_metadata` of a name that does not exist.
    UnknownName,
    /// The pattern does not parse, or ran into its bound; the text for the client, at most
    /// [`REFUSAL_TEXT_LEN_MAX`] bytes.
    Pattern(String),
    /// Names came since the ones to be removed were looked up: look again.
    Changed,
}

impl Refusal {
    /// [`Self::NameTaken`].
    pub fn name_taken() -> Self {
        Self::NameTaken { uri: String::new() }
    }

    /// [`Self::Pattern`] with as much of `text` as a reply may hold.
    pub fn pattern(text: &str) -> Self {
        Self::Pattern(shortened(text).to_owned())
    }
}

impl Reply {
    /// The same reply without what earlier builds repeated of a client's data; `None` when there is
    /// nothing to take out.
    pub fn bounded(&self) -> Option<Self> {
        match self {
            Self::Refused(Refusal::NameTaken { uri }) if !uri.is_empty() => {
                Some(Self::Refused(Refusal::name_taken()))
            }
            Self::Refused(Refusal::Pattern(text)) if text.len() > REFUSAL_TEXT_LEN_MAX => {
                Some(Self::Refused(Refusal::pattern(text)))
            }
            _ => None,
        }
    }
}

/// The beginning of `text` that fits into a reply.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(REFUSAL_TEXT_LEN_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_holds_nothing_that_grows_with_a_clients_data() {
        let uri = "PYRO:o@h:1".to_owned();
        let taken = Reply::Refused(Refusal::NameTaken { uri });
        let bare = Reply::Refused(Refusal::name_taken());
        assert_eq!(taken.bounded(), Some(bare.clone()));
        assert_eq!(bare.bounded(), None);
        let text = "\u{20ac}".repeat(REFUSAL_TEXT_LEN_MAX);
        let Refusal::Pattern(kept) = Refusal::pattern(&text) else {
            panic!("a pattern's refusal");
        };
        assert_eq!(
            kept.len(),
            REFUSAL_TEXT_LEN_MAX / 3 * 3,
            "cut between characters"
        );
        let long = Reply::Refused(Refusal::Pattern(text));
        assert_eq!(long.bounded(), Some(Reply::Refused(Refusal::Pattern(kept))));
        assert_eq!(Reply::Removed(3).bounded(), None);
    }
}
