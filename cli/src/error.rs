//! What can go wrong between a client and a server, with the server's address.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::time::Duration;

use hearth_wire::uri::UriError;
use hearth_wire::{DecodeError, EncodeError, Exception, Family};

use crate::{Address, AddressError};

/// Why a call, or what comes before it, failed. The texts are those that Pyro's own clients show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The method was called and raised an exception. The connection can still be used, except
    /// after the few classes with which a server closes it.
    #[error("{}", exception.text())]
    Remote {
        /// Who raised it.
        address: Address,
        /// What was raised.
        exception: Box<Exception>,
    },
    /// No connection came about.
    #[error("cannot connect to {address}: {}", SystemText(source))]
    Connect {
        /// The server that was asked for.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// The server refuses to talk to us.
    #[error("connection to {address} rejected: {reason}")]
    Rejected {
        /// Who refused.
        address: Address,
        /// Its words.
        reason: String,
    },
    /// The server speaks the other family only.
    #[error("{}", wrong_family(*spoken))]
    WrongFamily {
        /// The server.
        address: Address,
        /// What it answered in.
        spoken: Family,
    },
    /// The connection ended. A call that was under way may or may not have been carried out.
    #[error("{}", closed(source.as_ref()))]
    Closed {
        /// The server.
        address: Address,
        /// The system's reason; `None` when the server closed in good order, or when the
        /// connection had been given up because of an earlier error.
        source: Option<io::Error>,
    },
    /// No answer in time. The call may or may not have been carried out.
    #[error("receiving: timeout")]
    TimedOut {
        /// The server.
        address: Address,
        /// How long was waited.
        waited: Duration,
    },
    /// The server sent bytes that are no message.
    #[error("{source}")]
    Protocol {
        /// The server.
        address: Address,
        /// What is wrong with them.
        source: DecodeError,
    },
    /// The reply belongs to another call.
    #[error("invoke: reply sequence out of sync, got {found} expected {expected}")]
    Sequence {
        /// The server.
        address: Address,
        /// The reply's number.
        found: u16,
        /// The call's number.
        expected: u16,
    },
    /// The reply is in another serializer than the call.
    #[error("invalid serializer in response: {found}")]
    Serializer {
        /// The server.
        address: Address,
        /// Its id in the reply.
        found: u16,
    },
    /// The reply's payload cannot be read.
    #[error("{}", exception.text())]
    Undecodable {
        /// The server.
        address: Address,
        /// What Python's client raises for such a payload.
        exception: Box<Exception>,
    },
    /// The reply is a value that this method never returns.
    #[error("unexpected {found} in the reply to {method}")]
    Unexpected {
        /// The server.
        address: Address,
        /// What was called.
        method: String,
        /// The Python class of what came.
        found: String,
    },
    /// A name server that is not Hearth was asked about its cluster.
    #[error(
        "the name server at {address} is not Hearth: it has no object {}",
        crate::CLUSTER
    )]
    NotHearth {
        /// The server.
        address: Address,
    },
    /// The arguments cannot be written in this serializer.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// No name server where one could be.
    #[error("Failed to locate the nameserver")]
    NotLocated {
        /// Where it was looked for, in order.
        attempts: Vec<Attempt>,
    },
    /// No entry has all the tags of a `PYROMETA:` URI.
    #[error(
        "no registrations available with desired metadata properties {}",
        crate::name_server::set_repr(tags.iter().map(String::as_str))
    )]
    NoCandidate {
        /// The tags.
        tags: BTreeSet<String>,
    },
    /// A text that is no URI.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// A URI that leads nowhere.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// One place where a name server was looked for in vain.
#[derive(Debug)]
#[non_exhaustive]
pub enum Attempt {
    /// A connection failed.
    Connect {
        /// Where.
        address: Address,
        /// Why.
        error: Box<ClientError>,
    },
    /// Nobody answered a broadcast.
    Broadcast {
        /// The UDP port.
        port: u16,
        /// Why it could not be sent at all, if so.
        error: Option<io::Error>,
    },
    /// The address is none.
    Address(AddressError),
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { address, error } => match &**error {
                ClientError::Connect { source, .. } => {
                    write!(f, "{address}: {}", reason(source))
                }
                ClientError::TimedOut { .. } => write!(f, "{address}: no answer in time"),
                ClientError::Closed { .. } => write!(f, "{address}: closed the connection"),
                ClientError::WrongFamily { spoken, .. } => {
                    write!(f, "{address}: speaks {spoken:?} only")
                }
                ClientError::Rejected { reason, .. } => write!(f, "{address}: {reason}"),
                other => write!(f, "{address}: {other}"),
            },
            Self::Broadcast { port, error: None } => {
                write!(f, "broadcast on port {port}: no answer")
            }
            Self::Broadcast {
                port,
                error: Some(error),
            } => write!(f, "broadcast on port {port}: {}", reason(error)),
            Self::Address(error) => write!(f, "{error}"),
        }
    }
}

