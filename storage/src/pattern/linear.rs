//! Runs a pattern that looks nowhere around: a deterministic automaton that is built while it runs, so that each
//! byte costs one step, or as many as the pattern has states where the automaton is not built yet.

use regex_automata::hybrid::dfa::{self, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

use super::PatternError;
use super::steps::Steps;

/// Bytes of a compiled pattern.
const PROGRAM_LEN_MAX: usize = 16 << 20;

/// Bytes of the automaton, unless one state takes more.
const CACHE_LEN_MAX: usize = 2 << 20;

/// Brackets in brackets; Python's own limit, with those that the translation adds.
const NEST_LIMIT: u32 = 2_000;

/// What a state of the pattern costs where the automaton is built, compared to a byte where it is.
const STATE_COST: u64 = 8;

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Linear {
    dfa: DFA,
    build_cost: u64,
}

/// Where the automaton is built.
pub(super) type Cache = dfa::Cache;

impl Linear {
    /// Compiles what [`super::emit::emit`] wrote.
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

    /// An automaton of which nothing is built.
    pub(super) fn cache(&self) -> Cache {
        self.dfa.create_cache()
    }

    /// Whether it matches at the start of `text`.
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
        // What may have to be built at both ends.
        steps.take(1)?;
        let input = Input::new(text).anchored(Anchored::Yes);
        let mut state = dfa
            .start_state_forward(cache, &input)
            .map_err(|error| too_expensive(&error))?;
        for &byte in text.as_bytes() {
            steps.take(1)?;
            if state.is_tagged() {
                // Matches show one byte late.
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
                    // Twice: the state that is built has to be asked for its end, too.
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

/// The engine's errors are about size and depth: whatever else is wrong with a pattern, the parser has refused
/// it.
fn too_expensive(error: &(dyn std::error::Error + 'static)) -> PatternError {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    let reason = text.lines().last().unwrap_or("unknown").trim();
    PatternError::TooExpensive(format!("pattern cannot be run in bounded time: {reason}"))
}
