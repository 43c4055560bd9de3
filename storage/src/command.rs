//! Commands: the changes of the registry. They go through the log and are applied in its order.

use serde::{Deserialize, Serialize};

use crate::model::{Name, Revision, Tags};

/// The effect of `register` on a name that is already registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IfTaken {
    /// Replaces the URI and the tags.
    Replace,
    /// Refuses the registration (`safe=True`).
    Refuse,
}

/// One change of the registry. Its effect depends only on the registry and on the command. Variants keep their
/// position: old logs identify them by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Registers `name` with `uri` and these tags.
    Register {
        /// The name.
        name: Name,
        /// URI text, already validated.
        uri: String,
        /// All its tags; earlier tags are removed.
        tags: Tags,
        /// The effect if the name exists.
        if_taken: IfTaken,
    },
    /// Replaces the tags of `name`.
    SetMetadata {
        /// The name.
        name: Name,
        /// All its tags from now on.
        tags: Tags,
    },
    /// Removes one name.
    Remove {
        /// The name.
        name: Name,
    },
    /// Removes `name` if its URI is still `uri`. For autoclean, whose check of the URI may be outdated by now.
    RemoveIf {
        /// The name.
        name: Name,
        /// The URI text that was checked.
        uri: String,
    },
    /// Removes every name that starts with one of these prefixes.
    RemovePrefix {
        /// Prefixes; an empty prefix matches every name.
        prefixes: Vec<String>,
    },
    /// Removes every name that the pattern matches at its start.
    RemoveRegex {
        /// A pattern in Python's syntax that [`crate::Pattern::parse`] accepts.
        pattern: String,
    },
    /// Applies all later commands by these [rules](crate::rules), if they are newer than those in force.
    /// Proposed once every member knows them. The commands below are proposed only after this one was applied.
    UseRules {
        /// Number of the rules.
        rules: u32,
    },
    /// Removes `name` if its entry has not changed since `revision`. For autoclean, whose check of the entry
    /// may be outdated by now.
    RemoveIfUnchanged {
        /// The name.
        name: Name,
        /// [`Entry::revision`](crate::Entry::revision) of the entry that was checked.
        revision: Revision,
    },
    /// Removes these names: all those that a client selected among the names with this prefix when the state
    /// was at `as_of`. Refused with [`Refusal::Changed`] if there may be more by now: a name with the prefix
    /// was created since, or too many names were created since to examine them.
    RemoveListed {
        /// The names; names that no longer exist are skipped.
        names: Vec<Name>,
        /// A prefix of all names that were examined.
        prefix: String,
        /// Revision of the state that was examined: [`Revision::end_of`] the log entry applied last.
        as_of: Revision,
    },
}

impl Command {
    /// Returns true if the command can only make the registry smaller.
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

/// The result of a command. A refusal is a reply, the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The command was carried out.
    Done,
    /// This many entries were removed.
    Removed(u64),
    /// Nothing was changed.
    Refused(Refusal),
}

/// Maximum number of bytes of a text in a [`Refusal`]. Replies are replicated and kept, so they stay small
/// whatever the command was.
pub const REFUSAL_TEXT_LEN_MAX: usize = 256;

/// The reason why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// `register` with [`IfTaken::Refuse`] of a name that exists.
    NameTaken {
        /// Always empty: a reply is kept and repeats no client data. Earlier builds put the URI of the existing
        /// entry here, and their replies can still be read.
        uri: String,
    },
    /// `set_metadata` of a name that does not exist.
    UnknownName,
    /// The pattern does not parse, or exceeded a bound. Holds the text for the client, at most
    /// [`REFUSAL_TEXT_LEN_MAX`] bytes.
    Pattern(String),
    /// Names were created since the names to remove were looked up. The lookup must be repeated.
    Changed,
}

impl Refusal {
    /// Returns [`Self::NameTaken`].
    pub fn name_taken() -> Self {
        Self::NameTaken { uri: String::new() }
    }

    /// Returns [`Self::Pattern`] with as much of `text` as a reply may hold.
    pub fn pattern(text: &str) -> Self {
        Self::Pattern(shortened(text).to_owned())
    }
}

impl Reply {
    /// Returns the reply without the client data that earlier builds repeated in it; `None` if there is nothing
    /// to take out.
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

/// Returns the beginning of `text` that fits into a reply.
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
