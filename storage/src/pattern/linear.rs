//! The linear engine, for patterns that do not look around. It runs a deterministic automaton that is built
//! while it runs: each byte costs one step, or a multiple of the pattern's states where the automaton is not
//! built yet.

use regex_automata::hybrid::dfa::{self, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

use super::PatternError;
use super::steps::Steps;

/// Maximum number of bytes of a compiled pattern.
const PROGRAM_LEN_MAX: usize = 16 << 20;

/// Maximum number of bytes of the automaton, unless one state takes more.
const CACHE_LEN_MAX: usize = 2 << 20;

/// Maximum nesting of brackets: Python's own limit, with the brackets that the translation adds.
const NEST_LIMIT: u32 = 2_000;

/// Steps for each state of the pattern where the automaton is built. A byte takes one step where it is built
/// already.
const STATE_COST: u64 = 8;

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Linear {
    dfa: DFA,
    build_cost: u64,
}

/// The memory in which the automaton is built.
pub(super) type Cache = dfa::Cache;

impl Linear {
    /// Compiles the output of [`super::emit::emit`].
    ///
    /// # Errors
    /// [`PatternError::TooExpensive`].
    pub(super) fn new(pattern: &str) -> Result<Self, PatternError> {
        let syntax = syntax::Config::new().nest_limit(NEST_LIMIT);
        let nfa = thompson::Config::new()
            .nfa_size_limit(Some(PROGRAM_LEN_MAX))
            .which_captures(WhichCaptures::None);
        let config = DFA::config()
            .cache_capacity(CACHE_LEN_MAX)
            .skip_cache_capacity_check(true);
        let dfa = DFA::builder()
            .syntax(syntax)
            .thompson(nfa)
            .configure(config)
            .build(pattern)
            .map_err(|error| too_expensive(&error))?;
        let state_count = dfa.get_nfa().states().len() as u64;
        Ok(Self {
            dfa,
            build_cost: STATE_COST * (state_count + 1),
        })
    }

    /// Returns an automaton of which nothing is built.
    pub(super) fn cache(&self) -> Cache {
        self.dfa.create_cache()
    }

    /// Returns true if the pattern matches at the start of `text`.
    ///
    /// # Errors
    /// [`PatternError::TooExpensive`] when `steps` run out.
    pub(super) fn matches(
        &self,
        text: &str,
        cache: &mut Cache,
        steps: &mut Steps,
    ) -> Result<bool, PatternError> {
        let dfa = &self.dfa;
        // This step is for the states that may have to be built at both ends.
        steps.take(1)?;
        let input = Input::new(text).anchored(Anchored::Yes);
        let mut state = dfa
            .start_state_forward(cache, &input)
            .map_err(|error| too_expensive(&error))?;
        for &byte in text.as_bytes() {
            steps.take(1)?;
            if state.is_tagged() {
                // The engine reports matches one byte late.
                if state.is_match() {
                    return Ok(true);
                }
                if state.is_dead() {
                    return Ok(false);
                }
            }
            let next = if state.is_tagged() {
                None
            } else {
                let next = dfa.next_state_untagged(cache, state, byte);
                (!next.is_unknown()).then_some(next)
            };
            state = match next {
                Some(next) => next,
                None => {
                    // The cost counts twice: the new state must also be asked for its end.
                    steps.take(2 * self.build_cost)?;
                    dfa.next_state(cache, state, byte)
                        .map_err(|error| too_expensive(&error))?
                }
            };
        }
        let end = dfa
            .next_eoi_state(cache, state)
            .map_err(|error| too_expensive(&error))?;
        Ok(state.is_match() || end.is_match())
    }
}

/// Converts an error of the engine. These errors are about size and depth: the parser has refused a pattern
/// with any other fault.
fn too_expensive(error: &(dyn std::error::Error + 'static)) -> PatternError {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    let reason = text.lines().last().unwrap_or("unknown").trim();
    PatternError::TooExpensive(format!("pattern cannot be run in bounded time: {reason}"))
}
