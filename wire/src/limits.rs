//! What a peer may ask us to hold.

/// Bounds that are checked before memory is taken. Sizes are in bytes.
///
/// The number of annotation chunks of one message has a fixed bound,
/// [`crate::frame::ANNOTATION_COUNT_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Payload plus annotations of one message, inclusive (`MAX_MESSAGE_SIZE`). Pyro4's 0 for "no
    /// limit" is for whoever reads the settings to translate: here 0 allows empty messages only.
    pub message_len_max: usize,
    /// A payload after decompression.
    pub inflated_len_max: usize,
    /// Brackets open at once in one payload; Python's own parser stops at 200.
    pub depth_max: usize,
    /// Values in one payload: items, keys and strings counted one each.
    pub value_count_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_len_max: 64 << 20,
            inflated_len_max: 64 << 20,
            depth_max: 200,
            value_count_max: 4_000_000,
        }
    }
}
