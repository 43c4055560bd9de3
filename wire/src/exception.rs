//! Exceptions as values: the errors that a Pyro client raises when a call fails.

use std::borrow::Cow;

use crate::{Family, Value};

/// The error classes that both families define, in `Pyro4.errors` and `Pyro5.errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PyroClass {
    /// The base class of all others.
    PyroError,
    /// An error on the connection.
    CommunicationError,
    /// The connection was closed.
    ConnectionClosedError,
    /// The call took too long.
    TimeoutError,
    /// The bytes violate the protocol.
    ProtocolError,
    /// A message above `MAX_MESSAGE_SIZE`.
    MessageTooLargeError,
    /// A value cannot be serialized or deserialized.
    SerializeError,
    /// The name server refused the request.
    NamingError,
    /// The daemon refused the request.
    DaemonError,
    /// The operation is forbidden.
    SecurityError,
}

impl PyroClass {
    /// The class's name without its module.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PyroError => "PyroError",
            Self::CommunicationError => "CommunicationError",
            Self::ConnectionClosedError => "ConnectionClosedError",
            Self::TimeoutError => "TimeoutError",
            Self::ProtocolError => "ProtocolError",
            Self::MessageTooLargeError => "MessageTooLargeError",
            Self::SerializeError => "SerializeError",
            Self::NamingError => "NamingError",
            Self::DaemonError => "DaemonError",
            Self::SecurityError => "SecurityError",
        }
    }

    /// Returns the class with this name, or `None` if Pyro has no such class.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "PyroError" => Self::PyroError,
            "CommunicationError" => Self::CommunicationError,
            "ConnectionClosedError" => Self::ConnectionClosedError,
            "TimeoutError" => Self::TimeoutError,
            "ProtocolError" => Self::ProtocolError,
            "MessageTooLargeError" => Self::MessageTooLargeError,
            "SerializeError" => Self::SerializeError,
            "NamingError" => Self::NamingError,
            "DaemonError" => Self::DaemonError,
            "SecurityError" => Self::SecurityError,
            _ => return None,
        })
    }
}

/// The class of an exception, independent of the family that it is sent in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ExceptionClass {
    /// One of Pyro's own, written as `Pyro4.errors.X` or `Pyro5.errors.X`.
    Pyro(PyroClass),
    /// A Python built-in, written as `builtins.X`; holds `X`.
    Builtin(Cow<'static, str>),
    /// Any other class by its full dotted name, such as `zlib.error`.
    Other(Cow<'static, str>),
}

impl ExceptionClass {
    /// The class's name without its module, as `nsctl` shows it.
    pub fn name(&self) -> &str {
        match self {
            Self::Pyro(class) => class.name(),
            Self::Builtin(name) => name,
            Self::Other(name) => name.rsplit('.').next().unwrap_or(name),
        }
    }

    /// The class's name in Python's tracebacks and error texts: built-in classes without their module, others
    /// with it.
    pub(crate) fn shown_name(&self, family: Family) -> Cow<'_, str> {
        match self {
            Self::Builtin(name) => Cow::Borrowed(name),
            other => other.wire_name(family),
        }
    }

    /// The dotted name that is sent as `__class__`.
    pub fn wire_name(&self, family: Family) -> Cow<'_, str> {
        match (self, family) {
            (Self::Pyro(class), Family::Pyro4) => format!("Pyro4.errors.{}", class.name()).into(),
            (Self::Pyro(class), Family::Pyro5) => format!("Pyro5.errors.{}", class.name()).into(),
            (Self::Builtin(name), _) => format!("builtins.{name}").into(),
            (Self::Other(name), _) => Cow::Borrowed(name),
        }
    }
}

/// An exception: its class, constructor arguments and remote traceback.
#[derive(Debug, Clone, PartialEq)]
pub struct Exception {
    /// The class of the exception that a client raises.
    pub class: ExceptionClass,
    /// The constructor's arguments; most classes take one text.
    pub args: Vec<Value>,
    /// `_pyroTraceback`: lines that each end in a newline. If it is empty, the encoder writes a two-line
    /// traceback with the class and the text.
    pub traceback: Vec<String>,
}

impl Exception {
    /// Creates one of Pyro's exceptions with a text.
    pub fn pyro(class: PyroClass, text: impl Into<String>) -> Self {
        Self {
            class: ExceptionClass::Pyro(class),
            args: vec![Value::Str(text.into())],
            traceback: Vec::new(),
        }
    }

