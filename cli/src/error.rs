//! Errors between a client and a server, with the server's address.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::time::Duration;

use hearth_wire::uri::UriError;
use hearth_wire::{DecodeError, EncodeError, Exception, Family, NamingErrorKind};

use crate::{Address, AddressError};

/// The reason why a call, or a step before it, failed. The texts are those of Pyro's own clients.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The method was called and raised an exception. The connection stays open, except after the few exception
    /// classes with which a server closes it.
    #[error("{}", exception.text())]
    Remote {
        /// The server.
        address: Address,
        /// The exception.
        exception: Box<Exception>,
    },
    /// The connection could not be established.
    #[error("cannot connect to {address}: {}", SystemText(source))]
    Connect {
        /// The server.
        address: Address,
        /// The system's error.
        source: io::Error,
    },
    /// The server refused the handshake.
    #[error("connection to {address} rejected: {reason}")]
    Rejected {
        /// The server.
        address: Address,
        /// The server's reason.
        reason: String,
    },
    /// The server supports the other family only.
    #[error("{}", wrong_family(*spoken))]
    WrongFamily {
        /// The server.
        address: Address,
        /// The family of its answer.
        spoken: Family,
    },
    /// The connection was lost or closed. A call in progress may or may not have been executed.
    #[error("{}", closed(source.as_ref()))]
    Closed {
        /// The server.
        address: Address,
        /// The system's error; `None` if the server closed in good order, or if the connection was given up
        /// because of an earlier error.
        source: Option<io::Error>,
    },
    /// No reply within the timeout. The call may or may not have been executed.
    #[error("receiving: timeout")]
    TimedOut {
        /// The server.
        address: Address,
        /// The timeout.
        waited: Duration,
    },
    /// The server sent bytes that are not a message.
    #[error("{source}")]
    Protocol {
        /// The server.
        address: Address,
        /// The error of the decoder.
        source: DecodeError,
    },
    /// The reply's sequence number is not that of the call.
    #[error("invoke: reply sequence out of sync, got {found} expected {expected}")]
    Sequence {
        /// The server.
        address: Address,
        /// Sequence number of the reply.
        found: u16,
        /// Sequence number of the call.
        expected: u16,
    },
    /// The reply's serializer is not that of the call.
    #[error("invalid serializer in response: {found}")]
    Serializer {
        /// The server.
        address: Address,
        /// Serializer id of the reply.
        found: u16,
    },
    /// The reply's payload cannot be decoded.
    #[error("{}", exception.text())]
    Undecodable {
        /// The server.
        address: Address,
        /// The exception that Python's client raises for such a payload.
        exception: Box<Exception>,
    },
    /// The reply is a value that this method never returns.
    #[error("unexpected {found} in the reply to {method}")]
    Unexpected {
        /// The server.
        address: Address,
        /// The method that was called.
        method: String,
        /// The Python class of the value.
        found: String,
    },
    /// A cluster method was called on a name server that is not Hearth.
    #[error(
        "the name server at {address} is not Hearth: it has no object {}",
        crate::CLUSTER
    )]
    NotHearth {
        /// The server.
        address: Address,
    },
    /// The serializer cannot express the arguments.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// No name server was found.
    #[error("Failed to locate the nameserver")]
    NotLocated {
        /// The places that were tried, in order.
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
    /// A text is not a valid URI.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// A URI's location is not a valid address.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// One failed attempt to find a name server.
#[derive(Debug)]
#[non_exhaustive]
pub enum Attempt {
    /// A connection failed.
    Connect {
        /// The address.
        address: Address,
        /// The error.
        error: Box<ClientError>,
    },
    /// No name server answered a broadcast.
    Broadcast {
        /// The UDP port.
        port: u16,
        /// The error of sending, if the broadcast could not be sent.
        error: Option<io::Error>,
    },
    /// The address is not valid.
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
    /// Returns true if the server refused because of the key or a missing permission.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Rejected { reason, .. } => is_key_refusal(reason),
            Self::Protocol { source, .. } => is_key_refusal(&source.to_string()),
            Self::Remote { exception, .. } => {
                exception.class.name() == "SecurityError"
                    || self.naming_kind() == Some(NamingErrorKind::Denied)
            }
            Self::NotLocated { attempts } => any_attempt(attempts, Self::is_denied),
            _ => false,
        }
    }

    /// Returns true if the timeout elapsed.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::NotLocated { attempts } => any_attempt(attempts, Self::is_timeout),
            _ => false,
        }
    }

    /// Returns true if the exchange of bytes failed, as opposed to a call that was answered.
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

    /// Returns true if the server answered that it cannot serve now and changed nothing: it has no quorum, or
    /// it is stopping. The caller may then ask another node of the cluster.
    pub fn is_unserved(&self) -> bool {
        self.naming_kind().is_some_and(NamingErrorKind::is_unserved)
    }

    /// Returns true if a change may or may not have been made, or may still be made: the server says so, or the
    /// connection was lost or the timeout elapsed before it answered. Meant for errors of calls, not of
    /// connecting.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Remote { .. } => self.naming_kind() == Some(NamingErrorKind::OutcomeUnknown),
            error => error.is_communication(),
        }
    }

    /// Returns the kind of the `NamingError` that the server raised.
    pub fn naming_kind(&self) -> Option<NamingErrorKind> {
        NamingErrorKind::of(self.exception()?)
    }

    /// The exception that the server raised, for [`ClientError::Remote`] only.
    pub fn exception(&self) -> Option<&Exception> {
        match self {
            Self::Remote { exception, .. } => Some(exception),
            _ => None,
        }
    }
}

/// Returns true for a refusal because of the key. Pyro uses the same texts in a server's CONNECTFAIL and in the
/// client's own check of a server's signature. The text with "HMAC key" is the one by which `hearthd` refuses
/// Pyro5 if it has a key.
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

/// The text of a system error for operators, in lower case and without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text.get(..end).unwrap_or_default().to_lowercase()
}

/// A system error in the form that Python prints: `[Errno 111] Connection refused`.
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
