//! A parser for the syntax of Python's `re` for text. It refuses what CPython 3.11 refuses, with the same texts
//! and positions. Positions count code points.
//!
//! Three properties of Python's own reader show in its error positions and are reproduced: a backslash and the
//! character behind it are one token; the reader is one token ahead, so a pattern that ends in a backslash is
//! refused as soon as the token before it is taken; and names are read up to their end mark before they are
//! validated.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use super::PatternError;
use super::ast::{
    Alternatives, Anchor, Category, ClassItem, Flags, Greed, Node, Width, either, sequence_width,
};

/// Maximum number of groups that are open at once. CPython's own stack is exhausted between 400 and 500.
const DEPTH_MAX: usize = 450;

/// Repetition counts from this one on are an `OverflowError` (`MAXREPEAT`).
const REPEAT_LIMIT: u64 = u32::MAX as u64;

/// Group numbers from this one on are refused at once (`MAXGROUPS`).
const GROUP_LIMIT: u64 = 1_073_741_823;

static IDENTIFIER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\A[_\p{XID_Start}]\p{XID_Continue}*\z").expect("a constant pattern that compiles")
});

/// A pattern that Python accepts.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The syntax tree.
    pub(super) body: Alternatives,
    /// For each group number, true if something refers to the group; entry 0 is unused.
    pub(super) referenced: Vec<bool>,
}

/// Parses `source`.
pub(super) fn parse(source: &str) -> Result<Parsed, PatternError> {
    let mut parser = Parser::new(source)?;
    let body = parser.pattern()?;
    if parser.next.is_some() {
        return Err(parser.error("unbalanced parenthesis", 0));
    }
    if parser.global.contains('a') && parser.global.contains('u') {
        return Err(PatternError::FlagConflict);
    }
    let group_count = parser.group_widths.len();
    for (group, position) in &parser.conditions {
        if *group >= group_count {
            return Err(parser.error_at(&format!("invalid group reference {group}"), *position));
        }
    }
    if parser.has_wide_look_behind {
        let text = "look-behind requires fixed-width pattern";
        return Err(PatternError::Syntax(text.to_owned()));
    }
    let mut referenced = vec![false; group_count];
    for group in parser.references {
        if let Some(slot) = referenced.get_mut(group) {
            *slot = true;
        }
    }
    Ok(Parsed { body, referenced })
}

/// One character, or a backslash and one character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    Escape(char),
}

impl Token {
    fn len(self) -> usize {
        match self {
            Self::Char(_) => 1,
            Self::Escape(_) => 2,
        }
    }

    fn push_to(self, text: &mut String) {
        match self {
            Self::Char(c) => text.push(c),
            Self::Escape(c) => text.extend(['\\', c]),
        }
    }

    fn text(self) -> String {
        let mut text = String::new();
        self.push_to(&mut text);
        text
    }
}

/// A part of a class: a single character, or another member.
enum ClassPart {
    Char(u32),
    Category(ClassItem),
}

impl ClassPart {
    fn item(self) -> ClassItem {
        match self {
            Self::Char(c) => ClassItem::Range(c, c),
            Self::Category(item) => item,
        }
    }
}

/// The flag letters of one `(?…)`.
#[derive(Debug, Default)]
struct FlagLetters(String);

impl FlagLetters {
    fn insert(&mut self, letter: char) {
        if !self.contains(letter) {
            self.0.push(letter);
        }
    }

    fn contains(&self, letter: char) -> bool {
        self.0.contains(letter)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.0.chars().any(|letter| other.contains(letter))
    }

    fn extend(&mut self, other: &Self) {
        other.0.chars().for_each(|letter| self.insert(letter));
    }

    /// Returns `flags` with these set to `value`. `u` undoes `a`; `t` has no effect on matching.
    fn set_in(&self, flags: Flags, value: bool) -> Flags {
        let mut flags = flags;
        for letter in self.0.chars() {
            match letter {
                'i' => flags.ignore_case = value,
                'm' => flags.multi_line = value,
                's' => flags.dot_all = value,
                'x' => flags.verbose = value,
                'a' => flags.ascii = value,
                'u' => flags.ascii = !value,
                _ => {}
            }
        }
        flags
    }
}