    /// Creates a Python built-in exception with a text.
    pub fn builtin(class: &'static str, text: impl Into<String>) -> Self {
        Self {
            class: ExceptionClass::Builtin(Cow::Borrowed(class)),
            args: vec![Value::Str(text.into())],
            traceback: Vec::new(),
        }
    }

    /// Creates a `NamingError` with a text.
    pub fn naming(text: impl Into<String>) -> Self {
        Self::pyro(PyroClass::NamingError, text)
    }

    /// Creates a `TypeError` with a text.
    pub fn type_error(text: impl Into<String>) -> Self {
        Self::builtin("TypeError", text)
    }

    /// Creates a `ValueError` with a text.
    pub fn value_error(text: impl Into<String>) -> Self {
        Self::builtin("ValueError", text)
    }

    /// Python's `str()` of the exception: the text after the colon in its traceback.
    pub fn text(&self) -> String {
        crate::repr::exception_text(&self.class, &self.args)
    }

    /// Returns the traceback as it is sent, one line an item. If this exception has none, because it was never
    /// raised in Python, these are the first and the last line that Python would print.
    pub fn traceback_lines(&self, family: Family) -> Vec<String> {
        if !self.traceback.is_empty() {
            return self.traceback.clone();
        }
        let class = self.class.shown_name(family);
        // The position of a syntax error has lines of its own in Python's traceback; they are left out here.
        let text = match (self.class.name(), self.args.first()) {
            ("SyntaxError" | "IndentationError" | "TabError", Some(message)) => {
                crate::repr::text(message)
            }
            _ => self.text(),
        };
        let last = if text.is_empty() {
            format!("{class}\n")
        } else {
            format!("{class}: {text}\n")
        };
        vec!["Traceback (most recent call last):\n".to_owned(), last]
    }

    /// Returns true if the server closes the connection after the reply with this exception: for
    /// `CommunicationError` and its subclasses, and for `SecurityError`, as in `Daemon.handleRequest` of both
    /// Pyros.
    pub fn closes_connection(&self) -> bool {
        use PyroClass as P;
        matches!(
            self.class,
            ExceptionClass::Pyro(
                P::CommunicationError
                    | P::ConnectionClosedError
                    | P::TimeoutError
                    | P::ProtocolError
                    | P::MessageTooLargeError
                    | P::SerializeError
                    | P::SecurityError
            )
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exception(class: &str, args: Vec<Value>) -> Exception {
        Exception {
            class: ExceptionClass::Builtin(class.to_owned().into()),
            args,
            traceback: Vec::new(),
        }
    }

    #[test]
    fn the_text_is_what_str_gives_in_python() {
        let place = ["<unknown>".into(), Value::Int(0), Value::Int(0), "".into()];
        let cases = [
            (exception("ValueError", vec!["it's".into()]), "it's"),
            (exception("ValueError", Vec::new()), ""),
            (
                exception("ValueError", vec!["a".into(), Value::Int(1)]),
                "('a', 1)",
            ),
            (
                exception("KeyError", vec!["handshake".into()]),
                "'handshake'",
            ),
            (
                exception(
                    "SyntaxError",
                    vec!["invalid syntax".into(), Value::Tuple(place.into())],
                ),
                "invalid syntax (<unknown>, line 0)",
            ),
            (
                exception(
                    "UnicodeEncodeError",
                    vec![
                        "utf-8".into(),
                        Value::SurrogateStr([0x61, 0xd800].into()),
                        Value::Int(1),
                        Value::Int(2),
                        "surrogates not allowed".into(),
                    ],
                ),
                "'utf-8' codec can't encode character '\\ud800' in position 1: surrogates not allowed",
            ),
        ];
        for (exception, text) in cases {
            assert_eq!(exception.text(), text);
        }
    }

    #[test]
    fn the_traceback_ends_in_class_and_text() {
        let last = |exception: &Exception| exception.traceback_lines(Family::Pyro4).pop();
        assert_eq!(
            last(&Exception::naming("unknown name: x")).as_deref(),
            Some("Pyro4.errors.NamingError: unknown name: x\n")
        );
        assert_eq!(
            last(&exception("KeyError", vec!["x".into()])).as_deref(),
            Some("KeyError: 'x'\n")
        );
        assert_eq!(
            last(&exception("EOFError", Vec::new())).as_deref(),
            Some("EOFError\n")
        );
    }

    #[test]
    fn pyro_classes_are_found_by_their_name() {
        assert_eq!(
            PyroClass::from_name("NamingError"),
            Some(PyroClass::NamingError)
        );
        assert_eq!(PyroClass::from_name("ValueError"), None);
    }
}
