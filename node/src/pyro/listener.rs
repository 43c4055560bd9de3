//! The accept loop: who gets a place, and what those are told who get none.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::Front;
use super::connection::{Connection, End, log_end};
use super::socket::{Peer, Socket};

/// Clients beyond the limit that are told so at the same time; the rest is closed without a word.
pub(super) const REFUSAL_COUNT_MAX: usize = 64;
/// Wait after the first accept that failed for want of resources; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest wait between two accepts.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A bound socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// TCP, either IP version.
    Tcp(TcpListener),
    /// A unix socket; whoever bound it removes its file.
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Socket::tcp(stream)?, Peer::Tcp(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), Peer::Unix))
            }
        }
    }
}

/// At most so many clients are let in after the end: more than can wait to be accepted.
const LATE_COUNT_MAX: usize = 8192;

impl Listener {
    /// Closes it, and gives those clients that the system has let in already: with the listener it would
    /// throw them out, although they may have asked something by then.
    fn close(self) -> Vec<(Socket, Peer)> {
        // Asked directly: the runtime may not have heard of them.
        let accepted = match self {
            Self::Tcp(listener) => listener.into_std().map(|listener| {
                accept_waiting(|| {
                    let (stream, address) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    let stream = TcpStream::from_std(stream)?;
                    Ok((Socket::tcp(stream)?, Peer::Tcp(address)))
                })
            }),
            Self::Unix(listener) => listener.into_std().map(|listener| {
                accept_waiting(|| {
                    let (stream, _) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    Ok((Socket::Unix(UnixStream::from_std(stream)?), Peer::Unix))
                })
            }),
        };
        accepted.unwrap_or_else(|error| {
            tracing::warn!(%error, "clients that were about to be accepted are not served");
            Vec::new()
        })
    }
}

/// Accepts until nobody waits any more.
fn accept_waiting<T>(mut accept: impl FnMut() -> io::Result<T>) -> Vec<T> {
    let mut accepted = Vec::new();
    while accepted.len() < LATE_COUNT_MAX {
        match accept() {
            Ok(client) => accepted.push(client),
            Err(error) if is_of_the_client(&error) => {}
            // Nobody waits, or there is no room for more.
            Err(_) => break,
        }
    }
    accepted
}

/// Connections that are being served.
type Served = JoinSet<(Peer, End)>;

/// Accepts and serves clients until `shutdown` turns true, then waits for what is under way.
pub(super) async fn serve(front: Arc<Front>, listener: Listener, shutdown: watch::Receiver<bool>) {
    let mut stopping = pin!(stopped(shutdown.clone()));
    let mut served = Served::new();
    let mut backoff = BACKOFF_MIN;
    loop {
        tokio::select! {
            biased;
            () = &mut stopping => break,
            Some(done) = served.join_next() => log_done(&front, done),
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    backoff = BACKOFF_MIN;
                    start(&front, socket, peer, &shutdown, &mut served);
                }
                // The client was gone before it was accepted: the next one may be there already.
                Err(error) if is_of_the_client(&error) => {
                    tracing::debug!(%error, "a client left before it was accepted");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept clients, trying again in {backoff:?}");
                    pause(backoff, stopping.as_mut(), &front, &mut served).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            },
        }
    }
    for (socket, peer) in listener.close() {
        start(&front, socket, peer, &shutdown, &mut served);
    }
    drain(&front, &mut served).await;
}

/// Waits, and goes on collecting connections that end: they may free what was missing.
async fn pause(
    backoff: Duration,
    mut stopping: Pin<&mut impl Future<Output = ()>>,
    front: &Front,
    served: &mut Served,
) {
    let mut pause = pin!(sleep(backoff));
    loop {
        tokio::select! {
            () = &mut pause => return,
            () = &mut stopping => return,
            Some(done) = served.join_next() => log_done(front, done),
        }
    }
}

fn start(
    front: &Arc<Front>,
    socket: Socket,
    peer: Peer,
    shutdown: &watch::Receiver<bool>,
    served: &mut Served,
) {
    let text = match front.places.take(peer) {
        Ok((place, displaced)) => {
            if let Some(displaced) = displaced {
                log_end(front, displaced, &End::GaveWay);
            }
            tracing::debug!(%peer, "connection accepted");
            let key = place.key();
            let connection = Connection::new(Arc::clone(front), socket, peer, Some(place));
            let shutdown = shutdown.clone();
            let task = served.spawn(async move {
                let end = isolated(connection.serve(pin!(stopped(shutdown)))).await;
                (peer, end)
            });
            return key.set_task(task);
        }
        Err(no_place) => no_place.to_string(),
    };
    if let Ok(turn) = Arc::clone(&front.refusals).try_acquire_owned() {
        let connection = Connection::new(Arc::clone(front), socket, peer, None);
        served.spawn(async move {
            let turn_away = async {
                connection.turn_away(&text).await;
                End::NoPlace(text.clone())
            };
            let end = isolated(turn_away).await;
            drop(turn);
            (peer, end)
        });
    } else {
        log_end(front, peer, &End::NoPlace(text));
    }
}

/// Runs a connection so that a panic in it ends that connection and nothing else.
async fn isolated(connection: impl Future<Output = End>) -> End {
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        // After a panic the connection is dropped and never looked at again.
        catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll(cx)))
            .unwrap_or(Poll::Ready(End::Panicked))
    })
    .await
}

/// Waits for the connections to finish what they are doing, and ends those that take too long.
async fn drain(front: &Front, served: &mut Served) {
    let all_done = async {
        while let Some(done) = served.join_next().await {
            log_done(front, done);
        }
    };
    if timeout(front.config.drain_timeout, all_done).await.is_err() {
        tracing::warn!("{} connections did not finish in time", served.len());
        served.shutdown().await;
    }
}

fn log_done(front: &Front, done: Result<(Peer, End), JoinError>) {
    match done {
        Ok((peer, end)) => log_end(front, peer, &end),
        Err(error) => tracing::debug!(%error, "a connection was ended"),
    }
}

/// Resolves when the node stops.
async fn stopped(mut shutdown: watch::Receiver<bool>) {
    // An error means that nobody is left to say it, which says it as well.
    let _ = shutdown.wait_for(|&stops| stops).await;
}

/// Whether an accept failed for a reason that concerns one client only.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::NotConnected
            | Kind::InvalidInput
            | Kind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_connection_only() {
        let end = isolated(async {
            tokio::task::yield_now().await;
            panic!("the hook prints this line in a passing test");
        })
        .await;
        assert!(matches!(end, End::Panicked));
        let end = isolated(async { End::PeerClosed }).await;
        assert!(matches!(end, End::PeerClosed));
    }
}
