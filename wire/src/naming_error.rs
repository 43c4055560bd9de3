//! The kinds of `NamingError`, which the prefix of the text tells apart.
//!
//! Pyro has one class for every error of a name server, and a client of Pyro gets the class and the text only. So
//! the prefix is the contract between a server and the programs that act on its errors. This module is the only
//! place that writes and parses it. The first three prefixes are Pyro's own; the others are Hearth's.

use std::fmt::Display;

use crate::exception::{Exception, ExceptionClass, PyroClass};

/// The kind of a `NamingError`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NamingErrorKind {
    /// No entry has this name.
    UnknownName,
    /// The name is registered, and the call does not replace it.
    NameTaken,
    /// The regular expression does not compile, or costs too much.
    InvalidRegex,
    /// The cluster has no member with this id.
    UnknownMember,
    /// The caller has not proved that it may make this call.
    Denied,
    /// The call is valid, and its conditions are not met. Nothing was changed.
    Refused,
    /// No majority of the cluster could be reached. Nothing was changed.
    NoQuorum,
    /// The node cannot answer a read: it is stopping, or its storage failed.
    CannotAnswer,
    /// The change was not made and never will be. It may be repeated, also at another node.
    NothingChanged,
    /// The change may or may not have been made, or may still be made.
    OutcomeUnknown,
}

impl NamingErrorKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::UnknownName,
        Self::NameTaken,
        Self::InvalidRegex,
        Self::UnknownMember,
        Self::Denied,
        Self::Refused,
        Self::NoQuorum,
        Self::CannotAnswer,
        Self::NothingChanged,
        Self::OutcomeUnknown,
    ];

    /// Returns the prefix of the texts of this kind, with its separator.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::UnknownName => "unknown name: ",
            Self::NameTaken => "name already registered: ",
            Self::InvalidRegex => "invalid regex: ",
            Self::UnknownMember => "unknown member: ",
            Self::Denied => "denied: ",
            Self::Refused => "refused: ",
            Self::NoQuorum => "no quorum: ",
            Self::CannotAnswer => "cannot answer: ",
            Self::NothingChanged => "nothing was changed: ",
            Self::OutcomeUnknown => "outcome unknown: ",
        }
    }

    /// Returns the kind of a `NamingError` with this text; `None` if the text has no known prefix.
    pub fn of_text(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| text.starts_with(kind.prefix()))
    }

    /// Returns the kind of an exception; `None` for other classes and unknown texts.
    pub fn of(exception: &Exception) -> Option<Self> {
        match exception.class {
            ExceptionClass::Pyro(PyroClass::NamingError) => Self::of_text(&exception.text()),
            _ => None,
        }
    }

    /// Returns true if the server could not serve the call at this moment and changed nothing. The caller may
    /// repeat the call at another node.
    pub fn is_unserved(self) -> bool {
        matches!(
            self,
            Self::NoQuorum | Self::CannotAnswer | Self::NothingChanged
        )
    }
}

impl Exception {
    /// Creates a `NamingError` of a kind. `detail` follows the kind's prefix.
    pub fn naming_of(kind: NamingErrorKind, detail: impl Display) -> Self {
        Self::naming(format!("{}{detail}", kind.prefix()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_from_the_text_that_was_written_for_it() {
        for kind in NamingErrorKind::ALL {
            let exception = Exception::naming_of(kind, "x: y");
            assert_eq!(exception.text(), format!("{}x: y", kind.prefix()));
            assert_eq!(NamingErrorKind::of(&exception), Some(kind));
            let other = Exception::value_error(exception.text());
            assert_eq!(NamingErrorKind::of(&other), None);
        }
        assert_eq!(NamingErrorKind::of_text("list too long"), None);
        assert_eq!(NamingErrorKind::of_text("no quorum"), None);
    }

    #[test]
    fn no_prefix_begins_with_another() {
        for one in NamingErrorKind::ALL {
            for other in NamingErrorKind::ALL {
                let begins = one.prefix().starts_with(other.prefix());
                assert_eq!(begins, one == other, "{one:?} {other:?}");
            }
        }
    }
}
