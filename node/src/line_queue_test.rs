use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// A stream that takes each write only once the test says how it goes.
struct Gate {
    outcomes: Receiver<io::Result<usize>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let outcome = self.outcomes.recv().unwrap_or(Ok(usize::MAX))?;
        let len = outcome.min(bytes.len());
        self.written.lock().unwrap().extend(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Gated {
    queue: LineQueue,
    outcomes: Option<Sender<io::Result<usize>>>,
    written: Arc<Mutex<Vec<u8>>>,
    told: Receiver<u64>,
}

impl Gated {
    fn new() -> Self {
        let (sender, outcomes) = mpsc::channel();
        let written = Arc::default();
        let gate = Gate {
            outcomes,
            written: Arc::clone(&written),
        };
        let (tell, told) = mpsc::channel();
        let queue = LineQueue::start("test", gate, move |count| tell.send(count).unwrap()).unwrap();
        Self {
            queue,
            outcomes: Some(sender),
            written,
            told,
        }
    }

    fn next_write(&self, outcome: io::Result<usize>) {
        self.outcomes.as_ref().unwrap().send(outcome).unwrap();
    }

    /// From now on every write succeeds.
    fn open(&mut self) {
        self.outcomes = None;
    }

    fn written(&self) -> String {
        self.queue.flush(PATIENCE);
        String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
    }
}

#[test]
fn a_stream_that_takes_nothing_keeps_nobody_waiting() {
    let mut gated = Gated::new();
    let line = [b"x".repeat(999).as_slice(), b"\n"].concat();
    for _ in 0..3000 {
        gated.queue.push(&line);
    }
    let began = Instant::now();
    gated.queue.flush(Duration::from_millis(50));
    assert!(began.elapsed() < PATIENCE);
    gated.open();
    assert_eq!(gated.written().len(), QUEUE_LEN_MAX / 1000 * 1000);
    let dropped_count = gated.told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(dropped_count, 3000 - QUEUE_LEN_MAX as u64 / 1000);
    gated.queue.push(b"after\n");
    assert!(gated.written().ends_with("x\nafter\n"));
    assert!(gated.told.try_recv().is_err(), "it is told once");
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_the_next_begins_anew() {
    let mut gated = Gated::new();
    for line in ["first\n", "second\n", "third\n"] {
        gated.queue.push(line.as_bytes());
    }
    gated.next_write(Err(io::ErrorKind::BrokenPipe.into()));
    gated.next_write(Ok(3));
    gated.next_write(Err(io::ErrorKind::StorageFull.into()));
    gated.open();
    assert_eq!(gated.written(), "sec\nthird\n");
    assert_eq!(gated.told.recv_timeout(PATIENCE), Ok(2));
}

#[test]
fn a_stream_that_would_block_is_asked_again() {
    let mut gated = Gated::new();
    gated.queue.push(b"line\n");
    gated.next_write(Err(io::ErrorKind::Interrupted.into()));
    gated.next_write(Ok(2));
    gated.next_write(Err(io::ErrorKind::WouldBlock.into()));
    gated.open();
    assert_eq!(gated.written(), "line\n");
    assert!(gated.told.try_recv().is_err(), "nothing was lost");
}
