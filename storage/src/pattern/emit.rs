//! Writes a parsed pattern in the syntax of the `regex` and `fancy-regex` crates, with Python's
//! meaning. Nothing of the user's text is copied: every character is written as an escape of its code
//! point, and every flag is resolved at the place where it matters.

use std::fmt::Write as _;

use super::PatternError;
use super::ast::{
    Alternatives, Anchor, Category, ClassItem, Flags, Greed, Node, Width, alternatives_width,
    sequence_width,
};
use super::parser::Parsed;

/// A pattern for the engines.
#[derive(Debug)]
pub(super) struct Emitted {
    /// The pattern, anchored at the start of the text.
    pub(super) pattern: String,
    /// Whether it needs more than the linear engine: look-around, references, atomic groups.
    pub(super) is_fancy: bool,
    /// Text that every match starts with.
    pub(super) literal_prefix: String,
}

/// Writes `parsed`.
pub(super) fn emit(parsed: &Parsed) -> Result<Emitted, PatternError> {
    let mut emitter = Emitter {
        out: String::from(r"\A(?:"),
        is_fancy: false,
        group_widths: &parsed.group_widths,
        numbers: referenced_groups(&parsed.body, parsed.group_widths.len()),
        group_count: 0,
        repeat_depth: 0,
    };
    emitter.alternatives(&parsed.body, true)?;
    emitter.out.push(')');
    let mut literal_prefix = String::new();
    if let [sequence] = parsed.body.0.as_slice() {
        push_literal_prefix(sequence, &mut literal_prefix);
    }
    Ok(Emitted {
        pattern: emitter.out,
        is_fancy: emitter.is_fancy,
        literal_prefix,
    })
}

/// How a group is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GroupNumber {
    /// Nothing refers to it: it need not capture, which keeps most patterns in the linear engine.
    Unreferenced,
    /// Something refers to it and it has not been written yet.
    Pending,
    /// Its number among the groups that are written as captures.
    Written(usize),
}

struct Emitter<'a> {
    out: String,
    is_fancy: bool,
    group_widths: &'a [Option<Width>],
    numbers: Vec<GroupNumber>,
    group_count: usize,
    /// Repetitions around the place that is being written.
    repeat_depth: usize,
}

