//! The syntax tree of a pattern, as far as matching depends on it.

/// Flags in force at one place of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Flags {
    /// `i`: upper and lower case are the same.
    pub(super) ignore_case: bool,
    /// `m`: `^` and `$` match at each line.
    pub(super) multi_line: bool,
    /// `s`: `.` matches a newline.
    pub(super) dot_all: bool,
    /// `x`: blanks and comments are skipped.
    pub(super) verbose: bool,
    /// `a`: classes and case mean ASCII only.
    pub(super) ascii: bool,
}

/// A class escape. Its complement is the capital letter in the syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Category {
    /// `\d`.
    Digit,
    /// `\s`.
    Space,
    /// `\w`.
    Word,
}

/// One member of a character class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClassItem {
    /// All characters from the first to the last, inclusive.
    Range(u32, u32),
    /// A category or its complement.
    Category {
        /// The category.
        category: Category,
        /// True for the complement.
        negated: bool,
    },
}

/// A place between two characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    /// `^`.
    LineStart,
    /// `$`.
    LineEnd,
    /// `\A`.
    TextStart,
    /// `\Z`.
    TextEnd,
    /// `\b`.
    WordBoundary,
    /// `\B`.
    NotWordBoundary,
}

/// The greed of a repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greed {
    /// As often as possible, fewer if needed.
    Greedy,
    /// As rarely as possible, more if needed.
    Lazy,
    /// As often as possible, never fewer.
    Possessive,
}

/// Alternatives; each is a sequence.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Alternatives {
    /// At least one.
    pub(super) sequences: Vec<Vec<Node>>,
    /// Width of their matches.
    pub(super) width: Width,
}

impl Alternatives {
    /// Computes the width from the widths of the parts. `group_widths` holds the widths of the groups that are
    /// closed.
    pub(super) fn new(sequences: Vec<Vec<Node>>, group_widths: &[Option<Width>]) -> Self {
        let widths = sequences
            .iter()
            .map(|sequence| sequence_width(sequence, group_widths));
        let width = widths.reduce(either).unwrap_or((0, 0));
        Self { sequences, width }
    }
}

/// One part of a sequence. Characters are code points, including lone surrogates: an escape can write one,
/// although no name contains it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// One character.
    Literal(u32, Flags),
    /// `.`.
    Any(Flags),
    /// `[…]` or a class escape.
    Class {
        /// `[^…]`.
        negated: bool,
        /// Its members.
        items: Vec<ClassItem>,
        /// The flags in force.
        flags: Flags,
    },
    /// An anchor.
    Anchor(Anchor, Flags),
    /// A group; with a number if it captures.
    Group(Option<usize>, Alternatives),
    /// A back-reference to the text that a group captured.
    BackReference(usize, Flags),
    /// One of two sequences, selected by whether a group captured.
    Conditional {
        /// The group's number.
        group: usize,
        /// The sequence if it captured.
        yes: Vec<Node>,
        /// The sequence if it did not.
        no: Vec<Node>,
        /// Width of either sequence.
        width: Width,
    },
    /// Look-ahead or look-behind.
    Look {
        /// True for look-behind.
        behind: bool,
        /// True if the body must not match.
        negated: bool,
        /// The body.
        body: Alternatives,
    },
    /// `(?>…)`.
    Atomic(Alternatives),
    /// A repetition.
    Repeat {
        /// Minimum number of rounds.
        min: u32,
        /// Maximum number of rounds; `None` if unlimited.
        max: Option<u32>,
        /// The greed.
        greed: Greed,
        /// The repeated part.
        body: Box<Node>,
    },
}

/// The minimum and the maximum number of characters that a part can match; saturates.
pub(super) type Width = (u64, u64);

/// Returns the width of a sequence. Does not recurse into the parts: patterns nest deeply.
pub(super) fn sequence_width(sequence: &[Node], group_widths: &[Option<Width>]) -> Width {
    sequence.iter().fold((0, 0), |(low, high), node| {
        let (node_low, node_high) = node_width(node, group_widths);
        (low.saturating_add(node_low), high.saturating_add(node_high))
    })
}

/// Returns the width of either of two alternatives.
pub(super) fn either(left: Width, right: Width) -> Width {
    (left.0.min(right.0), left.1.max(right.1))
}

/// Returns the width of a node.
pub(super) fn node_width(node: &Node, group_widths: &[Option<Width>]) -> Width {
    match node {
        Node::Literal(..) | Node::Any(_) | Node::Class { .. } => (1, 1),
        Node::Anchor(..) | Node::Look { .. } => (0, 0),
        Node::Group(_, body) | Node::Atomic(body) => body.width,
        Node::BackReference(number, _) => group_widths
            .get(*number)
            .copied()
            .flatten()
            .unwrap_or((0, 0)),
        Node::Conditional { width, .. } => *width,
        // The body of a repetition is not a repetition itself: the syntax has no such form.
        Node::Repeat { min, max, body, .. } => {
            let (low, high) = node_width(body, group_widths);
            let most = match max {
                Some(max) => high.saturating_mul(u64::from(*max)),
                None if high == 0 => 0,
                None => u64::MAX,
            };
            (low.saturating_mul(u64::from(*min)), most)
        }
    }
}
