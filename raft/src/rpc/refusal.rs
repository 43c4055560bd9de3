//! Refusals: the reason why one node refuses another, as a code for programs and a text for
//! operators.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Limit on the length in bytes of a peer's text in one line of the log.
const SAID_LEN_MAX: usize = 64;

/// Limit on the length in bytes of a refusal's text.
const TEXT_LEN_MAX: usize = 1024;

/// A refusal. It counts only if it arrived in a signed frame, after both proofs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// The reason, for programs.
    pub(crate) code: RefusalCode,
    /// The reason, for operators.
    pub(crate) text: String,
}

impl Refusal {
    /// Creates a refusal with this text, cut to [`TEXT_LEN_MAX`] bytes.
    pub(crate) fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.truncate(text.floor_char_boundary(TEXT_LEN_MAX));
        Self { code, text }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The reason of a refusal. It is a number on the wire; a number that this program does not know
/// becomes [`Self::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u16", into = "u16")]
pub(crate) enum RefusalCode {
    /// Any other reason.
    Other,
    /// The nodes belong to different clusters.
    OtherCluster,
    /// A node has connected to itself.
    Itself,
    /// The node at the address is not the wanted one.
    OtherNode,
    /// The node was removed from the cluster.
    Removed,
    /// The node's id belongs to another data directory.
    Replaced,
    /// The cluster key that the node proved is no longer accepted.
    KeyDropped,
}

impl RefusalCode {
    const ALL: [Self; 7] = [
        Self::Other,
        Self::OtherCluster,
        Self::Itself,
        Self::OtherNode,
        Self::Removed,
        Self::Replaced,
        Self::KeyDropped,
    ];

    /// Returns the text of the code in logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Other => "it was refused",
            Self::OtherCluster => "it belongs to another cluster",
            Self::Itself => "this node called itself",
            Self::OtherNode => "it wanted another node",
            Self::Removed => "its node was removed from the cluster",
            Self::Replaced => "its node had another data folder",
            Self::KeyDropped => "its cluster key is not accepted any more",
        }
    }

    /// Returns true if a node that a majority refuses for this reason can never take part again.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Removed | Self::Replaced)
    }
}

impl From<RefusalCode> for u16 {
    fn from(code: RefusalCode) -> Self {
        code as Self
    }
}

impl From<u16> for RefusalCode {
    fn from(number: u16) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|&code| u16::from(code) == number)
            .unwrap_or(Self::Other)
    }
}

/// Returns the beginning of a peer's text, on one line and without control characters.
pub(crate) fn escaped(said: &str) -> String {
    let start = &said[..said.floor_char_boundary(SAID_LEN_MAX)];
    let more = if start.len() < said.len() { "…" } else { "" };
    format!("{}{more}", start.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn a_code_is_a_number_and_an_unknown_one_is_no_end() {
        for (number, code) in (0..).zip(RefusalCode::ALL) {
            assert_eq!(RefusalCode::from(number), code);
            let mut bytes = Vec::new();
            codec::encode_message(&Refusal::new(code, "why"), &mut bytes);
            assert_eq!(bytes, [&[number as u8, 3], &b"why"[..]].concat());
        }
        let later: Refusal = codec::decode_message("a refusal", &[99, 1, b'x']).unwrap();
        assert_eq!(later.code, RefusalCode::Other);
        assert!(!later.code.is_final());
    }

    #[test]
    fn what_others_say_is_one_short_line() {
        assert_eq!(escaped("plain"), "plain");
        assert_eq!(escaped("a\nb\x1b[31m\u{202e}"), "a\\nb\\u{1b}[31m\\u{202e}");
        let long = escaped(&"ä".repeat(5000));
        assert!(long.len() < 2 * SAID_LEN_MAX, "{}", long.len());
        let text = Refusal::new(RefusalCode::Other, "ä".repeat(5000)).text;
        assert_eq!(text.len(), TEXT_LEN_MAX);
    }
}
