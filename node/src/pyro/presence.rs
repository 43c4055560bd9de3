//! Whether a client is still there while something long is done for it.
//!
//! A connection that waits for long work reads nothing, and would learn of the end of its client only when it
//! writes. [`attended`] looks meanwhile, as long as somebody wants to know; the work asks [`Presence`]. A client
//! that ends its side is taken for one that is gone: no Pyro program does the one without the other.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use super::socket::Socket;

/// A client, for the work that is done for it. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Pieces of work that want to know.
    watch_count: AtomicUsize,
    is_gone: AtomicBool,
}

/// The wish to know; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Watch<'a>(&'a State);

impl Presence {
    /// Whether the client has gone, as far as somebody has looked.
    pub(super) fn is_gone(&self) -> bool {
        self.0.is_gone.load(Ordering::Relaxed)
    }

    /// Has the connection look, from its next wait on.
    pub(super) fn watch(&self) -> Watch<'_> {
        self.0.watch_count.fetch_add(1, Ordering::Relaxed);
        Watch(&self.0)
    }

    fn is_watched(&self) -> bool {
        self.0.watch_count.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.watch_count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs `work`, and notes when the client at `socket` ends its side meanwhile.
pub(super) async fn attended<T>(
    socket: &Socket,
    presence: &Presence,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        if presence.is_watched() && !presence.is_gone() && socket.poll_is_at_end(cx) {
            presence.0.is_gone.store(true, Ordering::Relaxed);
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpStream, UnixStream};
    use tokio::time::timeout;

    use super::*;

    /// Waits until `presence` says that its client has gone. False after a while.
    async fn notices(socket: &Socket, presence: &Presence) -> bool {
        let _watch = presence.watch();
        let gone = async {
            while !presence.is_gone() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waiting = timeout(Duration::from_secs(10), gone);
        attended(socket, presence, waiting).await.is_ok()
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_is_noticed_while_work_is_done_for_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("a connection");
        let (stream, _) = listener.accept().await.expect("the same");
        let (unix_client, unix_stream) = UnixStream::pair().expect("two ends");
        for (socket, client) in [
            (Socket::Tcp(stream), Box::new(client) as Box<dyn Send>),
            (Socket::Unix(unix_stream), Box::new(unix_client)),
        ] {
            let presence = Presence::default();
            let short = tokio::time::sleep(Duration::from_millis(5));
            let watch = presence.watch();
            attended(&socket, &presence, short).await;
            assert!(!presence.is_gone(), "it is there");
            drop(watch);
            assert!(!presence.is_watched());
            drop(client);
            assert!(notices(&socket, &presence).await);
        }
    }
}
