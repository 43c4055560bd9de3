//! The backtracking engine, for patterns that look around or back. Like CPython's own engine, it tries one
//! alternative after the other. Each step is counted, and nothing is kept on the stack of the thread.

use std::collections::HashMap;

use super::PatternError;
use super::ast::{Alternatives, Anchor, ClassItem, Flags, Greed, Node};
use super::emit::{WORD, class_text};
use super::steps::Steps;

/// Steps for one instruction. A byte in the linear engine takes one.
const INSTRUCTION_COST: u64 = 12;

/// Maximum number of alternatives and earlier values that are remembered, of 24 bytes each.
const MEMORY_COUNT_MAX: usize = 1_000_000;

/// Maximum number of instructions of a compiled pattern. A pattern of 10,000 characters has a few for each.
const PROGRAM_COUNT_MAX: usize = 200_000;

/// The value of a register that holds nothing.
const UNSET: usize = usize::MAX;

/// A set of characters, as sorted ranges.
type CharSet = Vec<(char, char)>;

#[derive(Debug, Clone, Copy)]
enum Instruction {
    /// Matches one character of this set.
    Set(usize),
    /// Matches one character.
    Char(char),
    /// Matches any character but a newline, or any at all.
    Any {
        newline: bool,
    },
    /// Matches the start of the text, or of a line.
    Start {
        lines: bool,
    },
    /// Matches the end of the text or the place before its last newline, or the end of a line.
    End {
        lines: bool,
    },
    /// Matches the end of the text.
    TextEnd,
    /// Matches a boundary of a word, or with `negated` any other place.
    Boundary {
        word: usize,
        negated: bool,
    },
    /// Continues at the next instruction, and at this one if that fails.
    TryElse(usize),
    Jump(usize),
    /// Saves the position in a register.
    Save(usize),
    /// Matches the text that a group captured.
    BackReference {
        group: usize,
        case: Case,
    },
    /// Continues at `no` unless the group has captured.
    Test {
        group: usize,
        no: usize,
    },
    /// Begins a repetition. Uses two registers from `count` on.
    Reset {
        count: usize,
    },
    /// Begins another round of a repetition, or leaves it.
    Round(usize),
    /// Begins one more round of a repetition.
    Enter(usize),
    /// Saves the length of the trail in a register.
    Mark(usize),
    /// Forgets the alternatives that were remembered since that length.
    Cut(usize),
    /// Looks ahead, or `behind` characters back. Uses two registers from `mark` on.
    Look {
        mark: usize,
        behind: Option<u64>,
        negated: bool,
        end: usize,
    },
    /// Ends a look-around whose body has matched.
    Found {
        mark: usize,
        negated: bool,
    },
    Match,
}

/// The treatment of upper and lower case in a back-reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Counts,
    Ascii,
    Unicode,
}

/// A repetition.
#[derive(Debug, Clone, Copy)]
struct Repetition {
    min: usize,
    max: usize,
    lazy: bool,
    /// Register with the number of rounds so far. The next register holds the position at which the last round
    /// began.
    count: usize,
    /// First instruction of the body; `exit` is the one behind its end.
    body: usize,
    exit: usize,
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Program {
    code: Vec<Instruction>,
    sets: Vec<CharSet>,
    repetitions: Vec<Repetition>,
    register_count: usize,
}

/// The memory of one match, reused by the next one.
#[derive(Debug, Default)]
pub(super) struct Memory {
    registers: Vec<usize>,
    trail: Vec<Step>,
}

/// A step back on the trail.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Tries another alternative.
    Way { at: usize, position: usize },
    /// Restores the value that a register held.
    Was { register: usize, value: usize },
}

impl Program {
    /// Compiles a pattern. `referenced` is true for each group to which something refers; captures of other
    /// groups are not saved.
    ///
    /// # Errors
    /// [`PatternError::TooExpensive`] if the program gets too large.
    pub(super) fn new(body: &Alternatives, referenced: &[bool]) -> Result<Self, PatternError> {
        Compiler::new(referenced).compile(body)
    }

