//! The budget that a call may spend on its pattern.

use super::PatternError;

/// Maximum number of steps of one call over all names that it tries: about a second. A byte of a name takes one
/// step where the automaton is already built; ten million names of fifty bytes take half of the budget.
pub const STEP_COUNT_MAX: u64 = 1_000_000_000;

/// A budget of steps. It counts work and not time, so that the refusal of a pattern does not depend on the load
/// of the machine.
#[derive(Debug, Clone)]
pub struct Steps {
    left: u64,
    max: u64,
}

impl Default for Steps {
    fn default() -> Self {
        Self::new(STEP_COUNT_MAX)
    }
}

impl Steps {
    /// Creates a budget of `max` steps.
    pub fn new(max: u64) -> Self {
        Self { left: max, max }
    }

    /// Spends `count` steps. Fails if fewer are left.
    #[inline]
    pub(super) fn take(&mut self, count: u64) -> Result<(), PatternError> {
        match self.left.checked_sub(count) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.spent()),
        }
    }

    #[cold]
    fn spent(&mut self) -> PatternError {
        self.left = 0;
        PatternError::TooExpensive(format!(
            "matching all names takes more than {} steps; begin the pattern with the text that the names begin \
             with, or use a simpler one",
            self.max
        ))
    }
}
