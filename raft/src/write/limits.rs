//! Limits on commands, log entries, replies and sessions, and the proof that they fit into each other.
//!
//! Every proposal must reach each member in one message, must be readable from every disk, and must leave only
//! small replies behind, whatever the command was. The compiler checks that here.

use hearth_storage::command::REFUSAL_TEXT_LEN_MAX;

use crate::codec;
use crate::rpc::frame::BODY_LEN_MAX;
use crate::store::session::WINDOW;
use crate::types::NumberedCommand;

/// Maximum number of bytes of one command, including the lengths of its texts. A larger command is refused
/// before it is proposed. The largest message of a client has 64 MiB.
pub const COMMAND_LEN_MAX: usize = 68 << 20;

/// Maximum number of commands in one log entry.
pub(crate) const ENTRY_COMMANDS_MAX: usize = 512;

/// Maximum number of bytes of the commands in one log entry, approximately. A single command may exceed it.
pub(crate) const ENTRY_LEN_MAX: usize = 1 << 20;

/// Maximum number of bytes of one reply, with its number, in a session's record or in an answer to another
/// node.
pub(crate) const REPLY_LEN_MAX: usize = REFUSAL_TEXT_LEN_MAX + 64;

/// Limit on the bytes of a message around its payload: votes, log ids, lengths.
const MESSAGE_OVERHEAD: usize = 1 << 10;

/// Maximum number of bytes of the commands in the largest log entry. A batch stops growing once it has
/// [`ENTRY_LEN_MAX`], and its last command may exceed that.
const PACKAGE_LEN_MAX: usize = ENTRY_LEN_MAX + COMMAND_LEN_MAX + codec::NUMBER_LEN_MAX;

// An append with such an entry carries no other entry.
const _: () = assert!(PACKAGE_LEN_MAX + MESSAGE_OVERHEAD <= BODY_LEN_MAX);
// The answer to a batch and the record of its replies are never larger than the commands of a batch may be, so
// they fit wherever those fit.
const _: () = assert!(ENTRY_COMMANDS_MAX * REPLY_LEN_MAX + MESSAGE_OVERHEAD <= ENTRY_LEN_MAX);
// Limits the replies that a session keeps until they are acknowledged to 2 MiB.
const _: () = assert!(WINDOW as usize * REPLY_LEN_MAX <= 2 << 20);

/// Refuses a list of another node that does not fit into one log entry, because it could never be replicated.
///
/// # Errors
/// The reason for the refusal.
pub(crate) fn check_list(list: &[NumberedCommand]) -> Result<(), String> {
    let len: usize = list.iter().map(codec::numbered_len).sum();
    let count = list.len();
    if count <= ENTRY_COMMANDS_MAX && len <= PACKAGE_LEN_MAX {
        return Ok(());
    }
    Err(format!(
        "a log entry has at most {ENTRY_COMMANDS_MAX} commands of {PACKAGE_LEN_MAX} bytes together, and not {count} \
         of {len}"
    ))
}

#[cfg(test)]
#[path = "limits_test.rs"]
mod tests;
