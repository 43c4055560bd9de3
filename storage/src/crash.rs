//! Crash points: places at which a test can end the process, between any two steps that change the disk.
//!
//! They exist only with the feature `crash-points`, which the tests of this workspace enable and its programs
//! do not. `HEARTH_CRASH_POINT=NAME:N` then kills the process, as from outside and at once, when it reaches the
//! place of that name for the Nth time.

/// Marks a crash point. Without the feature it does nothing.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn crash_point(_name: &str) {}

#[cfg(feature = "crash-points")]
pub(crate) use enabled::crash_point;

#[cfg(feature = "crash-points")]
mod enabled {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    struct Plan {
        name: String,
        left: AtomicU64,
    }

    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

    fn plan() -> Option<Plan> {
        let text = std::env::var("HEARTH_CRASH_POINT").ok()?;
        let parsed = text
            .split_once(':')
            .and_then(|(name, times)| Some((name.to_owned(), times.parse().ok()?)));
        let Some((name, times)) = parsed else {
            tracing::warn!(text, "HEARTH_CRASH_POINT should be NAME:N, and is ignored");
            return None;
        };
        Some(Plan {
            name,
            left: AtomicU64::new(times),
        })
    }

    /// Marks a crash point. Kills the process if this is the planned place and time.
    pub(crate) fn crash_point(name: &str) {
        let Some(plan) = PLAN.get_or_init(plan) else {
            return;
        };
        if plan.name == name && plan.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Nothing runs after this, no destructor and no other thread.
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }
}
