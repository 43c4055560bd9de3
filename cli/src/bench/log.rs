//! The call log: a file with a line for each call, for a close look at single moments of a load.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Endpoint;

pub(super) struct CallLog {
    file: Mutex<BufWriter<File>>,
    /// An instant, and the same moment as nanoseconds since 1970. Later times are derived from it, so that
    /// setting the system clock makes no gap.
    base: (Instant, u128),
}

impl CallLog {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            file: Mutex::new(BufWriter::new(File::create(path)?)),
            base: (Instant::now(), since.unwrap_or_default().as_nanos()),
        })
    }

    /// Writes one line. An error shows in [`Self::finish`].
    pub(super) fn note(
        &self,
        finished: Instant,
        connection: usize,
        endpoint: &Endpoint,
        took: Duration,
        outcome: &str,
    ) {
        let (base, nanoseconds) = self.base;
        let ended = nanoseconds + finished.duration_since(base).as_nanos();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let took = took.as_nanos();
        let _ = writeln!(file, "{ended} {connection} {endpoint} {took} {outcome}");
    }

    pub(super) fn finish(&self) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.flush()
    }
}
