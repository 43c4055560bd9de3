//! The report of a failed command: its exit code and its two lines on standard error. The first
//! line is that of the original tools; the second says what can be done.

use std::io;

use hearth_cli::bench::BenchError;
use hearth_cli::{Address, ClientError};
use hearth_wire::NamingErrorKind;
use hearth_wire::repr::str_repr;

use crate::outcome::EXIT_NOT_FOUND;

const EXIT_FAILED: u8 = 1;
const EXIT_CONFLICT: u8 = 4;
pub(crate) const EXIT_UNREACHABLE: u8 = 5;
const EXIT_DENIED: u8 = 6;
const EXIT_TIMED_OUT: u8 = 124;

/// The reason why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No name server was found.
    Locate(ClientError),
    /// A call failed.
    Call(ClientError),
    /// A change was requested, and it is unknown if it was made.
    Unknown(ClientError),
    /// A node reported that it cannot serve; another node may be able to.
    NotHealthy,
    /// Standard input ended instead of answering a question.
    EndOfInput,
    /// An error of a local file or stream.
    Io(io::Error),
    /// A file that is not a valid snapshot, or received bytes that are not one.
    Snapshot(String),
    /// A load could not be run.
    Bench(BenchError),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Call(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        Self::Bench(error)
    }
}

impl Failure {
    /// The line of the original tools, such as `Error: NamingError - unknown name: zz`.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Locate(error) => format!("Error: {}", python_text(error)),
            Self::Call(error) | Self::Unknown(error) => {
                format!("Error: {} - {}", class_name(error), python_text(error))
            }
            Self::NotHealthy => "Error: not healthy".into(),
            Self::EndOfInput => "Error: EOFError - EOF when reading a line".into(),
            Self::Io(error) => format!("Error: OSError - {error}"),
            Self::Snapshot(reason) => format!("Error: {reason}"),
            Self::Bench(error) => format!("Error: {error}"),
        }
    }

    /// The last line of the traceback that Python would print.
    pub(crate) fn traceback_end(&self) -> String {
        match self {
            Self::Locate(error) | Self::Call(error) | Self::Unknown(error) => {
                let class = class_name(error);
                let module = if is_pyro_class(&class) {
                    "Pyro5.errors."
                } else {
                    ""
                };
                match python_text(error) {
                    text if text.is_empty() => format!("{module}{class}"),
                    text => format!("{module}{class}: {text}"),
                }
            }
            Self::NotHealthy => "not healthy".into(),
            Self::EndOfInput => "EOFError: EOF when reading a line".into(),
            Self::Io(error) => format!("OSError: {error}"),
            Self::Snapshot(reason) => reason.clone(),
            Self::Bench(error) => error.to_string(),
        }
    }

    /// The next step for the user, or the cause of the error.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Locate(error) | Self::Call(error) => client_hint(error),
            Self::Unknown(_) => {
                "the change may or may not have been made: look before you ask for it again".into()
            }
            Self::NotHealthy => "`nsctl cluster status` shows the state of each member".into(),
            Self::EndOfInput => "--yes answers in advance".into(),
            Self::Io(_) => "nothing was asked of the name server after that".into(),
            Self::Snapshot(_) => "`nsctl snapshot save FILE` makes a new one".into(),
            Self::Bench(_) => "`nsctl help bench` tells what the load does".into(),
        }
    }

    /// The exit code of `nsctl`.
    pub(crate) fn exit_code(&self) -> u8 {
        let error = match self {
            Self::Locate(error) | Self::Call(error) => error,
            Self::Unknown(error) if error.is_timeout() => return EXIT_TIMED_OUT,
            _ => return EXIT_FAILED,
        };
        match kind_of(error) {
            Kind::Unknown | Kind::UnknownMember | Kind::NoCandidate => EXIT_NOT_FOUND,
            Kind::Taken | Kind::Refused => EXIT_CONFLICT,
            Kind::Unreachable | Kind::NoQuorum => EXIT_UNREACHABLE,
            Kind::Denied => EXIT_DENIED,
            Kind::TimedOut => EXIT_TIMED_OUT,
            Kind::OutcomeUnknown | Kind::NotHearth | Kind::BadRegex | Kind::Other => EXIT_FAILED,
        }
    }
}

/// The kinds of errors that have their own exit code or hint.
enum Kind {
    Unknown,
    NoCandidate,
    Taken,
    BadRegex,
    Denied,
    TimedOut,
    NoQuorum,
    OutcomeUnknown,
    UnknownMember,
    Refused,
    NotHearth,
    Unreachable,
    Other,
}

fn kind_of(error: &ClientError) -> Kind {
    if error.is_denied() {
        return Kind::Denied;
    }
    if error.is_timeout() {
        return Kind::TimedOut;
    }
    match error {
        ClientError::Remote { exception, .. } => match error.naming_kind() {
            Some(NamingErrorKind::UnknownName) => Kind::Unknown,
            Some(NamingErrorKind::NameTaken) => Kind::Taken,
            Some(NamingErrorKind::InvalidRegex) => Kind::BadRegex,
            Some(NamingErrorKind::UnknownMember) => Kind::UnknownMember,
            Some(NamingErrorKind::Refused) => Kind::Refused,
            Some(NamingErrorKind::NoQuorum) => Kind::NoQuorum,
            Some(NamingErrorKind::CannotAnswer) => Kind::Unreachable,
            Some(NamingErrorKind::OutcomeUnknown) => Kind::OutcomeUnknown,
            None if exception.class.name() == "TimeoutError" => Kind::TimedOut,
            _ => Kind::Other,
        },
        ClientError::NoCandidate { .. } => Kind::NoCandidate,
        ClientError::NotHearth { .. } => Kind::NotHearth,
        error if error.is_communication() => Kind::Unreachable,
        _ => Kind::Other,
    }
}