impl Emitter<'_> {
    /// `tail` says that nothing follows in the whole pattern, so that `$` may take the newline
    /// before which it matches, instead of looking ahead.
    fn alternatives(
        &mut self,
        alternatives: &Alternatives,
        tail: bool,
    ) -> Result<(), PatternError> {
        for (index, sequence) in alternatives.0.iter().enumerate() {
            if index > 0 {
                self.out.push('|');
            }
            self.sequence(sequence, tail)?;
        }
        Ok(())
    }

    fn sequence(&mut self, sequence: &[Node], tail: bool) -> Result<(), PatternError> {
        for (index, node) in sequence.iter().enumerate() {
            self.node(node, tail && index + 1 == sequence.len())?;
        }
        Ok(())
    }

    fn node(&mut self, node: &Node, tail: bool) -> Result<(), PatternError> {
        match node {
            Node::Literal(c, flags) => self.class(false, &[ClassItem::Range(*c, *c)], *flags),
            Node::Any(flags) if flags.dot_all => self.out.push_str("(?s:.)"),
            Node::Any(_) => self.out.push_str(r"[^\n]"),
            Node::Class {
                negated,
                items,
                flags,
            } => self.class(*negated, items, *flags),
            Node::Anchor(anchor, flags) => self.anchor(*anchor, *flags, tail),
            Node::Group(number, body) => self.group(*number, body, tail)?,
            Node::BackReference(number, flags) => self.back_reference(*number, *flags),
            Node::Conditional { group, yes, no } => self.conditional(*group, yes, no)?,
            Node::Look {
                behind,
                negated,
                body,
            } => self.look(*behind, *negated, body)?,
            Node::Atomic(body) => {
                self.is_fancy = true;
                self.out.push_str("(?>");
                self.alternatives(body, false)?;
                self.out.push(')');
            }
            Node::Repeat {
                min,
                max,
                greed,
                body,
            } => self.repeat(*min, *max, *greed, body)?,
        }
        Ok(())
    }

    fn group(
        &mut self,
        number: Option<usize>,
        body: &Alternatives,
        tail: bool,
    ) -> Result<(), PatternError> {
        let slot = number.and_then(|number| self.numbers.get_mut(number));
        match slot {
            Some(slot @ GroupNumber::Pending) => {
                self.group_count += 1;
                *slot = GroupNumber::Written(self.group_count);
                self.out.push('(');
            }
            // A group around nothing but another group needs no brackets of its own: the engines
            // limit how deep brackets may nest, and Python's limit is higher.
            _ if matches!(body.0.as_slice(), [sequence] if matches!(sequence.as_slice(), [Node::Group(..)])) =>
            {
                return self.alternatives(body, tail);
            }
            _ => self.out.push_str("(?:"),
        }
        self.alternatives(body, tail)?;
        self.out.push(')');
        Ok(())
    }

    fn written_number(&self, number: usize) -> Option<usize> {
        match self.numbers.get(number) {
            Some(GroupNumber::Written(written)) => Some(*written),
            _ => None,
        }
    }

    fn back_reference(&mut self, number: usize, flags: Flags) {
        self.is_fancy = true;
        match self.written_number(number) {
            Some(written) if flags.ignore_case => {
                let _ = write!(self.out, r"(?i:\{written})");
            }
            Some(written) => {
                let _ = write!(self.out, r"(?:\{written})");
            }
            // The parser lets references through to closed groups only, and those are written.
            None => self.out.push_str(NEVER),
        }
    }

    fn conditional(&mut self, group: usize, yes: &[Node], no: &[Node]) -> Result<(), PatternError> {
        self.is_fancy = true;
        let Some(written) = self.written_number(group) else {
            // The group stands further on, so it has not captured yet, except in a later round of a
            // repetition around both; the engines cannot name a group that is still to come.
            if self.repeat_depth > 0 {
                let text = "a condition on a group behind it, in a repetition, is not supported";
                return Err(PatternError::TooExpensive(text.to_owned()));
            }
            // The branch that is never taken is written all the same: it is checked, and its groups
            // are numbered.
            self.out.push_str("(?:");
            self.out.push_str(NEVER);
            self.sequence(yes, false)?;
            self.out.push('|');
            self.sequence(no, false)?;
            self.out.push(')');
            return Ok(());
        };
        let _ = write!(self.out, "(?({written})");
        self.sequence(yes, false)?;
        self.out.push('|');
        self.sequence(no, false)?;
        self.out.push(')');
        Ok(())
    }

    fn look(
        &mut self,
        behind: bool,
        negated: bool,
        body: &Alternatives,
    ) -> Result<(), PatternError> {
        if behind {
            let (low, high) = alternatives_width(body, self.group_widths);
            if low != high {
                return Err(PatternError::Syntax(
                    "look-behind requires fixed-width pattern".to_owned(),
                ));
            }
        }
        self.is_fancy = true;
        self.out.push_str(match (behind, negated) {
            (false, false) => "(?=",
            (false, true) => "(?!",
            (true, false) => "(?<=",
            (true, true) => "(?<!",
        });
        self.alternatives(body, false)?;
        self.out.push(')');
        Ok(())
    }

    fn repeat(
        &mut self,
        min: u32,
        max: Option<u32>,
        greed: Greed,
        body: &Node,
    ) -> Result<(), PatternError> {
        if sequence_width(std::slice::from_ref(body), self.group_widths) == (0, 0) {
            return self.repeat_of_nothing(min, greed, body);
        }
        // CPython's possessive repetition also never goes back into one of its rounds.
        let open = if greed == Greed::Possessive {
            "(?>"
        } else {
            "(?:"
        };
        if greed == Greed::Possessive {
            self.is_fancy = true;
            self.out.push_str(open);
        }
        self.out.push_str(open);
        self.repeat_depth += 1;
        self.node(body, false)?;
        self.repeat_depth -= 1;
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
        match greed {
            Greed::Greedy => {}
            Greed::Lazy => self.out.push('?'),
            Greed::Possessive => self.out.push(')'),
        }
        Ok(())
    }

    /// A repetition of something that takes no character: once is enough, and the engines accept no
    /// more than that.
    fn repeat_of_nothing(
        &mut self,
        min: u32,
        greed: Greed,
        body: &Node,
    ) -> Result<(), PatternError> {
        self.out.push_str("(?:");
        if min == 0 && greed == Greed::Lazy {
            self.out.push('|');
        }
        self.node(body, false)?;
        if min == 0 && greed != Greed::Lazy {
            self.out.push('|');
        }
        self.out.push(')');
        Ok(())
    }

    fn anchor(&mut self, anchor: Anchor, flags: Flags, tail: bool) {
        match anchor {
            Anchor::LineStart if flags.multi_line => self.out.push_str("(?m:^)"),
            Anchor::LineStart | Anchor::TextStart => self.out.push_str(r"\A"),
            Anchor::LineEnd if flags.multi_line => self.out.push_str("(?m:$)"),
            Anchor::LineEnd if tail => self.out.push_str(r"(?:\n?\z)"),
            Anchor::LineEnd => {
                self.is_fancy = true;
                self.out.push_str(r"(?=\n?\z)");
            }
            Anchor::TextEnd => self.out.push_str(r"\z"),
            Anchor::WordBoundary | Anchor::NotWordBoundary => {
                // The engines' own `\b` has another idea of a word than Python.
                self.is_fancy = true;
                let word = class_text(false, &[WORD], flags);
                let _ = if anchor == Anchor::WordBoundary {
                    write!(self.out, "(?:(?<={word})(?!{word})|(?<!{word})(?={word}))")
                } else {
                    // In Python before 3.14, `\B` does not match in an empty text.
                    write!(
                        self.out,
                        r"(?!\A\z)(?:(?<={word})(?={word})|(?<!{word})(?!{word}))"
                    )
                };
            }
        }
    }

    fn class(&mut self, negated: bool, items: &[ClassItem], flags: Flags) {
        self.out.push_str(&class_text(negated, items, flags));
    }
}

