//! Who may be connected: a number of places, a share of them for each address, some that are kept for
//! clients on this machine, and the longest idle connection, which gives way when all are taken.
//!
//! What a share or a kept place is worth: somebody who opens connections without end shuts out nobody but
//! those who come from the same address, and never the person who has to find out why.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::config::FrontConfig;
use super::socket::Peer;

/// At most so many places are kept for clients on this machine, and one in so many.
const KEPT_COUNT_MAX: usize = 64;
const KEPT_ONE_IN: usize = 16;
/// One address has one in so many places where nothing else is set, and no fewer than the next.
const SHARE_ONE_IN: usize = 4;
const SHARE_COUNT_MIN: usize = 64;
/// The option that raises the share.
const SHARE_OPTION: &str = "--max-connections-per-address";
/// As many of the longest idle are looked out at a time, so that a stream of newcomers does not cost a look
/// at all connections each.
const CANDIDATE_COUNT: usize = 256;

/// In the place of the time since when a connection is idle: a request of it is in progress.
const BUSY: u64 = u64::MAX;
/// It had to give way.
const GONE: u64 = u64::MAX - 1;

/// The places of one front end.
#[derive(Debug)]
pub(super) struct Places {
    count_max: usize,
    /// How many of them clients of other machines may have.
    guest_count_max: usize,
    share: Share,
    limit_option: String,
    /// Times are nanoseconds since then.
    began: Instant,
    table: Mutex<Table>,
}

/// How many places one address may have.
#[derive(Debug, Clone, Copy)]
struct Share {
    count_max: usize,
    /// A person who sets a share means it for all addresses.
    includes_this_machine: bool,
}

#[derive(Debug, Default)]
struct Table {
    seats: Vec<Option<Arc<Seat>>>,
    /// Indexes of `seats` that are empty.
    free: Vec<usize>,
    guest_count: usize,
    counts: HashMap<Host, usize>,
    /// The longest idle guests, and the longest idle of all: since when and which, the longest last.
    candidates: [Vec<(u64, usize)>; 2],
}

/// An address as far as shares are concerned: of IPv6 the network, since one machine has all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Host(IpAddr);

#[derive(Debug)]
struct Seat {
    peer: Peer,
    idle_since: AtomicU64,
    task: OnceLock<AbortHandle>,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    index: usize,
    seat: Arc<Seat>,
}

/// Why there is no place. The text is for the client.
#[derive(Debug)]
pub(super) enum NoPlace {
    /// All are taken, and each has a request in progress.
    Full { count_max: usize, option: String },
    /// The same, for those that clients of other machines may have.
    FullForGuests { count_max: usize, option: String },
    /// The client's address has its share.
    Share { count_max: usize, address: IpAddr },
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no free workers: ")?;
        match self {
            Self::Full { count_max, option } => write!(
                f,
                "all {count_max} connections are taken ({option} raises the limit)"
            ),
            Self::FullForGuests { count_max, option } => write!(
                f,
                "all {count_max} connections for other machines are taken ({option} raises the limit)"
            ),
            Self::Share { count_max, address } => write!(
                f,
                "all {count_max} connections of {address} are taken ({SHARE_OPTION} raises the limit)"
            ),
        }
    }
}

impl Places {
    pub(super) fn new(config: &FrontConfig) -> Self {
        let count_max = config.connection_count_max;
        let share = match config.connection_count_per_address_max {
            Some(count_max) => Share {
                count_max,
                includes_this_machine: true,
            },
            None => Share {
                count_max: (count_max / SHARE_ONE_IN).max(SHARE_COUNT_MIN),
                includes_this_machine: false,
            },
        };
        Self {
            count_max,
            guest_count_max: count_max - KEPT_COUNT_MAX.min(count_max / KEPT_ONE_IN),
            share,
            limit_option: config.connection_limit_option.clone(),
            began: Instant::now(),
            table: Mutex::default(),
        }
    }

    /// How many are taken.
    pub(super) fn taken_count(&self) -> usize {
        self.lock().taken_count()
    }

    /// A place for `peer`, and who had to give way for it.
    pub(super) fn take(self: &Arc<Self>, peer: Peer) -> Result<(Place, Option<Peer>), NoPlace> {
        let is_guest = !peer.is_on_this_machine();
        let host = Host::of(peer);
        let mut table = self.lock();
        if let Some(host) = host
            && (is_guest || self.share.includes_this_machine)
            && table.counts.get(&host).copied().unwrap_or(0) >= self.share.count_max
        {
            return Err(NoPlace::Share {
                count_max: self.share.count_max,
                address: host.0,
            });
        }
        let is_full_for_guests = is_guest && table.guest_count >= self.guest_count_max;
        let gone = if is_full_for_guests || table.taken_count() >= self.count_max {
            let gone = table.displace_longest_idle(is_full_for_guests);
            Some(gone.ok_or_else(|| self.full(is_full_for_guests))?)
        } else {
            None
        };
        let seat = Arc::new(Seat {
            peer,
            idle_since: AtomicU64::new(self.now()),
            task: OnceLock::new(),
        });
        let place = Place {
            places: Arc::clone(self),
            index: table.seat(Arc::clone(&seat)),
            seat,
        };
        Ok((place, gone))
    }

