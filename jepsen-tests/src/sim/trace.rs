//! The trace of a simulation: everything that happened, in its order, as one hash.
//!
//! Two runs of one seed that differ anywhere differ in the hash. To see where, each is run once more with
//! [`FILE`] set, and the files are compared.

use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The environment variable that names a file for the trace, one line an event.
pub const FILE: &str = "HEARTH_SIM_TRACE";

struct Inner {
    hasher: DefaultHasher,
    count: u64,
    file: Option<BufWriter<File>>,
}

/// Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub(super) struct Trace(Arc<Mutex<Inner>>);

impl Trace {
    pub(super) fn new() -> Self {
        let file = std::env::var_os(FILE).and_then(|path| File::create(path).ok());
        Self(Arc::new(Mutex::new(Inner {
            hasher: DefaultHasher::new(),
            count: 0,
            file: file.map(BufWriter::new),
        })))
    }

    /// Takes note of what happened at `node`, now.
    pub(super) fn note(&self, kind: &'static str, node: u64, bytes: &[u8]) {
        let now = now();
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.count += 1;
        inner.hasher.write(kind.as_bytes());
        inner.hasher.write_u64(node);
        inner.hasher.write_u128(now.as_nanos());
        inner.hasher.write_usize(bytes.len());
        inner.hasher.write(bytes);
        if let Some(file) = &mut inner.file {
            let text = match std::str::from_utf8(bytes) {
                Ok(text) if kind != "sent" && kind != "came" => text.to_owned(),
                _ => {
                    let mut own = DefaultHasher::new();
                    own.write(bytes);
                    format!("{} bytes {:016x}", bytes.len(), own.finish())
                }
            };
            // A trace that cannot be written is missed by whoever asked for it.
            let _ = writeln!(file, "{:>14.6} {node} {kind} {text}", now.as_secs_f64());
        }
    }

    /// [`Self::note`] of what has a text.
    pub(super) fn say(&self, kind: &'static str, node: u64, text: &impl fmt::Debug) {
        self.note(kind, node, format!("{text:?}").as_bytes());
    }

    /// The hash of all events, and how many there were.
    pub(super) fn finish(&self) -> (u64, u64) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &mut inner.file {
            let _ = file.flush();
        }
        (inner.hasher.finish(), inner.count)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").finish_non_exhaustive()
    }
}

/// Since the simulation began.
pub(super) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}
