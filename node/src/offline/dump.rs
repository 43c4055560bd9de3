//! `hearthd dump`: names as JSON lines, as `nsctl` prints them.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use hearth_raft::offline;
use hearth_storage::Entry;
use serde::Serialize;

use super::{EXIT_FAILURE, Outcome, on_stdout, say};

/// One line.
#[derive(Serialize)]
struct Name<'a> {
    name: &'a str,
    uri: &'a str,
    metadata: Vec<&'a str>,
}

pub(super) fn run(folder: &Path) -> Outcome {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut is_damaged = false;
    offline::dump(
        folder,
        &mut |name, entry| write_line(&mut out, name, entry).map_err(on_stdout),
        &mut |reason| {
            is_damaged = true;
            say(&format_args!("damaged: {reason}"));
        },
    )?;
    out.flush().map_err(on_stdout)?;
    Ok(if is_damaged {
        ExitCode::from(EXIT_FAILURE)
    } else {
        ExitCode::SUCCESS
    })
}

fn write_line(out: &mut impl Write, name: &str, entry: &Entry) -> io::Result<()> {
    let line = Name {
        name,
        uri: &entry.uri,
        metadata: entry.tags.iter().map(String::as_str).collect(),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}
