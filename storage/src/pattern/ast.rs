//! The parts of a parsed pattern, as far as matching depends on them.

/// Flags in force at some place of a pattern.
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

/// A class escape. Each has its complement, which is its capital letter in the syntax.
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
    /// All characters from the first to the last, both included.
    Range(u32, u32),
    /// A category, or everything but it.
    Category {
        /// Which one.
        category: Category,
        /// Whether it is the complement.
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

/// How eager a repetition is.
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
    /// Of what they match.
    pub(super) width: Width,
}

impl Alternatives {
    /// Knows its width from its parts, which know theirs. `group_widths` holds those of the groups that are
    /// closed.
    pub(super) fn new(sequences: Vec<Vec<Node>>, group_widths: &[Option<Width>]) -> Self {
        let widths = sequences
            .iter()
            .map(|sequence| sequence_width(sequence, group_widths));
        let width = widths.reduce(either).unwrap_or((0, 0));
        Self { sequences, width }
    }
}

/// One part of a sequence. Characters are code points, lone surrogates included: an escape can write
/// one, and no name contains it.
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
    /// A group; with a number when it captures.
    Group(Option<usize>, Alternatives),
    /// What a group captured, once more.
    BackReference(usize, Flags),
    /// One of two sequences, by whether a group captured.
    Conditional {
        /// The group's number.
        group: usize,
        /// When it captured.
        yes: Vec<Node>,
        /// When it did not.
        no: Vec<Node>,
        /// Of either.
        width: Width,
    },
    /// Look-ahead or look-behind.
    Look {
        /// Looks at what comes before.
        behind: bool,
        /// Must not match.
        negated: bool,
        /// What to look for.
        body: Alternatives,
    },
    /// `(?>…)`.
    Atomic(Alternatives),
    /// A repetition.
    Repeat {
        /// At least so often.
        min: u32,
        /// At most so often; `None` is without end.
        max: Option<u32>,
        /// How eager.
        greed: Greed,
        /// What is repeated.
        body: Box<Node>,
    },
}

/// The fewest and the most characters that something can match; saturates.
pub(super) type Width = (u64, u64);

/// Width of a sequence. Asks no part for its parts: patterns nest deeply.
pub(super) fn sequence_width(sequence: &[Node], group_widths: &[Option<Width>]) -> Width {
    sequence.iter().fold((0, 0), |(low, high), node| {
        let (node_low, node_high) = node_width(node, group_widths);
        (low.saturating_add(node_low), high.saturating_add(node_high))
    })
}

/// The width of one or the other.
pub(super) fn either(left: Width, right: Width) -> Width {
    (left.0.min(right.0), left.1.max(right.1))
}

/// Width of a node.
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
        // What is repeated is no repetition itself: the syntax has none of that kind.
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
