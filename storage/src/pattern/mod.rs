//! Python's regular expressions, refused and matched as Python does, in bounded time.
//!
//! The name server's `list` and `remove` take patterns in the syntax of Python's `re` and match them
//! at the start of names (`re.match`). A pattern is parsed here by Python's rules, so that what Python
//! refuses is refused in its words, and then written anew for an engine: `regex`, which is linear in
//! the text, or `fancy-regex` with a step limit where a pattern looks around or back. What this module
//! does not do: run anything without a bound.

mod ast;
mod emit;
mod parser;

use std::fmt;
use std::sync::Arc;

/// Code points in a pattern; a longer one is refused.
const SOURCE_LEN_MAX: usize = 10_000;

/// Bytes of a compiled pattern.
const PROGRAM_LEN_MAX: usize = 16 << 20;

/// Bytes of the linear engine's cache.
const CACHE_LEN_MAX: usize = 2 << 20;

/// Steps back that one match may take.
const BACKTRACK_LIMIT: usize = 1_000_000;

/// Brackets in brackets that the linear engine's parser accepts; Python's own limit, with those that
/// the translation adds.
const NEST_LIMIT: u32 = 2_000;

/// A pattern in the syntax of Python's `re`, compiled; matches at the start of a name (`re.match`).
/// Cheap to clone.
#[derive(Clone)]
pub struct Pattern(Arc<Compiled>);

struct Compiled {
    source: String,
    literal_prefix: String,
    engine: Engine,
}

enum Engine {
    Linear(regex::Regex),
    Backtracking(fancy_regex::Regex),
}

/// Why a pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Python refuses it; the text of `re.error`, position included.
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
    /// [`PatternError`]: what Python refuses, and what would exceed a bound of ours.
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        let len = source.chars().count();
        if len > SOURCE_LEN_MAX {
            let text = format!("pattern too long ({len} characters, max={SOURCE_LEN_MAX})");
            return Err(PatternError::TooExpensive(text));
        }
        let emitted = translate(source)?;
        let engine = if emitted.is_fancy {
            Engine::Backtracking(backtracking(&emitted.pattern)?)
        } else {
            Engine::Linear(linear(&emitted.pattern)?)
        };
        let literal_prefix = emitted.literal_prefix;
        Ok(Self(Arc::new(Compiled {
            source: source.to_owned(),
            literal_prefix,
            engine,
        })))
    }

    /// The text it was made from.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The text that every match starts with; empty when there is none. Only names with this prefix
    /// need to be tried.
    pub fn literal_prefix(&self) -> &str {
        &self.0.literal_prefix
    }

    /// Whether it matches at the start of `name`.
    ///
    /// # Errors
    /// [`PatternError::TooExpensive`] when the match exceeds its step limit.
    pub fn matches(&self, name: &str) -> Result<bool, PatternError> {
        match &self.0.engine {
            Engine::Linear(regex) => Ok(regex.is_match(name)),
            Engine::Backtracking(regex) => regex.is_match(name).map_err(|_| {
                let text = format!("matching {name:?} takes more than {BACKTRACK_LIMIT} steps");
                PatternError::TooExpensive(text)
            }),
        }
    }
}

/// Brackets up to which a pattern is translated on the caller's stack.
const SHALLOW_BRACKET_COUNT: usize = 40;

/// Stack for the deepest pattern that Python accepts, with room to spare in a debug build.
const DEEP_STACK_LEN: usize = 32 << 20;

fn translate(source: &str) -> Result<emit::Emitted, PatternError> {
    let translate = || emit::emit(&parser::parse(source)?);
    if source.bytes().filter(|byte| *byte == b'(').count() <= SHALLOW_BRACKET_COUNT {
        return translate();
    }
    // Parser and emitter call themselves once a bracket: a thread of its own has stack enough.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .stack_size(DEEP_STACK_LEN)
            .spawn_scoped(scope, translate);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(emitted)) => emitted,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(PatternError::TooExpensive(format!(
                "no thread for a deep pattern: {error}"
            ))),
        }
    })
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.0.source).finish()
    }
}

fn linear(pattern: &str) -> Result<regex::Regex, PatternError> {
    regex::RegexBuilder::new(pattern)
        .size_limit(PROGRAM_LEN_MAX)
        .dfa_size_limit(CACHE_LEN_MAX)
        .nest_limit(NEST_LIMIT)
        .build()
        .map_err(|error| too_expensive(&error))
}

fn backtracking(pattern: &str) -> Result<fancy_regex::Regex, PatternError> {
    fancy_regex::RegexBuilder::new(pattern)
        .backtrack_limit(BACKTRACK_LIMIT)
        .delegate_size_limit(PROGRAM_LEN_MAX)
        .delegate_dfa_size_limit(CACHE_LEN_MAX)
        .build()
        .map_err(|error| too_expensive(&error))
}

/// The engines' errors are about size and depth: whatever else is wrong with a pattern, the parser has
/// refused it.
fn too_expensive(error: &dyn fmt::Display) -> PatternError {
    let text = error.to_string();
    let reason = text.lines().last().unwrap_or("unknown").trim();
    PatternError::TooExpensive(format!("pattern cannot be run in bounded time: {reason}"))
}
