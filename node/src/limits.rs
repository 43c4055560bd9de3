//! The bounds on what clients send, made to fit each other and what nodes can send each other.

use hearth_raft::COMMAND_LEN_MAX;
use hearth_wire::Limits;

use crate::config::DEFAULTS;
use crate::pyro::DEFAULT_LIMITS;

/// Bytes of the largest message that may be allowed: what it asks for must fit into one command. There lengths
/// are counted as well, of up to [`TEXT_OVERHEAD`] bytes for each of the texts.
pub(crate) const MESSAGE_LEN_MAX: usize = 64 << 20;

/// Bytes that a text takes in a command beside itself.
const TEXT_OVERHEAD: usize = 9;

const _: () =
    assert!(MESSAGE_LEN_MAX + DEFAULT_LIMITS.value_count_max * TEXT_OVERHEAD <= COMMAND_LEN_MAX);

/// How large a client's message, and a registration in it, may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientLimits {
    /// Bytes of a message, also once it is inflated. `None`: the default.
    pub(crate) message_len_max: Option<usize>,
    /// Bytes of name, URI and tags of a registration together. `None`: the default, or what a message may hold
    /// if that is less.
    pub(crate) registration_len_max: Option<usize>,
}

impl ClientLimits {
    /// The bounds in force, and what is to be said about one that was lowered.
    ///
    /// # Errors
    /// Why a registration may not be as large as it was asked for.
    pub(crate) fn fit(self) -> Result<(Limits, usize, Option<String>), String> {
        let asked = self
            .message_len_max
            .unwrap_or(DEFAULT_LIMITS.message_len_max);
        let message = asked.min(MESSAGE_LEN_MAX);
        let notice = (asked > MESSAGE_LEN_MAX).then(|| {
            format!(
                "MAX_MESSAGE_SIZE={asked} is more than nodes can send each other in one piece; messages of \
                 clients stay bounded by {MESSAGE_LEN_MAX} bytes"
            )
        });
        let registration = match self.registration_len_max {
            Some(len) if len > message => {
                return Err(format!(
                    "a registration of {len} bytes does not fit into a message, which has at most {message} \
                     (max-message-size, at most {MESSAGE_LEN_MAX})"
                ));
            }
            Some(len) => len,
            None => DEFAULTS.registration_len_max.min(message),
        };
        let limits = Limits {
            message_len_max: message,
            inflated_len_max: message,
            ..DEFAULT_LIMITS
        };
        Ok((limits, registration, notice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(
        message_len_max: impl Into<Option<usize>>,
        registration_len_max: impl Into<Option<usize>>,
    ) -> Result<(usize, usize, bool), String> {
        let limits = ClientLimits {
            message_len_max: message_len_max.into(),
            registration_len_max: registration_len_max.into(),
        };
        let (limits, registration, notice) = limits.fit()?;
        assert_eq!(limits.inflated_len_max, limits.message_len_max);
        Ok((limits.message_len_max, registration, notice.is_some()))
    }

    #[test]
    fn limits_that_depend_on_each_other_fit() {
        assert_eq!(fit(None, None), Ok((8 << 20, 1 << 20, false)));
        assert_eq!(fit(None, 8 << 20), Ok((8 << 20, 8 << 20, false)));
        // Small messages leave no room for the default.
        assert_eq!(fit(1000, None), Ok((1000, 1000, false)));
        // Pyro5's own default.
        assert_eq!(fit(1 << 30, None), Ok((64 << 20, 1 << 20, true)));
        assert_eq!(fit(1 << 30, 64 << 20), Ok((64 << 20, 64 << 20, true)));
        let refused = fit(None, (8 << 20) + 1).expect_err("larger than a message");
        assert!(
            refused.contains("8388609") && refused.contains("8388608"),
            "{refused}"
        );
        assert!(fit(1 << 30, (64 << 20) + 1).is_err());
    }
}
