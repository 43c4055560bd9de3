//! Injectable bugs that prove the tests can detect them.
//!
//! Only a build with the feature `defects` contains them, and each is active only on request: through the
//! environment variable ([`VARIABLE`]) for a whole process, or through [`with`] for work on one thread. Any
//! other build has no code for them.

/// The environment variable that names the injected fault of a process. Its values are those of
/// [`Defect::name`].
#[cfg(feature = "defects")]
pub const VARIABLE: &str = "HEARTH_DEFECT";

/// An injected fault. Each is a bug that other systems have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "defects"), allow(unreachable_pub))]
pub enum Defect {
    /// Log entries count as durable before they are synced, so a power failure loses acknowledged writes.
    UnsyncedAcknowledgement,
    /// The last applied index is written on its own, before the effects of the entry, so a crash in between
    /// skips the entry for good.
    IndexApart,
    /// Numbered commands are executed each time they arrive.
    NoDeduplication,
    /// Reads are answered from the node's own copy, without a check that it is up to date.
    LocalReads,
    /// A node that lost its data returns under its old id, and votes as if it still had the data.
    ReusedId,
    /// The position of a snapshot is written, but its state is not put in place.
    NoSwitch,
    /// A leader counts the acknowledgement of a node that has voted for another candidate since (`forward.rs`).
    /// Nodes also learn late who leads, as on a busy machine; that delay alone would only cost time.
    WordWithoutVote,
    /// A leader counts the acknowledgement of a node before an entry of its own term is committed. At that time
    /// it may not know all entries that earlier leaders have committed.
    WordBeforeOwnEntry,
    /// A leader counts the acknowledgement of any node, even if the two are not a majority.
    WordOfAMinority,
}

#[cfg(feature = "defects")]
mod seeded {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::{Defect, VARIABLE};

    thread_local! {
        static OF_THREAD: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    static OF_PROCESS: OnceLock<Option<Defect>> = OnceLock::new();

    impl Defect {
        /// All injected faults.
        pub const ALL: [Self; 9] = [
            Self::UnsyncedAcknowledgement,
            Self::IndexApart,
            Self::NoDeduplication,
            Self::LocalReads,
            Self::ReusedId,
            Self::NoSwitch,
            Self::WordWithoutVote,
            Self::WordBeforeOwnEntry,
            Self::WordOfAMinority,
        ];

        /// Returns the name that selects the fault in [`VARIABLE`].
        pub fn name(self) -> &'static str {
            match self {
                Self::UnsyncedAcknowledgement => "unsynced-acknowledgement",
                Self::IndexApart => "index-apart",
                Self::NoDeduplication => "no-deduplication",
                Self::LocalReads => "local-reads",
                Self::ReusedId => "reused-id",
                Self::NoSwitch => "no-switch",
                Self::WordWithoutVote => "word-without-vote",
                Self::WordBeforeOwnEntry => "word-before-own-entry",
                Self::WordOfAMinority => "word-of-a-minority",
            }
        }
    }

    /// Runs `work` with `defect` active on this thread.
    pub fn with<T>(defect: Defect, work: impl FnOnce() -> T) -> T {
        struct Restore(Option<Defect>);
        impl Drop for Restore {
            fn drop(&mut self) {
                OF_THREAD.set(self.0);
            }
        }
        let _restore = Restore(OF_THREAD.replace(Some(defect)));
        work()
    }

    /// Returns true if `defect` is active on this thread or in this process.
    pub(crate) fn is(defect: Defect) -> bool {
        OF_THREAD
            .get()
            .or_else(|| *OF_PROCESS.get_or_init(of_process))
            == Some(defect)
    }

    fn of_process() -> Option<Defect> {
        let name = std::env::var(VARIABLE).ok()?;
        let defect = Defect::ALL.into_iter().find(|defect| defect.name() == name);
        // A fault with an unknown name must not look like one that the system has survived.
        let Some(defect) = defect else {
            tracing::error!(name, "there is no such defect");
            std::process::abort();
        };
        tracing::error!(name, "this process makes a mistake on purpose");
        Some(defect)
    }
}

#[cfg(feature = "defects")]
pub(crate) use seeded::is;
#[cfg(feature = "defects")]
pub use seeded::with;

/// Returns false: this build has no injected faults.
#[cfg(not(feature = "defects"))]
pub(crate) const fn is(_defect: Defect) -> bool {
    false
}
