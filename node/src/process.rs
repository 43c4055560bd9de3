//! What a program arranges with its operating system: signals, open files, threads.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Files that are open for other reasons than a connection: RocksDB's tables, logs, sockets.
const OTHER_FILES: u64 = 512;

/// Raises the limit of open files as far as the system lets us, and returns how many connections of
/// `wanted` there is room for. Clients beyond that are told so, rather than left in the backlog.
pub(crate) fn make_room_for(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum;
    let current = match setrlimit(
        Resource::Nofile,
        Rlimit {
            current: allowed,
            maximum: allowed,
        },
    ) {
        Ok(()) => allowed,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            limit.current
        }
    };
    // No limit at all is expressed as none.
    let Some(current) = current else {
        return wanted;
    };
    let room = room_within(current);
    if room < wanted {
        tracing::warn!(
            "the limit of open files ({current}) leaves room for {room} connections, not {wanted}; raise it \
             (ulimit -Hn, LimitNOFILE=) or lower --max-connections"
        );
    }
    room.min(wanted)
}

fn room_within(limit: u64) -> usize {
    // A tiny limit is shared by halves.
    let reserve = OTHER_FILES.min(limit / 2);
    usize::try_from(limit - reserve)
        .unwrap_or(usize::MAX)
        .max(1)
}

/// Threads that serve connections: one for each core but one, which the replica's own thread needs. More
/// threads than cores wake each other up for work that one of them has done by then: on two cores, a second
/// one here costs a quarter of the look-ups.
pub(crate) fn worker_count() -> usize {
    std::thread::available_parallelism()
        .map_or(1, |cores| cores.get() - 1)
        .max(1)
}

/// Signals that were ignored when this process started, as shells have it for what runs in the background
/// of a script, and `nohup` for SIGHUP. They stay ignored, as in Python.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct IgnoredSignals(u64);

impl IgnoredSignals {
    /// Asks the system; to be called before any signal is listened for. Where there is no `/proc`, none is
    /// taken to be ignored.
    pub(crate) fn at_start() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::from_status(&status).unwrap_or_default()
    }

    fn from_status(status: &str) -> Option<Self> {
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok().map(Self)
    }

    /// Whether this one is among them. Signal 1 is the lowest bit.
    pub(crate) fn contains(self, kind: SignalKind) -> bool {
        let bit = u32::try_from(kind.as_raw_value() - 1).ok();
        bit.and_then(|bit| self.0.checked_shr(bit))
            .is_some_and(|mask| mask & 1 == 1)
    }
}

/// A signal that is listened for, unless it stays ignored.
#[derive(Debug)]
pub(crate) struct Listened(Option<Signal>);

impl Listened {
    /// From now on this signal does not do what it does by default.
    pub(crate) fn new(kind: SignalKind, ignored: IgnoredSignals) -> io::Result<Self> {
        if ignored.contains(kind) {
            return Ok(Self(None));
        }
        signal(kind).map(|signal| Self(Some(signal)))
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        match &mut self.0 {
            // A stream of signals ends only together with the runtime.
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// SIGINT and SIGTERM.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Listened,
    terminate: Listened,
}

impl StopSignals {
    /// From now on these signals no longer end the process.
    pub(crate) fn new(ignored: IgnoredSignals) -> io::Result<Self> {
        Ok(Self {
            interrupt: Listened::new(SignalKind::interrupt(), ignored)?,
            terminate: Listened::new(SignalKind::terminate(), ignored)?,
        })
    }

    /// Waits for the next one and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = self.interrupt.next() => "SIGINT",
            () = self.terminate.next() => "SIGTERM",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_other_files() {
        assert_eq!(room_within(20_000), 20_000 - 512);
        assert_eq!(room_within(256), 128);
        assert_eq!(room_within(0), 1);
    }

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status =
            "Name:\thearthd\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000005002\nSigCgt:\t0\n";
        let ignored = IgnoredSignals::from_status(status).unwrap();
        assert!(ignored.contains(SignalKind::interrupt()));
        assert!(ignored.contains(SignalKind::terminate()));
        assert!(!ignored.contains(SignalKind::hangup()));
        for status in ["", "SigIgn:\tnone\n"] {
            assert!(IgnoredSignals::from_status(status).is_none());
        }
        assert!(!IgnoredSignals::default().contains(SignalKind::interrupt()));
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        make_room_for(1);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
