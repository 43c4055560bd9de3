//! Work that takes too long for a reactor thread, and how much of it may run at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Runs long work on threads of its own, a few pieces at a time; the rest waits its turn.
#[derive(Debug, Clone)]
pub(super) struct HeavyWork {
    turns: Arc<Semaphore>,
}

impl HeavyWork {
    /// Work of which as many pieces run at once as there are processors, and at least two, so that one
    /// slow pattern does not hold up every list.
    pub(super) fn new() -> Self {
        let processor_count = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            turns: Arc::new(Semaphore::new(processor_count.max(2))),
        }
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
