//! When this node may answer a look-up from its own copy of the registry: the three modes of `--reads`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_raft::{ReadError, Replica};
use hearth_wire::{Exception, NamingErrorKind};
use tokio::time::timeout;

use super::config::ReadMode;

/// How long a read of [`ReadMode::Available`] waits for a majority that seems to be there.
const CONFIRMATION_DURATION_MAX: Duration = Duration::from_secs(1);

/// How often such a read looks whether the majority still seems to be there.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// After one has waited in vain, for so long the others do not wait.
const DOUBT_DURATION: Duration = Duration::from_secs(1);

/// How often the log says that answers come from this node's own copy.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Lets reads through when they may be answered, and counts the answers that nobody has confirmed.
#[derive(Debug)]
pub(super) struct ReadPolicy {
    mode: ReadMode,
    /// How long a linearizable read waits.
    patience: Duration,
    unconfirmed_count: AtomicU64,
    /// Whether the last read was not confirmed, so that nobody takes the lock while all is well.
    is_cut_off: AtomicBool,
    cut: Mutex<Cut>,
}

/// What is known while reads are not confirmed.
#[derive(Debug, Default)]
struct Cut {
    /// Until when nobody waits for a confirmation.
    doubt_until: Option<Instant>,
    /// When the log last spoke of it, and how many had been counted then.
    warned: Option<(Instant, u64)>,
}

impl ReadPolicy {
    pub(super) fn new(mode: ReadMode, patience: Duration) -> Self {
        Self {
            mode,
            patience,
            unconfirmed_count: AtomicU64::new(0),
            is_cut_off: AtomicBool::new(false),
            cut: Mutex::default(),
        }
    }

    /// Returns when what `replica` has applied may be shown.
    ///
    /// # Errors
    /// `NamingError` that begins with `no quorum: ` or with `cannot answer: `.
    pub(super) async fn admit(&self, replica: &Replica) -> Result<(), Exception> {
        match self.mode {
            ReadMode::Linearizable => replica.read_barrier(self.patience).await,
            ReadMode::Available => Box::pin(self.confirm_if_possible(replica)).await,
            ReadMode::Stale => Ok(()),
        }
        .map_err(|error| refusal(&error))
    }

    /// How many answers came from this node's own copy because it was cut off.
    pub(super) fn unconfirmed_count(&self) -> u64 {
        self.unconfirmed_count.load(Ordering::Relaxed)
    }

    /// Whether the last answer was such a one.
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::Relaxed)
    }

    async fn confirm_if_possible(&self, replica: &Replica) -> Result<(), ReadError> {
        if !self.is_in_doubt(Instant::now()) && replica.is_ready() {
            match confirmation(replica).await {
                Some(Ok(())) => {
                    self.note_confirmed();
                    return Ok(());
                }
                Some(Err(error @ ReadError::Stopping(_))) => return Err(error),
                Some(Err(_)) | None => self.doubt(Instant::now()),
            }
        }
        self.note_unconfirmed(Instant::now());
        Ok(())
    }

    fn is_in_doubt(&self, now: Instant) -> bool {
        self.is_cut_off() && self.lock().doubt_until.is_some_and(|until| now < until)
    }

    fn doubt(&self, now: Instant) {
        self.lock().doubt_until = Some(now + DOUBT_DURATION);
    }

    fn note_unconfirmed(&self, now: Instant) {
        self.is_cut_off.store(true, Ordering::Relaxed);
        let count = self.unconfirmed_count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut cut = self.lock();
        let since = match cut.warned {
            Some((warned, _)) if now.duration_since(warned) < WARN_INTERVAL => return,
            Some((_, counted)) => counted,
            None => count - 1,
        };
        cut.warned = Some((now, count));
        tracing::warn!(
            "this node reaches no majority: {} look-ups were answered from its own copy",
            count - since
        );
    }

    fn note_confirmed(&self) {
        if !self.is_cut_off.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut cut = self.lock();
        *cut = Cut::default();
        tracing::warn!(
            "this node reaches a majority again; since its start {} look-ups were answered from its own copy",
            self.unconfirmed_count()
        );
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cut> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has a majority confirm that this node is up to date; none if that takes too long, or if the majority
/// is seen to be gone meanwhile.
async fn confirmation(replica: &Replica) -> Option<Result<(), ReadError>> {
    let mut barrier = std::pin::pin!(replica.read_barrier(CONFIRMATION_DURATION_MAX));
    loop {
        if let Ok(confirmed) = timeout(LOOK_INTERVAL, barrier.as_mut()).await {
            return Some(confirmed);
        }
        if !replica.is_ready() {
            return None;
        }
    }
}

fn refusal(error: &ReadError) -> Exception {
    match error {
        ReadError::NoQuorum(reason) => Exception::naming_of(NamingErrorKind::NoQuorum, reason),
        other => Exception::naming_of(NamingErrorKind::CannotAnswer, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unconfirmed_answers_are_counted_and_doubt_passes() {
        let policy = ReadPolicy::new(ReadMode::Available, Duration::from_secs(1));
        let now = Instant::now();
        assert!(!policy.is_cut_off());
        policy.doubt(now);
        policy.note_unconfirmed(now);
        policy.note_unconfirmed(now);
        assert!(policy.is_cut_off());
        assert_eq!(policy.unconfirmed_count(), 2);
        assert!(policy.is_in_doubt(now));
        assert!(!policy.is_in_doubt(now + DOUBT_DURATION));
        policy.note_confirmed();
        assert!(!policy.is_cut_off() && !policy.is_in_doubt(now));
        assert_eq!(policy.unconfirmed_count(), 2);
    }

    #[test]
    fn the_log_speaks_of_it_once_in_a_while() {
        let policy = ReadPolicy::new(ReadMode::Available, Duration::from_secs(1));
        let now = Instant::now();
        for _ in 0..10 {
            policy.note_unconfirmed(now);
        }
        assert_eq!(policy.lock().warned, Some((now, 1)));
        let later = now + WARN_INTERVAL;
        policy.note_unconfirmed(later);
        assert_eq!(policy.lock().warned, Some((later, 11)));
    }

    #[test]
    fn texts_say_what_other_programs_go_by() {
        let text = |error| refusal(&error).text();
        assert_eq!(text(ReadError::NoQuorum("x".into())), "no quorum: x");
        let stopping = text(ReadError::Stopping("x".into()));
        assert!(stopping.starts_with("cannot answer: "), "{stopping}");
    }
}
