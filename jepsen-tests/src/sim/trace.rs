//! The trace of a simulation: a hash over all events in their order.
//!
//! The hash differs if two runs of one seed differ in any event. To find the difference, run the seed twice
//! more with [`FILE`] set to two files, and compare the files.

use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The environment variable that names a file for the trace, which gets one line per event.
pub const FILE: &str = "HEARTH_SIM_TRACE";

struct Inner {
    hasher: DefaultHasher,
    count: u64,
    file: Option<BufWriter<File>>,
}

/// The trace of one simulation. Cheap to clone; all clones share one trace.
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

    /// Records an event at `node` with the current simulated time.
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
            // A failed write is ignored: the user who asked for the trace misses it.
            let _ = writeln!(file, "{:>14.6} {node} {kind} {text}", now.as_secs_f64());
        }
    }

    /// Records an event by its debug text. See [`Self::note`].
    pub(super) fn say(&self, kind: &'static str, node: u64, text: &impl fmt::Debug) {
        self.note(kind, node, format!("{text:?}").as_bytes());
    }

    /// Flushes the file. Returns the hash of all events and their number.
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

/// Returns the simulated time since the simulation began, or zero outside a simulation.
pub(super) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}