    /// Returns true if the pattern matches at the start of `text`.
    ///
    /// # Errors
    /// [`PatternError::TooExpensive`] if `steps` or the memory run out.
    pub(super) fn matches(
        &self,
        text: &str,
        memory: &mut Memory,
        steps: &mut Steps,
    ) -> Result<bool, PatternError> {
        memory.registers.clear();
        memory.registers.resize(self.register_count, UNSET);
        memory.trail.clear();
        let mut run = Run {
            program: self,
            text,
            at: 0,
            position: 0,
            memory,
        };
        loop {
            steps.take(INSTRUCTION_COST)?;
            let goes_on = match run.step(steps)? {
                Progress::Next => {
                    run.at += 1;
                    true
                }
                Progress::To(at) => {
                    run.at = at;
                    true
                }
                Progress::Fails => run.go_back(steps)?,
                Progress::Matches => return Ok(true),
            };
            if !goes_on {
                return Ok(false);
            }
        }
    }
}

enum Progress {
    Next,
    To(usize),
    Fails,
    Matches,
}

struct Run<'a> {
    program: &'a Program,
    text: &'a str,
    /// Index of the next instruction.
    at: usize,
    /// Byte offset in the text, at the beginning of a character or at the end.
    position: usize,
    memory: &'a mut Memory,
}