/// The meaning of `(?…` with flag letters.
enum FlagGroup {
    /// `(?…)`: for the whole pattern.
    Global(FlagLetters),
    /// `(?…-…:`: for the group that follows.
    Scoped {
        set: FlagLetters,
        clear: FlagLetters,
    },
}

enum FlagToken {
    Flag(char),
    End(char),
}

fn is_flag(c: char) -> bool {
    matches!(c, 'i' | 'L' | 'm' | 's' | 'x' | 'a' | 't' | 'u')
}

fn is_octal(c: char) -> bool {
    matches!(c, '0'..='7')
}

fn octal_value(digits: &str) -> u32 {
    digits
        .chars()
        .fold(0, |value, digit| value * 8 + digit.to_digit(8).unwrap_or(0))
}

fn category(letter: char) -> Option<ClassItem> {
    let category = match letter.to_ascii_lowercase() {
        'd' => Category::Digit,
        's' => Category::Space,
        'w' => Category::Word,
        _ => return None,
    };
    Some(ClassItem::Category {
        category,
        negated: letter.is_ascii_uppercase(),
    })
}

/// Parses the number in a repetition; `None` if there is none.
fn repeat_count(digits: &str) -> Result<Option<u32>, PatternError> {
    if digits.is_empty() {
        return Ok(None);
    }
    match digits.parse::<u64>() {
        Ok(count) if count < REPEAT_LIMIT => Ok(Some(count as u32)),
        _ => Err(PatternError::RepetitionTooLarge),
    }
}

/// Parses ASCII text like Python's `int()`, for values that are not negative: blanks around it, one plus sign,
/// and single underscores between digits are allowed. Saturates.
fn python_int(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.strip_prefix('+').unwrap_or(text);
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits.split('_').all(all_digits) {
        return None;
    }
    Some(digits.replace('_', "").parse().unwrap_or(u64::MAX))
}

/// Returns a text as Python shows it in an error message.
fn python_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut shown = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => shown.push_str("\\\\"),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if c == quote => shown.extend(['\\', c]),
            c if c.is_control() && u32::from(c) <= 0xff => {
                shown.push_str(&format!("\\x{:02x}", u32::from(c)))
            }
            c => shown.push(c),
        }
    }
    shown.push(quote);
    shown
}

struct Parser {
    source: Vec<char>,
    /// Position behind `next`.
    index: usize,
    next: Option<Token>,
    /// Flags set for the whole pattern by `(?…)` at its start.
    global: FlagLetters,
    group_names: HashMap<String, usize>,
    /// Widths by group number; entry 0 is the whole match. `None` while a group is open.
    group_widths: Vec<Option<Width>>,
    /// Number of the first group inside the outermost look-behind; `None` outside of one.
    look_behind_from: Option<usize>,
    /// Group numbers in conditions, each with the position of its first mention, in order.
    conditions: Vec<(usize, usize)>,
    /// Groups to which something refers.
    references: Vec<usize>,
    /// True if the body of a look-behind can have several lengths. This is refused only if all else is well.
    has_wide_look_behind: bool,
}

/// An open bracket, or the whole pattern, and the parts that were read of it.
struct Open {
    kind: Kind,
    /// Position of the bracket.
    start: usize,
    /// Flags in force inside.
    flags: Flags,
    /// Branches that are complete.
    sequences: Vec<Vec<Node>>,
    /// The branch that is being read.
    nodes: Vec<Node>,
}

