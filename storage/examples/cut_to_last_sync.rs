//! Removes from a data directory what a power failure would have taken.
//!
//! `cut_to_last_sync FOLDER RECORD`: FOLDER is the data directory of a server that was killed, and RECORD the
//! record of syncs that it kept (`HEARTH_SYNC_RECORD`).

use std::path::Path;
use std::process::ExitCode;

use hearth_storage::store::rocks::lost_writes;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [folder, record] = arguments.as_slice() else {
        eprintln!("usage: cut_to_last_sync FOLDER RECORD");
        return ExitCode::from(2);
    };
    match lost_writes::cut_to_last_sync(Path::new(folder), Path::new(record)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cut_to_last_sync: {error}");
            ExitCode::FAILURE
        }
    }
}