impl Run<'_> {
    fn next_char(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn previous_char(&self) -> Option<char> {
        self.text[..self.position].chars().next_back()
    }

    fn remember(&mut self, step: Step) -> Result<(), PatternError> {
        if self.memory.trail.len() >= MEMORY_COUNT_MAX {
            return Err(PatternError::TooExpensive(format!(
                "matching takes more than {MEMORY_COUNT_MAX} ways to go back"
            )));
        }
        self.memory.trail.push(step);
        Ok(())
    }

    fn set(&mut self, register: usize, value: usize) -> Result<(), PatternError> {
        let old = self.memory.registers[register];
        self.remember(Step::Was {
            register,
            value: old,
        })?;
        self.memory.registers[register] = value;
        Ok(())
    }

    /// Goes back to the last alternative that is left. Returns false if there is none.
    fn go_back(&mut self, steps: &mut Steps) -> Result<bool, PatternError> {
        while let Some(step) = self.memory.trail.pop() {
            match step {
                Step::Way { at, position } => {
                    (self.at, self.position) = (at, position);
                    return Ok(true);
                }
                Step::Was { register, value } => self.memory.registers[register] = value,
            }
            steps.take(1)?;
        }
        Ok(false)
    }

    /// Takes the next character if it `is_wanted`.
    fn eat(&mut self, is_wanted: impl FnOnce(char) -> bool) -> Progress {
        match self.next_char() {
            Some(c) if is_wanted(c) => {
                self.position += c.len_utf8();
                Progress::Next
            }
            _ => Progress::Fails,
        }
    }

    fn step(&mut self, steps: &mut Steps) -> Result<Progress, PatternError> {
        let program = self.program;
        let holds = |holds| {
            if holds {
                Progress::Next
            } else {
                Progress::Fails
            }
        };
        Ok(match program.code[self.at] {
            Instruction::Set(set) => self.eat(|c| contains(&program.sets[set], c)),
            Instruction::Char(wanted) => self.eat(|c| c == wanted),
            Instruction::Any { newline } => self.eat(|c| newline || c != '\n'),
            Instruction::Start { lines } => {
                holds(self.position == 0 || lines && self.previous_char() == Some('\n'))
            }
            Instruction::End { lines } => {
                let rest = &self.text[self.position..];
                holds(rest.is_empty() || rest == "\n" || lines && rest.starts_with('\n'))
            }
            Instruction::TextEnd => holds(self.position == self.text.len()),
            Instruction::Boundary { word, negated } => {
                let word = &program.sets[word];
                let is_word = |c: Option<char>| c.is_some_and(|c| contains(word, c));
                let is_boundary = is_word(self.previous_char()) != is_word(self.next_char());
                // In Python before 3.14, `\B` does not match in an empty text.
                holds(is_boundary != negated && !(negated && self.text.is_empty()))
            }
            Instruction::TryElse(at) => {
                let position = self.position;
                self.remember(Step::Way { at, position })?;
                Progress::Next
            }
            Instruction::Jump(at) => Progress::To(at),
            Instruction::Save(register) => {
                self.set(register, self.position)?;
                Progress::Next
            }
            Instruction::BackReference { group, case } => match self.captured(group) {
                Some(captured) => self.repeat(captured, case, steps)?,
                None => Progress::Fails,
            },
            Instruction::Test { group, no } => match self.captured(group) {
                Some(_) => Progress::Next,
                None => Progress::To(no),
            },
            Instruction::Reset { count } => {
                self.set(count, 0)?;
                self.set(count + 1, UNSET)?;
                Progress::Next
            }
            Instruction::Round(repetition) => self.round(repetition)?,
            Instruction::Enter(repetition) => self.enter(repetition)?,
            Instruction::Mark(register) => {
                // The earlier value of the register is below the mark.
                let mark = self.memory.trail.len() + 1;
                self.set(register, mark)?;
                Progress::Next
            }
            Instruction::Cut(register) => {
                self.cut(self.memory.registers[register], steps)?;
                Progress::Next
            }
            Instruction::Look {
                mark,
                behind,
                negated,
                end,
            } => self.look(mark, behind, negated, end, steps)?,
            Instruction::Found { mark, negated } => {
                let from = self.memory.registers[mark];
                if negated {
                    // Everything since the mark is undone, including the alternative that would have been
                    // success.
                    while self.memory.trail.len() > from {
                        steps.take(1)?;
                        if let Some(Step::Was { register, value }) = self.memory.trail.pop() {
                            self.memory.registers[register] = value;
                        }
                    }
                    return Ok(Progress::Fails);
                }
                self.position = self.memory.registers[mark + 1];
                self.cut(from, steps)?;
                Progress::Next
            }
            Instruction::Match => Progress::Matches,
        })
    }

    /// Forgets the alternatives that were remembered since the trail had `from` steps, but keeps the earlier
    /// values of registers.
    fn cut(&mut self, from: usize, steps: &mut Steps) -> Result<(), PatternError> {
        let trail = &mut self.memory.trail;
        steps.take(trail.len().saturating_sub(from) as u64)?;
        let mut kept = from;
        for index in from..trail.len() {
            if matches!(trail[index], Step::Was { .. }) {
                trail[kept] = trail[index];
                kept += 1;
            }
        }
        trail.truncate(kept);
        Ok(())
    }

    fn captured(&self, group: usize) -> Option<(usize, usize)> {
        let [start, end] = [0, 1].map(|side| self.memory.registers[2 * group + side]);
        (start != UNSET && end != UNSET && start <= end).then_some((start, end))
    }

    fn repeat(
        &mut self,
        (start, end): (usize, usize),
        case: Case,
        steps: &mut Steps,
    ) -> Result<Progress, PatternError> {
        let captured = &self.text[start..end];
        steps.take(captured.len() as u64)?;
        let rest = &self.text[self.position..];
        let len = match case {
            Case::Counts => rest.starts_with(captured).then_some(captured.len()),
            Case::Ascii => same_len(captured, rest, |c| c.to_ascii_lowercase()),
            Case::Unicode => same_len(captured, rest, |c| c.to_lowercase().next().unwrap_or(c)),
        };
        Ok(match len {
            Some(len) => {
                self.position += len;
                Progress::Next
            }
            None => Progress::Fails,
        })
    }

    fn round(&mut self, number: usize) -> Result<Progress, PatternError> {
        let repetition = self.program.repetitions[number];
        let count = self.memory.registers[repetition.count];
        // A round that took no character would take none again.
        let stands = self.memory.registers[repetition.count + 1] == self.position;
        if count < repetition.min && !stands {
            return self.enter(number);
        }
        if count >= repetition.max || stands {
            return Ok(Progress::To(repetition.exit));
        }
        let position = self.position;
        if repetition.lazy {
            // `Enter` follows `Round`.
            let at = self.at + 1;
            self.remember(Step::Way { at, position })?;
            return Ok(Progress::To(repetition.exit));
        }
        let at = repetition.exit;
        self.remember(Step::Way { at, position })?;
        self.enter(number)
    }

    fn enter(&mut self, number: usize) -> Result<Progress, PatternError> {
        let Repetition { count, body, .. } = self.program.repetitions[number];
        self.set(count, self.memory.registers[count] + 1)?;
        self.set(count + 1, self.position)?;
        Ok(Progress::To(body))
    }

    fn look(
        &mut self,
        mark: usize,
        behind: Option<u64>,
        negated: bool,
        end: usize,
        steps: &mut Steps,
    ) -> Result<Progress, PatternError> {
        let position = self.position;
        let mut from = position;
        for _ in 0..behind.unwrap_or(0) {
            steps.take(1)?;
            let Some(c) = self.text[..from].chars().next_back() else {
                return Ok(if negated {
                    Progress::To(end)
                } else {
                    Progress::Fails
                });
            };
            from -= c.len_utf8();
        }
        self.set(mark + 1, position)?;
        let len = self.memory.trail.len() + 1;
        self.set(mark, len)?;
        if negated {
            self.remember(Step::Way { at: end, position })?;
        }
        self.position = from;
        Ok(Progress::Next)
    }
}

