//! Lines for a stream whose reader may be slow, gone or broken: nobody waits for it.
//!
//! [`LineQueue::push`] puts a line into a bounded queue, and one thread writes. What does not fit, or
//! cannot be written, is dropped and counted; the count is told when writing works again.
//! `tracing-appender` does not serve here: it bounds lines and not bytes, tells nobody what it dropped, and
//! prints to standard output, which panics when that is gone, if its thread does not end in time.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait to be written.
const QUEUE_LEN_MAX: usize = 1 << 20;
/// What is dropped is told when no more than this waits, so that the message itself is not dropped.
const QUEUE_LEN_CALM: usize = QUEUE_LEN_MAX / 2;
/// Between two attempts at a stream that takes nothing now and was opened not to block.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// A queue of lines and the thread that writes them. Clones share both.
#[derive(Debug, Clone)]
pub(crate) struct LineQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A line was added.
    added: Condvar,
    /// Nothing waits to be written.
    drained: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    /// Bytes of `lines` and of the line that is being written.
    len: usize,
    /// Lines that were dropped and not yet told of.
    dropped_count: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LineQueue {
    /// Starts the thread that writes to `out`. It calls `tell` with the number of lines that were dropped
    /// when writing works again; `tell` may push.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        thread_name: &str,
        out: impl Write + Send + 'static,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Writer {
            shared: Arc::clone(&shared),
            out,
            is_mid_line: false,
            tell,
        };
        // It ends with the process: it may be held up in a write for as long as that lives.
        thread::Builder::new()
            .name(thread_name.to_owned())
            .spawn(move || writer.run())?;
        Ok(Self { shared })
    }

    /// Adds `line`, which ends in a line feed. Never waits for the stream.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        if state.len + line.len() > QUEUE_LEN_MAX {
            state.dropped_count += 1;
            return;
        }
        state.len += line.len();
        state.lines.push_back(line.into());
        drop(state);
        self.shared.added.notify_one();
    }

    /// Waits until all lines are written or dropped, but no longer than `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let state = self.shared.lock();
        let waiting = |state: &mut State| state.len > 0;
        // Whether it was in time makes no difference to anybody.
        let _ = self
            .shared
            .drained
            .wait_timeout_while(state, patience, waiting);
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = LineSink<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineSink(self)
    }
}

/// Takes each write as one line, which is how `tracing_subscriber` writes.
#[derive(Debug)]
pub(crate) struct LineSink<'a>(&'a LineQueue);

impl Write for LineSink<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Writer<W, T> {
    shared: Arc<Shared>,
    out: W,
    /// The last write failed in the middle of its line.
    is_mid_line: bool,
    tell: T,
}

impl<W: Write, T: Fn(u64)> Writer<W, T> {
    fn run(mut self) {
        loop {
            let line = self.next_line();
            let is_written = self.write(&line).is_ok();
            let mut state = self.shared.lock();
            state.len -= line.len();
            if !is_written {
                state.dropped_count += 1;
            }
            let is_calm = is_written && state.len <= QUEUE_LEN_CALM;
            let dropped_count = match is_calm {
                true => std::mem::take(&mut state.dropped_count),
                false => 0,
            };
            let is_drained = state.len == 0;
            drop(state);
            if dropped_count > 0 {
                (self.tell)(dropped_count);
            }
            if is_drained {
                self.shared.drained.notify_all();
            }
        }
    }

    fn next_line(&self) -> Box<[u8]> {
        let mut state = self.shared.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                return line;
            }
            state = self
                .shared
                .added
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_mid_line {
            self.write_all(b"\n")?;
            self.is_mid_line = false;
        }
        self.write_all(line)?;
        self.out.flush()
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.out.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    bytes = bytes.get(len..).unwrap_or_default();
                    self.is_mid_line = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(RETRY_AFTER);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "line_queue_test.rs"]
mod tests;