fn client_hint(error: &ClientError) -> String {
    match (kind_of(error), error) {
        (Kind::Unknown, _) => "`nsctl list` shows the names that are registered".into(),
        (Kind::NoCandidate, _) => "`nsctl yplookup_any TAG` shows what has one of the tags".into(),
        (Kind::Taken, _) => "`nsctl register --replace` takes the place of the old entry".into(),
        (Kind::BadRegex, _) => {
            "the pattern is a Python regular expression, matched at the start of the name".into()
        }
        (Kind::Denied, ClientError::Remote { exception, .. })
            if exception.class.name() == "NamingError" =>
        {
            "--cluster-key-file FILE proves the key that the nodes of the cluster share".into()
        }
        (Kind::Denied, _) => {
            "the server's HMAC key and yours (PYRO_HMAC_KEY or -k) must be the same, or both absent"
                .into()
        }
        (Kind::NoQuorum, _) => {
            "a majority of the cluster's nodes must run and reach each other".into()
        }
        (Kind::OutcomeUnknown, _) => {
            "the change may or may not have been made: look before you ask for it again".into()
        }
        (Kind::UnknownMember, _) => "`nsctl cluster members` shows the members' numbers".into(),
        (Kind::Refused, _) => "`nsctl cluster status` shows the state of each member".into(),
        (Kind::NotHearth, _) => {
            "the cluster's commands need hearthd; is there a pyro4-ns or pyro5-ns at this port?"
                .into()
        }
        (_, ClientError::NotLocated { attempts }) if !attempts.is_empty() => {
            let attempts: Vec<String> = attempts.iter().map(ToString::to_string).collect();
            format!("tried {}", attempts.join("; "))
        }
        (Kind::TimedOut, _) => "--timeout SECONDS allows more time".into(),
        (_, ClientError::WrongFamily { .. }) => {
            "--protocol auto speaks what the server speaks; with a key only Pyro4 can be spoken"
                .into()
        }
        (_, ClientError::Remote { address, .. }) => {
            format!("this exception was raised by the name server at {address}")
        }
        (Kind::Unreachable, ClientError::Closed { .. }) => {
            "the call may or may not have been carried out".into()
        }
        (Kind::Unreachable, _) => "is a name server running there, and is the port its own?".into(),
        _ => "`nsctl help` explains commands and options".into(),
    }
}

/// The name of the class that Pyro's own client raises for this error.
fn class_name(error: &ClientError) -> String {
    match error {
        ClientError::Remote { exception, .. } | ClientError::Undecodable { exception, .. } => {
            exception.class.name()
        }
        ClientError::Connect { .. } | ClientError::Rejected { .. } => "CommunicationError",
        ClientError::Closed { .. } => "ConnectionClosedError",
        ClientError::TimedOut { .. } => "TimeoutError",
        ClientError::Serializer { .. } | ClientError::Encode(_) => "SerializeError",
        ClientError::NotLocated { .. } | ClientError::NoCandidate { .. } => "NamingError",
        ClientError::Uri(_) | ClientError::NotHearth { .. } => "PyroError",
        ClientError::Address(_) => "OverflowError",
        _ => "ProtocolError",
    }
    .to_owned()
}

fn is_pyro_class(class: &str) -> bool {
    hearth_wire::PyroClass::from_name(class).is_some()
}

/// The error's text with addresses in the form that Python prints.
fn python_text(error: &ClientError) -> String {
    let text = error.to_string();
    match error {
        ClientError::Connect { address, .. } | ClientError::Rejected { address, .. } => {
            text.replacen(&address.to_string(), &python_address(address), 1)
        }
        _ => text,
    }
}

fn python_address(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } => format!("({}, {port})", str_repr(host)),
        Address::Unix(path) => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use hearth_wire::Exception;

    use super::*;

    fn raised(exception: Exception) -> Failure {
        Failure::Call(ClientError::Remote {
            address: Address::tcp("h", 1),
            exception: Box::new(exception),
        })
    }

    #[test]
    fn exceptions_are_told_apart_by_their_exit_code() {
        for (exception, code) in [
            (Exception::naming("unknown name: zz"), 3),
            (Exception::naming("name already registered: zz"), 4),
            (
                Exception::naming("invalid regex: nothing to repeat at position 0"),
                1,
            ),
            (Exception::naming("no quorum: 1 of 3 nodes"), 5),
            (Exception::naming("cannot answer: node is stopping"), 5),
            (
                Exception::naming("outcome unknown: no quorum since then"),
                1,
            ),
            (Exception::naming("unknown member: 7"), 3),
            (Exception::naming("refused: the last voter"), 4),
            (Exception::naming("denied: from elsewhere"), 6),
            (
                Exception::pyro(hearth_wire::PyroClass::SecurityError, "no"),
                6,
            ),
            (Exception::type_error("name must be a str"), 1),
        ] {
            let text = exception.text();
            assert_eq!(raised(exception).exit_code(), code, "{text}");
        }
    }

    #[test]
    fn the_line_is_that_of_the_original_tools() {
        assert_eq!(
            raised(Exception::naming("unknown name: zz")).line(),
            "Error: NamingError - unknown name: zz"
        );
        let refused = ClientError::Connect {
            address: Address::tcp("h", 1),
            source: io::Error::from_raw_os_error(111),
        };
        assert_eq!(
            Failure::Call(refused).line(),
            "Error: CommunicationError - cannot connect to ('h', 1): [Errno 111] Connection refused"
        );
        let lost = ClientError::NotLocated { attempts: vec![] };
        assert_eq!(
            Failure::Locate(lost).line(),
            "Error: Failed to locate the nameserver"
        );
    }
}