impl Open {
    fn new(kind: Kind, start: usize, flags: Flags) -> Self {
        Self {
            kind,
            start,
            flags,
            sequences: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// Ends a branch. Returns the number of branches so far.
    fn end_branch(&mut self) -> usize {
        self.sequences.push(std::mem::take(&mut self.nodes));
        self.sequences.len()
    }
}

/// The kind of a bracket.
enum Kind {
    /// The whole pattern, without a bracket.
    Whole,
    /// `(?:…)`, also with flags.
    Plain,
    /// `(?>…)`.
    Atomic,
    /// A group with this number.
    Capture(usize),
    /// A look-around. `outer` is [`Parser::look_behind_from`] as it was outside.
    Look {
        behind: bool,
        negated: bool,
        outer: Option<usize>,
    },
    /// `(?(group)…)`.
    Conditional(usize),
}

/// The result of parsing behind a `(`.
enum Bracket {
    /// The beginning of a group.
    Opens(Open),
    /// A whole bracket that is a node.
    Is(Node),
    /// A bracket that matches nothing: a comment, or flags.
    Nothing,
}

impl Parser {
    fn new(source: &str) -> Result<Self, PatternError> {
        let mut parser = Self {
            source: source.chars().collect(),
            index: 0,
            next: None,
            global: FlagLetters::default(),
            group_names: HashMap::new(),
            group_widths: vec![None],
            look_behind_from: None,
            conditions: Vec::new(),
            references: Vec::new(),
            has_wide_look_behind: false,
        };
        parser.advance()?;
        Ok(parser)
    }

    // The token reader.

    fn advance(&mut self) -> Result<(), PatternError> {
        self.next = match self.source.get(self.index) {
            None => None,
            Some('\\') => {
                let Some(escaped) = self.source.get(self.index + 1) else {
                    return Err(self.error_at("bad escape (end of pattern)", self.source.len() - 1));
                };
                self.index += 2;
                Some(Token::Escape(*escaped))
            }
            Some(c) => {
                self.index += 1;
                Some(Token::Char(*c))
            }
        };
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Token>, PatternError> {
        let token = self.next;
        if token.is_some() {
            self.advance()?;
        }
        Ok(token)
    }

    fn accept(&mut self, c: char) -> Result<bool, PatternError> {
        if self.next == Some(Token::Char(c)) {
            self.advance()?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Position of `next`.
    fn position(&self) -> usize {
        self.index - self.next.map_or(0, Token::len)
    }

    fn seek(&mut self, position: usize) -> Result<(), PatternError> {
        self.index = position;
        self.advance()
    }

    /// Takes up to `count` characters that are `allowed`.
    fn take_while(
        &mut self,
        count: usize,
        allowed: fn(char) -> bool,
    ) -> Result<String, PatternError> {
        let mut text = String::new();
        for _ in 0..count {
            match self.next {
                Some(Token::Char(c)) if allowed(c) => text.push(c),
                _ => break,
            }
            self.advance()?;
        }
        Ok(text)
    }

    /// Takes everything up to and including `end`. Returns it without `end`.
    fn take_until(&mut self, end: char, what: &str) -> Result<String, PatternError> {
        let mut text = String::new();
        loop {
            match self.take()? {
                None if text.is_empty() => return Err(self.error(&format!("missing {what}"), 0)),
                None => {
                    let back = text.chars().count();
                    return Err(self.error(&format!("missing {end}, unterminated name"), back));
                }
                Some(Token::Char(c)) if c == end && text.is_empty() => {
                    return Err(self.error(&format!("missing {what}"), 1));
                }
                Some(Token::Char(c)) if c == end => return Ok(text),
                Some(token) => token.push_to(&mut text),
            }
        }
    }

    // Errors.

    /// Returns an error at a position `back` characters before the next token.
    fn error(&self, text: &str, back: usize) -> PatternError {
        self.error_at(text, self.position().saturating_sub(back))
    }

    fn error_at(&self, text: &str, position: usize) -> PatternError {
        let mut message = format!("{text} at position {position}");
        if self.source.contains(&'\n') {
            let before = &self.source[..position.min(self.source.len())];
            let line = before.iter().filter(|c| **c == '\n').count() + 1;
            let column = match before.iter().rposition(|c| *c == '\n') {
                Some(newline) => position - newline,
                None => position + 1,
            };
            message.push_str(&format!(" (line {line}, column {column})"));
        }
        PatternError::Syntax(message)
    }

    // The grammar.

    /// Parses the whole pattern, up to its end or a bracket that closes nothing. Open brackets are kept in a
    /// list and not on the call stack, which a deep pattern must not exhaust.
    fn pattern(&mut self) -> Result<Alternatives, PatternError> {
        let mut open = Open::new(Kind::Whole, 0, Flags::default());
        let mut outer: Vec<Open> = Vec::new();
        loop {
            let token = match self.next {
                Some(Token::Char('|')) => {
                    self.next_branch(&mut open)?;
                    continue;
                }
                None | Some(Token::Char(')')) => {
                    let Some(around) = outer.pop() else {
                        open.end_branch();
                        return Ok(Alternatives::new(open.sequences, &self.group_widths));
                    };
                    let node = self.close(open)?;
                    open = around;
                    open.nodes.push(node);
                    continue;
                }
                Some(token) => token,
            };
            self.advance()?;
            if token != Token::Char('(') {
                self.part(token, &mut open)?;
                continue;
            }
            match self.bracket(&mut open)? {
                Bracket::Opens(inner) => {
                    outer.push(std::mem::replace(&mut open, inner));
                    if outer.len() > DEPTH_MAX {
                        return Err(PatternError::TooDeep);
                    }
                }
                Bracket::Is(node) => open.nodes.push(node),
                Bracket::Nothing => {}
            }
        }
    }

    fn next_branch(&mut self, open: &mut Open) -> Result<(), PatternError> {
        let is_second = open.sequences.len() == 1;
        if is_second && matches!(open.kind, Kind::Conditional(_)) {
            return Err(self.error("conditional backref with more than two branches", 0));
        }
        open.end_branch();
        self.advance()
    }

    /// Ends a bracket.
    fn close(&mut self, mut open: Open) -> Result<Node, PatternError> {
        if let Kind::Look { outer, .. } = open.kind {
            self.look_behind_from = outer;
        }
        if !self.accept(')')? {
            return Err(self.error_at("missing ), unterminated subpattern", open.start));
        }
        open.end_branch();
        if let Kind::Conditional(group) = open.kind {
            let mut branches = open.sequences.into_iter();
            let yes = branches.next().unwrap_or_default();
            let no = branches.next().unwrap_or_default();
            let width = |sequence: &[Node]| sequence_width(sequence, &self.group_widths);
            let width = either(width(&yes), width(&no));
            return Ok(Node::Conditional {
                group,
                yes,
                no,
                width,
            });
        }
        let body = Alternatives::new(open.sequences, &self.group_widths);
        Ok(match open.kind {
            Kind::Capture(number) => {
                if let Some(slot) = self.group_widths.get_mut(number) {
                    *slot = Some(body.width);
                }
                Node::Group(Some(number), body)
            }
            Kind::Look {
                behind, negated, ..
            } => {
                self.has_wide_look_behind |= behind && body.width.0 != body.width.1;
                Node::Look {
                    behind,
                    negated,
                    body,
                }
            }
            Kind::Atomic => Node::Atomic(body),
            Kind::Plain | Kind::Whole | Kind::Conditional(_) => Node::Group(None, body),
        })
    }

    /// Parses one part of a sequence that is not a bracket.
    fn part(&mut self, token: Token, open: &mut Open) -> Result<(), PatternError> {
        let flags = open.flags;
        let nodes = &mut open.nodes;
        match token {
            Token::Char(' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c') if flags.verbose => {}
            Token::Char('#') if flags.verbose => self.skip_comment_line()?,
            Token::Escape(escaped) => nodes.push(self.escape(escaped, flags)?),
            Token::Char('[') => nodes.push(self.class(flags)?),
            Token::Char('.') => nodes.push(Node::Any(flags)),
            Token::Char('^') => nodes.push(Node::Anchor(Anchor::LineStart, flags)),
            Token::Char('$') => nodes.push(Node::Anchor(Anchor::LineEnd, flags)),
            Token::Char(mark @ ('*' | '+' | '?')) => self.repeat(mark, nodes)?,
            Token::Char('{') => {
                if !self.counted_repeat(nodes)? {
                    nodes.push(Node::Literal(u32::from('{'), flags));
                }
            }
            Token::Char(c) => nodes.push(Node::Literal(u32::from(c), flags)),
        }
        Ok(())
    }

    fn skip_comment_line(&mut self) -> Result<(), PatternError> {
        while !matches!(self.take()?, None | Some(Token::Char('\n'))) {}
        Ok(())
    }

    // Repetition.

    fn repeat(&mut self, mark: char, nodes: &mut Vec<Node>) -> Result<(), PatternError> {
        let here = self.position();
        let (min, max) = match mark {
            '?' => (0, Some(1)),
            '*' => (0, None),
            _ => (1, None),
        };
        self.apply_repeat(min, max, here, nodes)
    }

    /// Parses `{m}`, `{m,}`, `{,n}` or `{m,n}` behind the brace. Returns false if it is none of them.
    fn counted_repeat(&mut self, nodes: &mut Vec<Node>) -> Result<bool, PatternError> {
        let here = self.position();
        if self.next == Some(Token::Char('}')) {
            return Ok(false);
        }
        let low = self.take_while(usize::MAX, |c| c.is_ascii_digit())?;
        let high = if self.accept(',')? {
            self.take_while(usize::MAX, |c| c.is_ascii_digit())?
        } else {
            low.clone()
        };
        if !self.accept('}')? {
            self.seek(here)?;
            return Ok(false);
        }
        let min = repeat_count(&low)?.unwrap_or(0);
        let max = repeat_count(&high)?;
        if max.is_some_and(|max| max < min) {
            return Err(self.error_at("min repeat greater than max repeat", here));
        }
        self.apply_repeat(min, max, here, nodes)?;
        Ok(true)
    }

    fn apply_repeat(
        &mut self,
        min: u32,
        max: Option<u32>,
        here: usize,
        nodes: &mut Vec<Node>,
    ) -> Result<(), PatternError> {
        // `here` is behind the mark, which has one character and is the position of the error.
        let body = match nodes.pop() {
            None | Some(Node::Anchor(..)) => {
                return Err(self.error_at("nothing to repeat", here - 1));
            }
            Some(Node::Repeat { .. }) => return Err(self.error_at("multiple repeat", here - 1)),
            Some(node) => node,
        };
        let greed = if self.accept('?')? {
            Greed::Lazy
        } else if self.accept('+')? {
            Greed::Possessive
        } else {
            Greed::Greedy
        };
        nodes.push(Node::Repeat {
            min,
            max,
            greed,
            body: Box::new(body),
        });
        Ok(())
    }

    // Groups.

    /// Parses the text behind a `(`.
    fn bracket(&mut self, around: &mut Open) -> Result<Bracket, PatternError> {
        let start = self.position() - 1;
        let flags = around.flags;
        let opens = |kind, flags| Ok(Bracket::Opens(Open::new(kind, start, flags)));
        if !self.accept('?')? {
            return opens(self.capture(None)?, flags);
        }
        let Some(token) = self.take()? else {
            return Err(self.error("unexpected end of pattern", 0));
        };
        match token {
            Token::Char('P') => self.python_extension(flags, start),
            Token::Char(':') => opens(Kind::Plain, flags),
            Token::Char('>') => opens(Kind::Atomic, flags),
            Token::Char('#') => {
                self.comment_group(start)?;
                Ok(Bracket::Nothing)
            }
            Token::Char('=' | '!') => opens(self.look(false, token == Token::Char('!')), flags),
            Token::Char('<') => {
                let Some(kind) = self.take()? else {
                    return Err(self.error("unexpected end of pattern", 0));
                };
                if !matches!(kind, Token::Char('=' | '!')) {
                    let text = kind.text();
                    return Err(self.error(&format!("unknown extension ?<{text}"), kind.len() + 2));
                }
                opens(self.look(true, kind == Token::Char('!')), flags)
            }
            Token::Char('(') => opens(self.conditional()?, flags),
            Token::Char(c) if is_flag(c) || c == '-' => match self.flag_letters(c)? {
                FlagGroup::Global(set) => {
                    let is_first = matches!(around.kind, Kind::Whole)
                        && around.sequences.is_empty()
                        && around.nodes.is_empty();
                    if !is_first {
                        return Err(
                            self.error_at("global flags not at the start of the expression", start)
                        );
                    }
                    self.global.extend(&set);
                    around.flags = set.set_in(flags, true);
                    Ok(Bracket::Nothing)
                }
                FlagGroup::Scoped { set, clear } => {
                    opens(Kind::Plain, clear.set_in(set.set_in(flags, true), false))
                }
            },
            other => {
                let text = other.text();
                Err(self.error(&format!("unknown extension ?{text}"), other.len() + 1))
            }
        }
    }

    /// Begins a group with the next number.
    fn capture(&mut self, name: Option<String>) -> Result<Kind, PatternError> {
        let number = self.group_widths.len();
        if let Some(name) = name {
            let back = name.chars().count() + 1;
            if let Some(earlier) = self.group_names.get(&name) {
                let name = python_repr(&name);
                let text = format!(
                    "redefinition of group name {name} as group {number}; was group {earlier}"
                );
                return Err(self.error(&text, back));
            }
            self.group_names.insert(name, number);
        }
        self.group_widths.push(None);
        Ok(Kind::Capture(number))
    }

    fn comment_group(&mut self, start: usize) -> Result<(), PatternError> {
        loop {
            match self.take()? {
                None => return Err(self.error_at("missing ), unterminated comment", start)),
                Some(Token::Char(')')) => return Ok(()),
                Some(_) => {}
            }
        }
    }

    fn python_extension(&mut self, flags: Flags, start: usize) -> Result<Bracket, PatternError> {
        if self.accept('<')? {
            let name = self.take_until('>', "group name")?;
            self.check_name(&name)?;
            let kind = self.capture(Some(name))?;
            return Ok(Bracket::Opens(Open::new(kind, start, flags)));
        }
        if self.accept('=')? {
            let name = self.take_until(')', "group name")?;
            self.check_name(&name)?;
            let group = self.named_group(&name)?;
            self.check_reference(group, name.chars().count() + 1)?;
            return Ok(Bracket::Is(self.back_reference(group, flags)));
        }
        match self.take()? {
            None => Err(self.error("unexpected end of pattern", 0)),
            Some(token) => {
                let text = token.text();
                Err(self.error(&format!("unknown extension ?P{text}"), token.len() + 2))
            }
        }
    }

    fn back_reference(&mut self, group: usize, flags: Flags) -> Node {
        self.references.push(group);
        Node::BackReference(group, flags)
    }

    fn check_name(&self, name: &str) -> Result<(), PatternError> {
        if IDENTIFIER.is_match(name) {
            return Ok(());
        }
        let text = format!("bad character in group name {}", python_repr(name));
        Err(self.error(&text, name.chars().count() + 1))
    }

    fn named_group(&self, name: &str) -> Result<usize, PatternError> {
        self.group_names.get(name).copied().ok_or_else(|| {
            let text = format!("unknown group name {}", python_repr(name));
            self.error(&text, name.chars().count() + 1)
        })
    }

    fn is_closed(&self, group: usize) -> bool {
        self.group_widths.get(group).is_some_and(Option::is_some)
    }

    fn check_reference(&self, group: usize, back: usize) -> Result<(), PatternError> {
        if !self.is_closed(group) {
            return Err(self.error("cannot refer to an open group", back));
        }
        self.check_look_behind_reference(group)
    }

    fn check_look_behind_reference(&self, group: usize) -> Result<(), PatternError> {
        let Some(first) = self.look_behind_from else {
            return Ok(());
        };
        if !self.is_closed(group) {
            return Err(self.error("cannot refer to an open group", 0));
        }
        if group >= first {
            return Err(self.error(
                "cannot refer to group defined in the same lookbehind subpattern",
                0,
            ));
        }
        Ok(())
    }

    fn look(&mut self, behind: bool, negated: bool) -> Kind {
        let outer = self.look_behind_from;
        if behind && outer.is_none() {
            self.look_behind_from = Some(self.group_widths.len());
        }
        Kind::Look {
            behind,
            negated,
            outer,
        }
    }

    fn conditional(&mut self) -> Result<Kind, PatternError> {
        let name = self.take_until(')', "group name")?;
        let back = name.chars().count() + 1;
        let group = if IDENTIFIER.is_match(&name) {
            self.named_group(&name)?
        } else {
            let Some(number) = python_int(&name) else {
                let text = format!("bad character in group name {}", python_repr(&name));
                return Err(self.error(&text, back));
            };
            if number == 0 {
                return Err(self.error("bad group number", back));
            }
            if number >= GROUP_LIMIT {
                return Err(self.error(&format!("invalid group reference {number}"), back));
            }
            let number = number as usize;
            let position = self.position() - back;
            if !self.conditions.iter().any(|(known, _)| *known == number) {
                self.conditions.push((number, position));
            }
            number
        };
        self.check_look_behind_reference(group)?;
        self.references.push(group);
        Ok(Kind::Conditional(group))
    }

    // Flags.

    fn flag_letters(&mut self, first: char) -> Result<FlagGroup, PatternError> {
        let mut set = FlagLetters::default();
        let mut end = first;
        if first != '-' {
            let mut letter = first;
            loop {
                if letter == 'L' {
                    let text = "bad inline flags: cannot use 'L' flag with a str pattern";
                    return Err(self.error(text, 0));
                }
                set.insert(letter);
                if set.contains('a') && set.contains('u') {
                    let text = "bad inline flags: flags 'a', 'u' and 'L' are incompatible";
                    return Err(self.error(text, 0));
                }
                match self.flag_or_end(")-:", "missing -, : or )")? {
                    FlagToken::End(c) => {
                        end = c;
                        break;
                    }
                    FlagToken::Flag(c) => letter = c,
                }
            }
        }
        if end == ')' {
            return Ok(FlagGroup::Global(set));
        }
        if set.contains('t') {
            return Err(self.error("bad inline flags: cannot turn on global flag", 1));
        }
        let mut clear = FlagLetters::default();
        if end == '-' {
            let mut letter = match self.flag_or_end("", "missing flag")? {
                FlagToken::Flag(c) | FlagToken::End(c) => c,
            };
            loop {
                if matches!(letter, 'a' | 'u' | 'L') {
                    let text = "bad inline flags: cannot turn off flags 'a', 'u' and 'L'";
                    return Err(self.error(text, 0));
                }
                clear.insert(letter);
                match self.flag_or_end(":", "missing :")? {
                    FlagToken::End(_) => break,
                    FlagToken::Flag(c) => letter = c,
                }
            }
        }
        if clear.contains('t') {
            return Err(self.error("bad inline flags: cannot turn off global flag", 1));
        }
        if set.overlaps(&clear) {
            return Err(self.error("bad inline flags: flag turned on and off", 1));
        }
        Ok(FlagGroup::Scoped { set, clear })
    }

    fn flag_or_end(&mut self, ends: &str, missing: &str) -> Result<FlagToken, PatternError> {
        match self.take()? {
            None => Err(self.error(missing, 0)),
            Some(Token::Char(c)) if ends.contains(c) => Ok(FlagToken::End(c)),
            Some(Token::Char(c)) if is_flag(c) => Ok(FlagToken::Flag(c)),
            Some(token) => {
                let is_letter = matches!(token, Token::Char(c) if c.is_alphabetic());
                let text = if is_letter { "unknown flag" } else { missing };
                Err(self.error(text, token.len()))
            }
        }
    }

    // Escapes and classes.

    fn escape(&mut self, escaped: char, flags: Flags) -> Result<Node, PatternError> {
        if let Some(item) = category(escaped) {
            return Ok(Node::Class {
                negated: false,
                items: vec![item],
                flags,
            });
        }
        let anchor = match escaped {
            'A' => Some(Anchor::TextStart),
            'Z' => Some(Anchor::TextEnd),
            'b' => Some(Anchor::WordBoundary),
            'B' => Some(Anchor::NotWordBoundary),
            _ => None,
        };
        if let Some(anchor) = anchor {
            return Ok(Node::Anchor(anchor, flags));
        }
        if matches!(escaped, '1'..='9') {
            return self.digit_escape(escaped, flags);
        }
        if escaped == '0' {
            let digits = format!("0{}", self.take_while(2, is_octal)?);
            return Ok(Node::Literal(octal_value(&digits), flags));
        }
        self.character_escape(escaped)
            .map(|c| Node::Literal(c, flags))
    }

    /// Parses a back-reference, or three octal digits.
    fn digit_escape(&mut self, first: char, flags: Flags) -> Result<Node, PatternError> {
        let mut digits = String::from(first);
        if let Some(Token::Char(second @ '0'..='9')) = self.next {
            digits.push(second);
            self.advance()?;
            if let (true, true, Some(Token::Char(third @ '0'..='7'))) =
                (is_octal(first), is_octal(second), self.next)
            {
                digits.push(third);
                self.advance()?;
                let value = octal_value(&digits);
                if value > 0o377 {
                    return Err(self.octal_range_error(&digits));
                }
                return Ok(Node::Literal(value, flags));
            }
        }
        let group: usize = digits.parse().unwrap_or(usize::MAX);
        if group >= self.group_widths.len() {
            return Err(self.error(&format!("invalid group reference {group}"), digits.len()));
        }
        self.check_reference(group, digits.len() + 1)?;
        Ok(self.back_reference(group, flags))
    }

    fn octal_range_error(&self, digits: &str) -> PatternError {
        let text = format!("octal escape value \\{digits} outside of range 0-0o377");
        self.error(&text, digits.len() + 1)
    }

    /// Parses an escape that means one character both inside and outside of a class.
    fn character_escape(&mut self, escaped: char) -> Result<u32, PatternError> {
        let value = match escaped {
            'a' => 0x07,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            'x' => self.hex_escape('x', 2)?,
            'u' => self.hex_escape('u', 4)?,
            'U' => self.hex_escape('U', 8)?,
            'N' => self.named_character()?,
            c if c.is_ascii_alphabetic() => return Err(self.error(&format!("bad escape \\{c}"), 2)),
            c => u32::from(c),
        };
        Ok(value)
    }

    fn hex_escape(&mut self, kind: char, digit_count: usize) -> Result<u32, PatternError> {
        let digits = self.take_while(digit_count, |c| c.is_ascii_hexdigit())?;
        if digits.len() != digit_count {
            let text = format!("incomplete escape \\{kind}{digits}");
            return Err(self.error(&text, digits.len() + 2));
        }
        match u32::from_str_radix(&digits, 16) {
            Ok(value) if value <= u32::from(char::MAX) => Ok(value),
            _ => Err(self.error(&format!("bad escape \\{kind}{digits}"), digits.len() + 2)),
        }
    }

    fn named_character(&mut self) -> Result<u32, PatternError> {
        if !self.accept('{')? {
            return Err(self.error("missing {", 0));
        }
        let name = self.take_until('}', "character name")?;
        unicode_names2::character(&name)
            .map(u32::from)
            .ok_or_else(|| {
                let text = format!("undefined character name {}", python_repr(&name));
                self.error(&text, name.chars().count() + 4)
            })
    }

    fn class(&mut self, flags: Flags) -> Result<Node, PatternError> {
        let here = self.position() - 1;
        let negated = self.accept('^')?;
        let mut items = Vec::new();
        loop {
            let Some(token) = self.take()? else {
                return Err(self.error_at("unterminated character set", here));
            };
            if token == Token::Char(']') && !items.is_empty() {
                break;
            }
            let first = self.class_part(token)?;
            if !self.accept('-')? {
                items.push(first.item());
                continue;
            }
            let Some(other) = self.take()? else {
                return Err(self.error_at("unterminated character set", here));
            };
            if other == Token::Char(']') {
                items.push(first.item());
                items.push(ClassPart::Char(u32::from('-')).item());
                break;
            }
            let last = self.class_part(other)?;
            match (first, last) {
                (ClassPart::Char(low), ClassPart::Char(high)) if low <= high => {
                    items.push(ClassItem::Range(low, high));
                }
                _ => {
                    let text = format!("bad character range {}-{}", token.text(), other.text());
                    return Err(self.error(&text, token.len() + 1 + other.len()));
                }
            }
        }
        Ok(Node::Class {
            negated,
            items,
            flags,
        })
    }

    fn class_part(&mut self, token: Token) -> Result<ClassPart, PatternError> {
        let escaped = match token {
            Token::Char(c) => return Ok(ClassPart::Char(u32::from(c))),
            Token::Escape(escaped) => escaped,
        };
        if let Some(item) = category(escaped) {
            return Ok(ClassPart::Category(item));
        }
        match escaped {
            'b' => Ok(ClassPart::Char(0x08)),
            '0'..='7' => {
                let digits = format!("{escaped}{}", self.take_while(2, is_octal)?);
                let value = octal_value(&digits);
                if value > 0o377 {
                    return Err(self.octal_range_error(&digits));
                }
                Ok(ClassPart::Char(value))
            }
            '8' | '9' => Err(self.error(&format!("bad escape \\{escaped}"), 2)),
            _ => self.character_escape(escaped).map(ClassPart::Char),
        }
    }
}