/// Returns the bytes of `rest` that equal `captured` once both went through `fold`; `None` if they differ.
fn same_len(captured: &str, rest: &str, fold: impl Fn(char) -> char) -> Option<usize> {
    let mut found = rest.chars();
    for c in captured.chars() {
        if fold(found.next()?) != fold(c) {
            return None;
        }
    }
    Some(rest.len() - found.as_str().len())
}

fn contains(set: &[(char, char)], c: char) -> bool {
    set.binary_search_by(|&(low, high)| {
        if high < c {
            std::cmp::Ordering::Less
        } else if low > c {
            std::cmp::Ordering::Greater
        } else {
            std::cmp::Ordering::Equal
        }
    })
    .is_ok()
}

/// A part that is still to be compiled. A list of these replaces the call stack, which a deep pattern must not
/// exhaust.
enum Task<'a> {
    Node(&'a Node),
    Emit(Instruction),
    /// Emits a jump to the later position of `place`.
    Leave {
        place: usize,
    },
    /// Begins a branch. Emits `TryElse` unless it is the last one.
    Branch {
        last: bool,
        next: usize,
    },
    /// Ends the round of a repetition.
    EndRound {
        number: usize,
    },
    /// Directs the instructions that lead to `place` here.
    Join {
        place: usize,
    },
}

struct Compiler<'a> {
    referenced: &'a [bool],
    code: Vec<Instruction>,
    sets: Vec<CharSet>,
    repetitions: Vec<Repetition>,
    register_count: usize,
    todo: Vec<Task<'a>>,
    /// For each place, the instructions that lead there.
    leaving: Vec<Vec<usize>>,
    /// Known sets, by the text of their class.
    known: HashMap<String, usize>,
}

impl<'a> Compiler<'a> {
    fn new(referenced: &'a [bool]) -> Self {
        Self {
            referenced,
            code: Vec::new(),
            sets: Vec::new(),
            repetitions: Vec::new(),
            register_count: 2 * referenced.len(),
            todo: Vec::new(),
            leaving: Vec::new(),
            known: HashMap::new(),
        }
    }

    fn compile(mut self, body: &'a Alternatives) -> Result<Program, PatternError> {
        self.todo.push(Task::Emit(Instruction::Match));
        self.alternatives(body);
        while let Some(task) = self.todo.pop() {
            if self.code.len() > PROGRAM_COUNT_MAX {
                let text = format!("pattern has more than {PROGRAM_COUNT_MAX} parts");
                return Err(PatternError::TooExpensive(text));
            }
            match task {
                Task::Node(node) => self.node(node)?,
                Task::Emit(instruction) => self.code.push(instruction),
                Task::Leave { place } => {
                    self.leaving[place].push(self.code.len());
                    self.code.push(Instruction::Jump(0));
                }
                Task::Branch { last, next } => {
                    self.arrive(next);
                    if !last {
                        self.leaving[next + 1].push(self.code.len());
                        self.code.push(Instruction::TryElse(0));
                    }
                }
                Task::Join { place } => self.arrive(place),
                Task::EndRound { number } => {
                    let round = self.repetitions[number].body - 2;
                    self.code.push(Instruction::Jump(round));
                    self.repetitions[number].exit = self.code.len();
                }
            }
        }
        Ok(Program {
            code: self.code,
            sets: self.sets,
            repetitions: self.repetitions,
            register_count: self.register_count,
        })
    }

