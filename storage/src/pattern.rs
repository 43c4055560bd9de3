//! Python's regular expressions, refused and matched as Python does, in bounded time.

/// A pattern in the syntax of Python's `re`, compiled; matches at the start of a name (`re.match`).
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
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
    /// The pattern is valid, but compiling or running it would exceed a bound.
    #[error("{0}")]
    TooExpensive(String),
}

impl Pattern {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        Ok(Self {
            source: source.to_owned(),
        })
    }

    /// The text it was made from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text that every match starts with; empty when there is none. Only names with this prefix
    /// need to be tried.
    pub fn literal_prefix(&self) -> &str {
        ""
    }

    /// Whether it matches at the start of `name`.
    ///
    /// # Errors
    /// [`PatternError::TooExpensive`] when the match exceeds its step limit.
    pub fn matches(&self, name: &str) -> Result<bool, PatternError> {
        let _ = name;
        unimplemented!()
    }
}
