//! Translation of a parsed pattern to the syntax of the `regex` crates, with Python's meaning. It is possible
//! where the pattern does not look around or back, since the linear engine cannot. No text of the user is
//! copied: every character is written as an escape of its code point, and every flag is resolved at the place
//! where it matters.

use std::fmt::Write as _;

use super::ast::{Alternatives, Anchor, Category, ClassItem, Flags, Greed, Node, node_width};

/// Returns the pattern for the linear engine, anchored at the start of the text; `None` for a pattern that
/// needs more than that: look-around, references, conditionals, atomic groups, possessive repetitions, word
/// boundaries, or a `$` before further parts.
pub(super) fn emit(body: &Alternatives) -> Option<String> {
    let mut emitter = Emitter {
        out: String::from(r"\A(?:"),
        todo: vec![Task::Write(")")],
    };
    emitter.alternatives(body, true);
    while let Some(task) = emitter.todo.pop() {
        match task {
            Task::Write(text) => emitter.out.push_str(text),
            Task::Count(min, max) => emitter.count(min, max),
            Task::Node(node, tail) => emitter.node(node, tail)?,
        }
    }
    Some(emitter.out)
}

/// A part that is still to be written. A list of these replaces the call stack, which a deep pattern must not
/// exhaust.
enum Task<'a> {
    Write(&'static str),
    /// The repetition count of the part before.
    Count(u32, Option<u32>),
    /// The flag is true if nothing follows in the whole pattern. `$` may then take the newline before which it
    /// matches.
    Node(&'a Node, bool),
}

struct Emitter<'a> {
    out: String,
    /// The next task is at the end.
    todo: Vec<Task<'a>>,
}

impl<'a> Emitter<'a> {
    fn alternatives(&mut self, alternatives: &'a Alternatives, tail: bool) {
        for (index, sequence) in alternatives.sequences.iter().enumerate().rev() {
            for (behind, node) in sequence.iter().rev().enumerate() {
                self.todo.push(Task::Node(node, tail && behind == 0));
            }
            if index > 0 {
                self.todo.push(Task::Write("|"));
            }
        }
    }

    fn node(&mut self, node: &'a Node, tail: bool) -> Option<()> {
        match node {
            Node::Literal(c, flags) => self.class(false, &[ClassItem::Range(*c, *c)], *flags),
            Node::Any(flags) if flags.dot_all => self.out.push_str("(?s:.)"),
            Node::Any(_) => self.out.push_str(r"[^\n]"),
            Node::Class {
                negated,
                items,
                flags,
            } => self.class(*negated, items, *flags),
            Node::Anchor(anchor, flags) => self.anchor(*anchor, *flags, tail)?,
            Node::Group(_, body) => self.group(body, tail),
            Node::Repeat {
                min,
                max,
                greed,
                body,
            } => self.repeat(*min, *max, *greed, body)?,
            Node::BackReference(..)
            | Node::Conditional { .. }
            | Node::Look { .. }
            | Node::Atomic(_) => return None,
        }
        Some(())
    }

    fn group(&mut self, body: &'a Alternatives, tail: bool) {
        // A group around nothing but another group needs no brackets of its own: the engine limits the nesting
        // of brackets, and Python's limit is higher.
        let is_around_group = matches!(
            body.sequences.as_slice(),
            [sequence] if matches!(sequence.as_slice(), [Node::Group(..)])
        );
        if !is_around_group {
            self.out.push_str("(?:");
            self.todo.push(Task::Write(")"));
        }
        self.alternatives(body, tail);
    }

    fn repeat(&mut self, min: u32, max: Option<u32>, greed: Greed, body: &'a Node) -> Option<()> {
        if greed == Greed::Possessive {
            return None;
        }
        self.out.push_str("(?:");
        // A repetition of a part without width: once is enough, and the engine accepts no more than that.
        if node_width(body, &[]) == (0, 0) {
            self.todo
                .push(Task::Write(if min == 0 { "|)" } else { ")" }));
        } else {
            if greed == Greed::Lazy {
                self.todo.push(Task::Write("?"));
            }
            self.todo.push(Task::Count(min, max));
        }
        self.todo.push(Task::Node(body, false));
        Some(())
    }

    fn count(&mut self, min: u32, max: Option<u32>) {
        self.out.push(')');
        match (min, max) {
            (0, None) => self.out.push('*'),
            (1, None) => self.out.push('+'),
            (0, Some(1)) => self.out.push('?'),
            (min, None) => {
                let _ = write!(self.out, "{{{min},}}");
            }
            (min, Some(max)) => {
                let _ = write!(self.out, "{{{min},{max}}}");
            }
        }
    }

    fn anchor(&mut self, anchor: Anchor, flags: Flags, tail: bool) -> Option<()> {
        self.out.push_str(match anchor {
            Anchor::LineStart if flags.multi_line => "(?m:^)",
            Anchor::LineStart | Anchor::TextStart => r"\A",
            Anchor::LineEnd if flags.multi_line => "(?m:$)",
            Anchor::LineEnd if tail => r"(?:\n?\z)",
            Anchor::TextEnd => r"\z",
            // The engine's own `\b` defines words differently from Python.
            Anchor::LineEnd | Anchor::WordBoundary | Anchor::NotWordBoundary => return None,
        });
        Some(())
    }