    fn place(&mut self) -> usize {
        self.leaving.push(Vec::new());
        self.leaving.len() - 1
    }

    /// Directs the instructions that lead to `place` here.
    fn arrive(&mut self, place: usize) {
        let here = self.code.len();
        for at in std::mem::take(&mut self.leaving[place]) {
            match &mut self.code[at] {
                Instruction::Jump(to) | Instruction::TryElse(to) => *to = here,
                Instruction::Test { no, .. } => *no = here,
                Instruction::Look { end, .. } => *end = here,
                _ => {}
            }
        }
    }

    fn registers(&mut self, count: usize) -> usize {
        self.register_count += count;
        self.register_count - count
    }

    fn sequence(&mut self, sequence: &'a [Node]) {
        self.todo.extend(sequence.iter().rev().map(Task::Node));
    }

    fn alternatives(&mut self, alternatives: &'a Alternatives) {
        let count = alternatives.sequences.len();
        let end = self.place();
        // The beginnings of the branches are consecutive places.
        let first = self.leaving.len();
        (0..count).for_each(|_| {
            self.place();
        });
        self.todo.push(Task::Join { place: end });
        for (index, sequence) in alternatives.sequences.iter().enumerate().rev() {
            let last = index + 1 == count;
            if !last {
                self.todo.push(Task::Leave { place: end });
            }
            self.sequence(sequence);
            let next = first + index;
            self.todo.push(Task::Branch { last, next });
        }
    }

    fn node(&mut self, node: &'a Node) -> Result<(), PatternError> {
        match node {
            Node::Literal(c, flags) => self.literal(*c, *flags)?,
            Node::Any(flags) => self.code.push(Instruction::Any {
                newline: flags.dot_all,
            }),
            Node::Class {
                negated,
                items,
                flags,
            } => {
                let set = self.set(*negated, items, *flags)?;
                self.code.push(Instruction::Set(set));
            }
            Node::Anchor(anchor, flags) => self.anchor(*anchor, *flags)?,
            Node::Group(Some(number), body) if self.is_referenced(*number) => {
                self.code.push(Instruction::Save(2 * number));
                self.todo
                    .push(Task::Emit(Instruction::Save(2 * number + 1)));
                self.alternatives(body);
            }
            Node::Group(_, body) => self.alternatives(body),
            Node::BackReference(group, flags) => {
                let case = match (flags.ignore_case, flags.ascii) {
                    (false, _) => Case::Counts,
                    (true, true) => Case::Ascii,
                    (true, false) => Case::Unicode,
                };
                let group = *group;
                self.code.push(Instruction::BackReference { group, case });
            }
            Node::Conditional { group, yes, no, .. } => self.conditional(*group, yes, no),
            Node::Look {
                behind,
                negated,
                body,
            } => {
                let behind = behind.then_some(body.width.0);
                self.look(behind, *negated, body);
            }
            Node::Atomic(body) => {
                self.atomic();
                self.alternatives(body);
            }
            Node::Repeat {
                min,
                max,
                greed,
                body,
            } => self.repeat(*min, *max, *greed, body),
        }
        Ok(())
    }

    fn is_referenced(&self, group: usize) -> bool {
        self.referenced.get(group).is_some_and(|is| *is)
    }

    fn literal(&mut self, c: u32, flags: Flags) -> Result<(), PatternError> {
        let instruction = match char::from_u32(c) {
            Some(c) if !flags.ignore_case => Instruction::Char(c),
            // A lone surrogate becomes an empty set.
            _ => Instruction::Set(self.set(false, &[ClassItem::Range(c, c)], flags)?),
        };
        self.code.push(instruction);
        Ok(())
    }