    fn full(&self, is_for_guests: bool) -> NoPlace {
        let option = self.limit_option.clone();
        match is_for_guests {
            true => NoPlace::FullForGuests {
                count_max: self.guest_count_max,
                option,
            },
            false => NoPlace::Full {
                count_max: self.count_max,
                option,
            },
        }
    }

    fn now(&self) -> u64 {
        // Six hundred years.
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(GONE - 1)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn taken_count(&self) -> usize {
        self.seats.len() - self.free.len()
    }

    fn seat(&mut self, seat: Arc<Seat>) -> usize {
        if !seat.peer.is_on_this_machine() {
            self.guest_count += 1;
        }
        if let Some(host) = Host::of(seat.peer) {
            *self.counts.entry(host).or_default() += 1;
        }
        match self.free.pop() {
            Some(index) => {
                self.seats[index] = Some(seat);
                index
            }
            None => {
                self.seats.push(Some(seat));
                self.seats.len() - 1
            }
        }
    }

    fn unseat(&mut self, index: usize) {
        let Some(seat) = self.seats[index].take() else {
            return;
        };
        self.free.push(index);
        if !seat.peer.is_on_this_machine() {
            self.guest_count -= 1;
        }
        if let Some(host) = Host::of(seat.peer)
            && let Some(count) = self.counts.get_mut(&host)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&host);
            }
        }
    }

    /// Ends the longest idle connection, of guests or of all, and says whose it was.
    fn displace_longest_idle(&mut self, of_guests: bool) -> Option<Peer> {
        let list = usize::from(!of_guests);
        let mut is_fresh = false;
        loop {
            let Some((since, index)) = self.candidates[list].pop() else {
                if is_fresh {
                    return None;
                }
                is_fresh = true;
                self.candidates[list] = self.longest_idle(of_guests);
                continue;
            };
            // Whoever was heard since is not the longest idle any more; all others were idle for less.
            if let Some(seat) = &self.seats[index]
                && seat.give_way(since)
            {
                let peer = seat.peer;
                self.unseat(index);
                return Some(peer);
            }
        }
    }

    fn longest_idle(&self, of_guests: bool) -> Vec<(u64, usize)> {
        let idle = |(index, seat): (usize, &Option<Arc<Seat>>)| {
            let seat = seat.as_ref()?;
            let since = seat.idle_since.load(Ordering::Acquire);
            let may_go = since < GONE
                && seat.task.get().is_some()
                && !(of_guests && seat.peer.is_on_this_machine());
            may_go.then_some((since, index))
        };
        let mut found: Vec<_> = self.seats.iter().enumerate().filter_map(idle).collect();
        if found.len() > CANDIDATE_COUNT {
            found.select_nth_unstable(CANDIDATE_COUNT);
            found.truncate(CANDIDATE_COUNT);
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }
}

impl Seat {
    /// Ends the connection if it is still idle since then.
    fn give_way(&self, since: u64) -> bool {
        let is_idle = self
            .idle_since
            .compare_exchange(since, GONE, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if is_idle && let Some(task) = self.task.get() {
            task.abort();
        }
        is_idle
    }
}

impl Place {
    /// To tell which task has the place, once it has it.
    pub(super) fn key(&self) -> PlaceKey {
        PlaceKey(Arc::clone(&self.seat))
    }

    /// A request begins. False if the connection had to give way just before.
    pub(super) fn begin(&self) -> bool {
        let idle_since = &self.seat.idle_since;
        let since = idle_since.load(Ordering::Acquire);
        since == BUSY
            || idle_since
                .compare_exchange(since, BUSY, Ordering::AcqRel, Ordering::Acquire)
                .is_ok_and(|since| since != GONE)
    }

    /// All requests are answered, and the next one is waited for.
    pub(super) fn rest(&self) {
        let idle_since = &self.seat.idle_since;
        // Only this connection's task ends what it began.
        if idle_since.load(Ordering::Acquire) == BUSY {
            idle_since.store(self.places.now(), Ordering::Release);
        }
    }
}

/// A place whose connection is not yet known to be this or that task.
#[derive(Debug)]
pub(super) struct PlaceKey(Arc<Seat>);

impl PlaceKey {
    /// From now on the connection may give way, by the end of its task.
    pub(super) fn set_task(self, task: AbortHandle) {
        // A key is used once.
        let _ = self.0.task.set(task);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.lock();
        let is_ours = table.seats[self.index]
            .as_ref()
            .is_some_and(|seat| Arc::ptr_eq(seat, &self.seat));
        if is_ours {
            table.unseat(self.index);
        }
    }
}

impl Host {
    fn of(peer: Peer) -> Option<Self> {
        let Peer::Tcp(address) = peer else {
            return None;
        };
        Some(Self(match address.ip().to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(network).into()
            }
            address => address,
        }))
    }
}

#[cfg(test)]
#[path = "places_test.rs"]
mod tests;
