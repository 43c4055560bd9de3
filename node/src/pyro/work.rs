//! Work that takes too long for a reactor thread, and how much of it may run at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::presence::Presence;

/// Runs long work on threads of its own, a few pieces at a time; the rest waits its turn.
#[derive(Debug, Clone)]
pub(super) struct HeavyWork {
    turns: Arc<Semaphore>,
    /// As many as turns: whoever has one has looked whether there is memory for an answer, and not taken it yet.
    answers: Arc<Semaphore>,
}

impl HeavyWork {
    /// Work of which as many pieces run at once as there are processors, and at least two, so that one
    /// slow pattern does not hold up every list.
    pub(super) fn new() -> Self {
        let processor_count = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = || Arc::new(Semaphore::new(processor_count.max(2)));
        Self {
            turns: turns(),
            answers: turns(),
        }
    }

    /// A place among those who make an answer, to be held from the look at the memory for it until it is counted
    /// there: so no more answers than turns are made on the strength of the same look.
    pub(super) async fn answer_place(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.answers)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed")
    }

    /// [`Self::run`] for a client, of which `work` may learn that it has gone.
    pub(super) async fn run_for<T: Send + 'static>(
        &self,
        presence: &Presence,
        work: impl FnOnce(&Presence) -> T + Send + 'static,
    ) -> T {
        let _watch = presence.watch();
        let known = presence.clone();
        self.run(move || work(&known)).await
    }

    /// Runs `work` away from the reactor. A panic in it is a panic here.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        match done.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that is going away cancels such work, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