    fn class(&mut self, negated: bool, items: &[ClassItem], flags: Flags) {
        self.out.push_str(&class_text(negated, items, flags));
    }
}

/// A class that matches nothing.
const NEVER: &str = r"[^\x{0}-\x{10FFFF}]";

pub(super) const WORD: ClassItem = ClassItem::Category {
    category: Category::Word,
    negated: false,
};

/// Returns the text of a character class, or of one character.
pub(super) fn class_text(negated: bool, items: &[ClassItem], flags: Flags) -> String {
    let mut members = String::new();
    for item in items {
        match *item {
            ClassItem::Range(low, high) => {
                push_range(low, high, &mut members);
                if flags.ignore_case {
                    push_case_variants(low, high, flags.ascii, &mut members);
                }
            }
            ClassItem::Category {
                category,
                negated: false,
            } => {
                members.push_str(category_members(category, flags.ascii));
            }
            ClassItem::Category {
                category,
                negated: true,
            } => {
                let _ = write!(members, "[^{}]", category_members(category, flags.ascii));
            }
        }
    }
    let text = match (members.is_empty(), negated) {
        // The class holds only lone surrogates, which no name contains.
        (true, false) => return NEVER.to_owned(),
        (true, true) => return "(?s:.)".to_owned(),
        (false, false) => format!("[{members}]"),
        (false, true) => format!("[^{members}]"),
    };
    if flags.ignore_case && !flags.ascii {
        format!("(?i:{text})")
    } else {
        text
    }
}

/// Code points that no text contains.
const SURROGATES: std::ops::RangeInclusive<u32> = 0xd800..=0xdfff;

fn push_range(low: u32, high: u32, members: &mut String) {
    for (low, high) in [
        (low, high.min(SURROGATES.start() - 1)),
        (low.max(SURROGATES.end() + 1), high),
    ] {
        if low < high {
            let _ = write!(members, r"\x{{{low:X}}}-\x{{{high:X}}}");
        } else if low == high {
            let _ = write!(members, r"\x{{{low:X}}}");
        }
    }
}

/// Adds the case variants that the engines' own `(?i)` does not add. With the ASCII flag, which turns it off,
/// these are the other case of ASCII letters; without, the letters that Python takes for an `i`.
fn push_case_variants(low: u32, high: u32, ascii: bool, members: &mut String) {
    if ascii {
        for (first, last, distance) in [('A', 'Z', 32_i64), ('a', 'z', -32)] {
            let from = low.max(u32::from(first));
            let to = high.min(u32::from(last));
            if from <= to {
                let other = |c: u32| (i64::from(c) + distance) as u32;
                push_range(other(from), other(to), members);
            }
        }
        return;
    }
    if I_FAMILY
        .iter()
        .any(|c| (low..=high).contains(&u32::from(*c)))
    {
        members.extend(I_FAMILY);
    }
}

/// The letters that Python takes for an `i`: it lowers `İ` to `i` and counts `ı` as another case of it.
const I_FAMILY: [char; 4] = ['i', 'I', '\u{130}', '\u{131}'];

/// Returns the members of `\d`, `\s` and `\w` in Python: `str.isdecimal`, `str.isspace`, and `str.isalnum` or
/// `_`.
fn category_members(category: Category, ascii: bool) -> &'static str {
    match (category, ascii) {
        (Category::Digit, false) => r"\p{Nd}",
        (Category::Digit, true) => "0-9",
        (Category::Space, false) => {
            r"\x{9}-\x{D}\x{1C}-\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
        }
        (Category::Space, true) => r"\x{9}-\x{D}\x{20}",
        (Category::Word, false) => r"\p{L}\p{N}_",
        (Category::Word, true) => "a-zA-Z0-9_",
    }
}

/// Returns the literal text that every match starts with, and true if everything that starts with it matches.
pub(super) fn literal_prefix(body: &Alternatives) -> (String, bool) {
    let mut prefix = String::new();
    let [sequence] = body.sequences.as_slice() else {
        return (prefix, false);
    };
    let mut todo: Vec<&Node> = sequence.iter().rev().collect();
    while let Some(node) = todo.pop() {
        match node {
            Node::Literal(c, flags) if !flags.ignore_case => match char::from_u32(*c) {
                Some(c) => prefix.push(c),
                None => return (prefix, false),
            },
            // These anchors are always true before the first character.
            Node::Anchor(Anchor::LineStart | Anchor::TextStart, _) if prefix.is_empty() => {}
            Node::Group(_, body) => match body.sequences.as_slice() {
                [only] => todo.extend(only.iter().rev()),
                _ => return (prefix, false),
            },
            // This part may also match nothing, so the prefix ends here.
            Node::Repeat { min: 0, body, .. } if is_one_character(body) => {
                let is_open = todo.iter().all(|node| {
                    matches!(node, Node::Repeat { min: 0, body, .. } if is_one_character(body))
                });
                return (prefix, is_open);
            }
            _ => return (prefix, false),
        }
    }
    (prefix, true)
}

fn is_one_character(node: &Node) -> bool {
    matches!(node, Node::Literal(..) | Node::Any(_) | Node::Class { .. })
}
