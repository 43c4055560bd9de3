//! Limits on the memory that a peer can make the receiver allocate.

/// Limits that are checked before memory is allocated. Sizes are in bytes.
///
/// The number of annotation chunks of one message has a fixed limit,
/// [`crate::frame::ANNOTATION_COUNT_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum length of payload plus annotations of one message, inclusive (`MAX_MESSAGE_SIZE`).
    /// Pyro4's 0 for "no limit" has no special meaning here: 0 allows empty messages only. The code
    /// that reads the settings must translate it.
    pub message_len_max: usize,
    /// Maximum length of a payload after decompression.
    pub inflated_len_max: usize,
    /// Maximum number of nested brackets in one payload. Python's own parser stops at 200.
    pub depth_max: usize,
    /// Maximum number of values in one payload. Each item, key and string counts as one.
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
