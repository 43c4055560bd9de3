//! Mistakes that others have made, to be made on purpose: what shows that our tests would see them.
//!
//! Only a build with the feature `defects` can make them, and only when it is told to: by the environment
//! ([`VARIABLE`]) or, for what runs on one thread, by [`with`]. Any other build has no code for them.

/// The environment variable that names the defect of a process, as [`Defect::name`] does.
#[cfg(feature = "defects")]
pub const VARIABLE: &str = "HEARTH_DEFECT";

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "defects"), allow(unreachable_pub))]
pub enum Defect {
    /// Entries of the log count as durable before they are synced, so that a power failure takes what was
    /// acknowledged.
    UnsyncedAcknowledgement,
    /// The index of the last applied entry is written by itself, before what the entry does, so that a crash
    /// in between leaves the entry out for good.
    IndexApart,
    /// Numbered commands are executed as often as they come.
    NoDeduplication,
    /// Reads are answered from a node's own copy, without asking whether that is up to date.
    LocalReads,
    /// A node that lost its data comes back under its old id, and votes as if it had it.
    ReusedId,
    /// A snapshot's position is written, and the state that belongs to it is not put in place.
    NoSwitch,
    /// A leader takes the word of a node that has voted for another one since (`forward.rs`), and nodes learn
    /// late who leads, as on a machine that does other things too: without the first that only costs time.
    WordWithoutVote,
    /// A leader takes the word of a node before an entry of its own term is committed, when it may not know
    /// of all that others have committed.
    WordBeforeOwnEntry,
    /// A leader takes the word of any node, also where the two are no majority.
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
        /// All of them.
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

        /// As the environment has it.
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

    /// Has everything that this thread does until `work` is done make `defect`.
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

    /// Whether `defect` is to be made here.
    pub(crate) fn is(defect: Defect) -> bool {
        OF_THREAD
            .get()
            .or_else(|| *OF_PROCESS.get_or_init(of_process))
            == Some(defect)
    }

    fn of_process() -> Option<Defect> {
        let name = std::env::var(VARIABLE).ok()?;
        let defect = Defect::ALL.into_iter().find(|defect| defect.name() == name);
        // Whoever asked for one that is not there must not believe that it was survived.
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

/// Whether `defect` is to be made here: not in this build.
#[cfg(not(feature = "defects"))]
pub(crate) const fn is(_defect: Defect) -> bool {
    false
}
