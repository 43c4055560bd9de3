//! What a call may spend on its pattern.

use super::PatternError;

/// Steps that one call may take, over all names that it tries: about a second. A byte of a name in an automaton
/// that is built is one; ten million names of fifty bytes take half of it.
pub const STEP_COUNT_MAX: u64 = 1_000_000_000;

/// A budget. It counts work and not time, so that a pattern is refused or not whatever else the machine does.
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
    /// A budget of `max` steps.
    pub fn new(max: u64) -> Self {
        Self { left: max, max }
    }

    /// Spends some of it.
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