/// Matches nothing.
const NEVER: &str = r"[^\x{0}-\x{10FFFF}]";

const WORD: ClassItem = ClassItem::Category {
    category: Category::Word,
    negated: false,
};

/// A character class, or one character.
fn class_text(negated: bool, items: &[ClassItem], flags: Flags) -> String {
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
        // Only lone surrogates, which no name contains.
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

/// The characters that no text contains.
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

/// Case variants that the engines' own `(?i)` does not add: with the ASCII flag, which turns it off,
/// the other case of ASCII letters; without, the letters that Python takes for an `i`.
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

/// Python lowers `İ` to `i` and counts `ı` as another case of it.
const I_FAMILY: [char; 4] = ['i', 'I', '\u{130}', '\u{131}'];

/// What `\d`, `\s` and `\w` mean to Python: `str.isdecimal`, `str.isspace`, and `str.isalnum` or `_`.
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

/// Appends the literal text that `sequence` starts with.
fn push_literal_prefix(sequence: &[Node], prefix: &mut String) -> bool {
    for node in sequence {
        let go_on = match node {
            Node::Literal(c, flags) if !flags.ignore_case => match char::from_u32(*c) {
                Some(c) => {
                    prefix.push(c);
                    true
                }
                None => false,
            },
            Node::Anchor(Anchor::LineStart | Anchor::TextStart, _) => true,
            Node::Group(_, Alternatives(body)) => match body.as_slice() {
                [only] => push_literal_prefix(only, prefix),
                _ => false,
            },
            _ => false,
        };
        if !go_on {
            return false;
        }
    }
    true
}

/// Which groups something refers to.
fn referenced_groups(body: &Alternatives, count: usize) -> Vec<GroupNumber> {
    let mut numbers = vec![GroupNumber::Unreferenced; count];
    mark_alternatives(body, &mut numbers);
    numbers
}

fn mark_alternatives(alternatives: &Alternatives, numbers: &mut [GroupNumber]) {
    alternatives
        .0
        .iter()
        .for_each(|sequence| mark_sequence(sequence, numbers));
}

fn mark_sequence(sequence: &[Node], numbers: &mut [GroupNumber]) {
    for node in sequence {
        match node {
            Node::BackReference(number, _) => mark(*number, numbers),
            Node::Conditional { group, yes, no } => {
                mark(*group, numbers);
                mark_sequence(yes, numbers);
                mark_sequence(no, numbers);
            }
            Node::Group(_, body) | Node::Atomic(body) | Node::Look { body, .. } => {
                mark_alternatives(body, numbers);
            }
            Node::Repeat { body, .. } => mark_sequence(std::slice::from_ref(body), numbers),
            Node::Literal(..) | Node::Any(_) | Node::Class { .. } | Node::Anchor(..) => {}
        }
    }
}

fn mark(number: usize, numbers: &mut [GroupNumber]) {
    if let Some(slot) = numbers.get_mut(number) {
        *slot = GroupNumber::Pending;
    }
}
