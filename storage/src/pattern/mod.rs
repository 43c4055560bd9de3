//! Python's regular expressions, refused and matched as Python does, in bounded time.
//!
//! The name server's `list` and `remove` take patterns in the syntax of Python's `re` and match them at the
//! start of names (`re.match`). A pattern is parsed by Python's rules, so that a pattern that Python refuses is
//! refused with the same text. One of two engines runs it: an automaton, which is linear in the text, or a
//! backtracking engine for patterns that look around or back. Both count their steps, so that all names that
//! one call tries share one budget. Nothing runs without a bound, and the depth of a pattern does not show on
//! the stack of the thread.

mod ast;
mod backtrack;
mod emit;
mod linear;
mod parser;
mod steps;

use std::fmt;
use std::sync::Arc;

use backtrack::Program;
use linear::Linear;
pub use steps::{STEP_COUNT_MAX, Steps};

/// Maximum number of code points in a pattern.
const SOURCE_LEN_MAX: usize = 10_000;

/// A compiled pattern in the syntax of Python's `re`. It matches at the start of a name (`re.match`). Clones
/// are cheap.
#[derive(Clone)]
pub struct Pattern(Arc<Compiled>);

struct Compiled {
    source: String,
    literal_prefix: String,
    is_prefix: bool,
    engine: Engine,
}

enum Engine {
    Linear(Box<Linear>),
    Backtracking(Program),
}

/// The reason why a pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Python refuses the pattern; the text of `re.error`, including the position.
    #[error("{0}")]
    Syntax(String),
    /// Python raises `OverflowError`.
    #[error("the repetition number is too large")]
    RepetitionTooLarge,
    /// Python raises `RecursionError`.
    #[error("maximum recursion depth exceeded")]
    TooDeep,
    /// Python raises `ValueError`.
    #[error("ASCII and UNICODE flags are incompatible")]
    FlagConflict,
    /// The pattern is valid, but compiling or running it would exceed a bound.
    #[error("{0}")]
    TooExpensive(String),
}

impl Pattern {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`PatternError`] if Python refuses the pattern, or if it exceeds a bound of this module.
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        let len = source.chars().count();
        if len > SOURCE_LEN_MAX {
            let text = format!("pattern too long ({len} characters, max={SOURCE_LEN_MAX})");
            return Err(PatternError::TooExpensive(text));
        }
        let parsed = parser::parse(source)?;
        let (literal_prefix, is_prefix) = emit::literal_prefix(&parsed.body);
        let engine = match emit::emit(&parsed.body) {
            Some(pattern) => Engine::Linear(Box::new(Linear::new(&pattern)?)),
            None => Engine::Backtracking(Program::new(&parsed.body, &parsed.referenced)?),
        };
        Ok(Self(Arc::new(Compiled {
            source: source.to_owned(),
            literal_prefix,
            is_prefix,
            engine,
        })))
    }

    /// Returns the source text.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Returns the text that every match starts with; empty if there is none. Only names with this prefix need
    /// to be tried.
    pub fn literal_prefix(&self) -> &str {
        &self.0.literal_prefix
    }

    /// Returns the literal prefix if the pattern matches all names that start with it and no others.
    pub fn as_prefix(&self) -> Option<&str> {
        self.0.is_prefix.then_some(self.literal_prefix())
    }

    /// Begins to try the pattern on names, within `steps` for all of them.
    pub fn search(&self, steps: Steps) -> Search<'_> {
        let memory = match &self.0.engine {
            Engine::Linear(linear) => Memory::Linear(linear, Box::new(linear.cache())),
            Engine::Backtracking(program) => Memory::Backtracking(program, Default::default()),
        };
        Search { steps, memory }
    }

    /// Returns true if the pattern matches at the start of `name`. For many names see [`Self::search`].
    ///
    /// # Errors
    /// [`PatternError::TooExpensive`] if that takes more steps than a whole call may take.
    pub fn matches(&self, name: &str) -> Result<bool, PatternError> {
        self.search(Steps::default()).matches(name)
    }
}

/// A pattern that is tried on one name after the other, within one budget of steps.
pub struct Search<'a> {
    steps: Steps,
    memory: Memory<'a>,
}

enum Memory<'a> {
    Linear(&'a Linear, Box<linear::Cache>),
    Backtracking(&'a Program, backtrack::Memory),
}

impl Search<'_> {
    /// Returns true if the pattern matches at the start of `name`.
    ///
    /// # Errors
    /// [`PatternError::TooExpensive`] once the steps run out, and for every later call.
    pub fn matches(&mut self, name: &str) -> Result<bool, PatternError> {
        match &mut self.memory {
            Memory::Linear(linear, cache) => linear.matches(name, cache, &mut self.steps),
            Memory::Backtracking(program, memory) => program.matches(name, memory, &mut self.steps),
        }
    }
}

impl fmt::Debug for Search<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.0.source).finish()
    }
}
