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

/// SIGINT and SIGTERM.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// From now on these signals no longer end the process.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        // A stream of signals ends only together with the runtime.
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
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
    fn the_limit_is_raised_to_the_hard_one() {
        make_room_for(1);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
