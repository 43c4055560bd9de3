//! The log of connections that were refused at the peer port. The number of its lines is bounded, whatever
//! strangers do and say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::handshake::HandshakeError;
use super::refusal::escaped;

/// Interval between two lines for the same cause. Refused connections in between are counted, and the next line
/// has their number.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The reason why a connection was refused.
#[derive(Debug)]
pub(super) enum Cause {
    /// The maximum number of connections is reached.
    TooMany,
    /// The handshake was not done within this time.
    TooSlow(Duration),
    /// The handshake failed.
    Handshake(HandshakeError),
}

impl Cause {
    /// Returns this node's text for the cause: one of a few texts, whatever the peer says.
    fn kind(&self) -> &'static str {
        match self {
            Self::TooMany => "there are too many connections at the port for other nodes",
            Self::TooSlow(_) => "it did not greet in time",
            Self::Handshake(HandshakeError::Unproved { why, .. }) => why,
            Self::Handshake(HandshakeError::Refused(refusal)) => refusal.code.name(),
            Self::Handshake(HandshakeError::RefusedByPeer(_)) => "it refuses this node",
            Self::Handshake(HandshakeError::Older) => "it does not speak this node's protocol",
            Self::Handshake(HandshakeError::Io(_)) => "it did not greet as a node does",
        }
    }

    /// Returns further details, on one short line.
    fn detail(&self) -> Option<String> {
        match self {
            Self::TooMany | Self::Handshake(HandshakeError::Older) => None,
            Self::TooSlow(limit) => Some(format!("within {limit:?}")),
            Self::Handshake(HandshakeError::Unproved { said, .. }) => said.clone(),
            // The text is this node's own, about a peer that has proved the key.
            Self::Handshake(HandshakeError::Refused(refusal)) => Some(refusal.text.clone()),
            Self::Handshake(HandshakeError::RefusedByPeer(refusal)) => Some(escaped(&refusal.text)),
            Self::Handshake(HandshakeError::Io(error)) => Some(escaped(&error.to_string())),
        }
    }
}

/// Writes the lines of the log.
#[derive(Debug, Default)]
pub(super) struct TurnAwayLog {
    /// The current window of each text of [`Cause::kind`].
    known: Mutex<HashMap<&'static str, Window>>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    suppressed_count: u64,
}

impl TurnAwayLog {
    /// Logs that the connection from `from` was refused.
    pub(super) fn note(&self, from: SocketAddr, cause: &Cause) {
        let reason = cause.kind();
        let Some(suppressed_count) = self.take_line(reason) else {
            return;
        };
        let detail = cause.detail();
        tracing::warn!(
            %from, reason, detail, suppressed_count,
            "turned a connection away at the port for other nodes"
        );
    }

    /// Returns the number of lines that were suppressed since the last one if a line may be written now, and
    /// otherwise `None`.
    fn take_line(&self, kind: &'static str) -> Option<u64> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let Some(window) = known.get_mut(kind) else {
            let window = Window {
                began: now,
                suppressed_count: 0,
            };
            known.insert(kind, window);
            return Some(0);
        };
        if now.duration_since(window.began) < LOG_INTERVAL {
            window.suppressed_count += 1;
            return None;
        }
        window.began = now;
        Some(std::mem::take(&mut window.suppressed_count))
    }
}

#[cfg(test)]
mod tests {
    use super::super::handshake::unproved;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cause_has_one_line_in_a_while_and_tells_how_many_it_stands_for() {
        let log = TurnAwayLog::default();
        let causes = [
            Cause::TooMany,
            Cause::TooSlow(LOG_INTERVAL),
            Cause::Handshake(unproved("something")),
        ];
        for round in 0..100 {
            for cause in &causes {
                let line = log.take_line(cause.kind());
                assert_eq!(line, (round == 0).then_some(0));
            }
        }
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(log.take_line(causes[0].kind()), Some(99));
        assert_eq!(log.take_line(causes[0].kind()), None);
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(log.take_line(causes[0].kind()), Some(1));
        assert_eq!(log.take_line(causes[2].kind()), Some(99));
    }
}
