//! How much a command, a log entry, a reply and a session may hold, and that these bounds fit into each other.
//!
//! Whatever is proposed must reach every member in one message, be read again from every disk, and leave replies
//! behind that are small whatever was asked. The compiler checks that here.

use hearth_storage::command::REFUSAL_TEXT_LEN_MAX;

use crate::codec;
use crate::rpc::frame::BODY_LEN_MAX;
use crate::store::session::WINDOW;
use crate::types::NumberedCommand;

/// Bytes of one command, the lengths of its texts included; a larger one is
/// refused before it is proposed. The largest message of a client has 64 MiB.
pub const COMMAND_LEN_MAX: usize = 68 << 20;

/// Commands in one log entry.
pub(crate) const ENTRY_COMMANDS_MAX: usize = 512;

/// Bytes of commands in one log entry, about, unless one command alone has more.
pub(crate) const ENTRY_LEN_MAX: usize = 1 << 20;

/// Bytes of one reply, with its number, in a session's record or an answer to another node.
pub(crate) const REPLY_LEN_MAX: usize = REFUSAL_TEXT_LEN_MAX + 64;

/// Bytes of a message around what it carries: votes, log ids, lengths.
const MESSAGE_OVERHEAD: usize = 1 << 10;

/// Bytes of the commands in the largest log entry: a package stops growing once it has [`ENTRY_LEN_MAX`], and the
/// last command comes on top.
const PACKAGE_LEN_MAX: usize = ENTRY_LEN_MAX + COMMAND_LEN_MAX + codec::NUMBER_LEN_MAX;

// An append that carries such an entry carries nothing else.
const _: () = assert!(PACKAGE_LEN_MAX + MESSAGE_OVERHEAD <= BODY_LEN_MAX);
// The answer to a package, and the record of its replies, are never what decides.
const _: () = assert!(ENTRY_COMMANDS_MAX * REPLY_LEN_MAX + MESSAGE_OVERHEAD <= ENTRY_LEN_MAX);
// What a session keeps until it is acknowledged.
const _: () = assert!(WINDOW as usize * REPLY_LEN_MAX <= 2 << 20);

/// Refuses a list of another node that does not fit into one log entry: it could never be replicated.
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