impl ClientError {
    /// Whether the server refuses us because of the key or of a missing permission.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Rejected { reason, .. } => is_key_refusal(reason),
            Self::Protocol { source, .. } => is_key_refusal(&source.to_string()),
            Self::Remote { exception, .. } => {
                let is_denial = |text: String| text.starts_with(DENIED);
                exception.class.name() == "SecurityError"
                    || self.naming_text().is_some_and(is_denial)
            }
            Self::NotLocated { attempts } => any_attempt(attempts, Self::is_denied),
            _ => false,
        }
    }

    /// Whether time ran out.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::NotLocated { attempts } => any_attempt(attempts, Self::is_timeout),
            _ => false,
        }
    }

    /// Whether the exchange of bytes failed, in contrast to a call that was answered.
    pub fn is_communication(&self) -> bool {
        !matches!(
            self,
            Self::Remote { .. }
                | Self::NotHearth { .. }
                | Self::Encode(_)
                | Self::NoCandidate { .. }
                | Self::Uri(_)
                | Self::Address(_)
        )
    }

    /// Whether the server answered that it could not do this now and changed nothing, so that another
    /// node of its cluster may be asked: it has no quorum, or it is stopping.
    pub fn is_unserved(&self) -> bool {
        let text = self.naming_text();
        text.is_some_and(|text| UNSERVED.iter().any(|start| text.starts_with(start)))
    }

    /// Whether a change may or may not have been made, or may yet be: the server says so, or the
    /// connection ended or time ran out before it answered. For errors of calls, not of connecting.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Remote { .. } => self
                .naming_text()
                .is_some_and(|text| text.starts_with(OUTCOME_UNKNOWN)),
            error => error.is_communication(),
        }
    }

    fn naming_text(&self) -> Option<String> {
        let exception = self.exception()?;
        (exception.class.name() == "NamingError").then(|| exception.text())
    }

    /// The exception that the server raised, if that is what happened.
    pub fn exception(&self) -> Option<&Exception> {
        match self {
            Self::Remote { exception, .. } => Some(exception),
            _ => None,
        }
    }
}

/// How Hearth says that a caller may not do this.
const DENIED: &str = "denied: ";

/// How Hearth says that it did nothing because it cannot serve at the moment.
const UNSERVED: [&str; 3] = ["no quorum: ", "cannot answer: ", "nothing was changed: "];

/// How Hearth says that it does not know whether a change was made.
const OUTCOME_UNKNOWN: &str = "outcome unknown: ";

/// Pyro's texts of a refusal for want of the right key are the same in a server's CONNECTFAIL and in
/// our own check of what a server signed. The third is how `hearthd` refuses Pyro5 where it has a key.
fn is_key_refusal(text: &str) -> bool {
    ["hmac key config not symmetric", "message hmac mismatch"].contains(&text)
        || text.contains("HMAC key")
}

fn any_attempt(attempts: &[Attempt], is: impl Fn(&ClientError) -> bool) -> bool {
    attempts
        .iter()
        .any(|attempt| matches!(attempt, Attempt::Connect { error, .. } if is(error)))
}

fn wrong_family(spoken: Family) -> String {
    match spoken {
        Family::Pyro4 => format!("invalid protocol version: {}", spoken.version()),
        Family::Pyro5 => "invalid data or unsupported protocol version".into(),
    }
}

fn closed(source: Option<&io::Error>) -> String {
    match source {
        None => "receiving: not enough data".into(),
        Some(error) => format!("receiving: connection lost: {}", SystemText(error)),
    }
}

/// A system error as people read it, without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text.get(..end).unwrap_or_default().to_lowercase()
}

/// A system error as Python prints it: `[Errno 111] Connection refused`.
struct SystemText<'a>(&'a io::Error);

impl fmt::Display for SystemText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match self.0.raw_os_error() {
            Some(number) => {
                let end = text.find(" (os error").unwrap_or(text.len());
                write!(f, "[Errno {number}] {}", text.get(..end).unwrap_or(&text))
            }
            None => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> ClientError {
        ClientError::Connect {
            address: Address::tcp("h", 1),
            source: io::Error::from_raw_os_error(111),
        }
    }

    #[test]
    fn system_errors_read_as_in_python() {
        assert_eq!(
            refused().to_string(),
            "cannot connect to h:1: [Errno 111] Connection refused"
        );
    }

    #[test]
    fn an_attempt_says_where_and_why() {
        let attempt = Attempt::Connect {
            address: Address::tcp("h", 1),
            error: Box::new(refused()),
        };
        assert_eq!(attempt.to_string(), "h:1: connection refused");
    }

    #[test]
    fn a_refused_key_is_a_denial_wherever_it_is_noticed() {
        for reason in [
            "message hmac mismatch",
            "this name server requires messages signed with its HMAC key, which Pyro5 cannot do",
        ] {
            let error = ClientError::Rejected {
                address: Address::tcp("h", 1),
                reason: reason.into(),
            };
            let error = ClientError::NotLocated {
                attempts: vec![Attempt::Connect {
                    address: Address::tcp("h", 1),
                    error: Box::new(error),
                }],
            };
            assert!(error.is_denied(), "{reason}");
            assert!(!error.is_timeout(), "{reason}");
        }
        assert!(!refused().is_denied());
    }
}