    fn set(
        &mut self,
        negated: bool,
        items: &[ClassItem],
        flags: Flags,
    ) -> Result<usize, PatternError> {
        let text = class_text(negated, items, flags);
        if let Some(&set) = self.known.get(&text) {
            return Ok(set);
        }
        self.sets.push(char_set(&text)?);
        let set = self.sets.len() - 1;
        self.known.insert(text, set);
        Ok(set)
    }

    fn anchor(&mut self, anchor: Anchor, flags: Flags) -> Result<(), PatternError> {
        let lines = flags.multi_line;
        let instruction = match anchor {
            Anchor::LineStart => Instruction::Start { lines },
            Anchor::TextStart => Instruction::Start { lines: false },
            Anchor::LineEnd => Instruction::End { lines },
            Anchor::TextEnd => Instruction::TextEnd,
            Anchor::WordBoundary | Anchor::NotWordBoundary => {
                let negated = anchor == Anchor::NotWordBoundary;
                let flags = Flags {
                    ascii: flags.ascii,
                    ..Flags::default()
                };
                let word = self.set(false, &[WORD], flags)?;
                Instruction::Boundary { word, negated }
            }
        };
        self.code.push(instruction);
        Ok(())
    }

    fn conditional(&mut self, group: usize, yes: &'a [Node], no: &'a [Node]) {
        let (otherwise, end) = (self.place(), self.place());
        self.leaving[otherwise].push(self.code.len());
        self.code.push(Instruction::Test { group, no: 0 });
        self.todo.push(Task::Join { place: end });
        self.sequence(no);
        self.todo.push(Task::Join { place: otherwise });
        self.todo.push(Task::Leave { place: end });
        self.sequence(yes);
    }

    fn look(&mut self, behind: Option<u64>, negated: bool, body: &'a Alternatives) {
        let mark = self.registers(2);
        let end = self.place();
        self.leaving[end].push(self.code.len());
        self.code.push(Instruction::Look {
            mark,
            behind,
            negated,
            end: 0,
        });
        self.todo.push(Task::Join { place: end });
        self.todo
            .push(Task::Emit(Instruction::Found { mark, negated }));
        self.alternatives(body);
    }

    /// Makes the part that is compiled next atomic: the engine does not go back into it.
    fn atomic(&mut self) {
        let register = self.registers(1);
        self.code.push(Instruction::Mark(register));
        self.todo.push(Task::Emit(Instruction::Cut(register)));
    }

    fn repeat(&mut self, min: u32, max: Option<u32>, greed: Greed, body: &'a Node) {
        // CPython's possessive repetition also never goes back into one of its rounds.
        let possessive = greed == Greed::Possessive;
        if possessive {
            self.atomic();
        }
        let count = self.registers(2);
        self.code.push(Instruction::Reset { count });
        let number = self.repetitions.len();
        self.code.push(Instruction::Round(number));
        self.code.push(Instruction::Enter(number));
        self.repetitions.push(Repetition {
            min: min as usize,
            max: max.map_or(usize::MAX, |max| max as usize),
            lazy: greed == Greed::Lazy,
            count,
            body: self.code.len(),
            exit: 0,
        });
        self.todo.push(Task::EndRound { number });
        if possessive {
            self.atomic();
        }
        self.todo.push(Task::Node(body));
    }
}

/// Returns the characters of a class that [`class_text`] wrote.
fn char_set(text: &str) -> Result<CharSet, PatternError> {
    use regex_syntax::hir::{Class, HirKind};
    let hir = regex_syntax::Parser::new()
        .parse(text)
        .map_err(|error| PatternError::TooExpensive(error.to_string()))?;
    Ok(match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => class
            .ranges()
            .iter()
            .map(|range| (range.start(), range.end()))
            .collect(),
        HirKind::Literal(literal) => std::str::from_utf8(&literal.0)
            .unwrap_or_default()
            .chars()
            .map(|c| (c, c))
            .collect(),
        // The class is empty.
        _ => Vec::new(),
    })
}
