//! The wire protocols of Pyro4 (version 48) and Pyro5 (version 502), as pure functions over bytes.
//!
//! Bytes go in, frames and values come out, and back. This crate opens no socket, reads no clock and starts no
//! thread: the owner of a connection pushes bytes into a [`frame::FrameDecoder`] and sends the bytes that the
//! encoders return. Every size that a peer controls is checked against a limit before memory is allocated for
//! it ([`limits::Limits`]).

#![warn(clippy::indexing_slicing)]

pub mod admin;
pub mod call;
pub mod error;
pub mod exception;
pub mod family;
pub mod frame;
pub mod hmac;
pub mod limits;
pub mod naming_error;
pub mod repr;
pub mod serializer;
pub mod snapshot;
pub mod uri;
pub mod value;

pub use call::Call;
pub use error::{DecodeError, EncodeError};
pub use exception::{Exception, ExceptionClass, PyroClass};
pub use family::Family;
pub use frame::{Flags, Frame, MessageType};
pub use limits::Limits;
pub use naming_error::NamingErrorKind;
pub use serializer::{Dialect, Serializer};
pub use uri::Uri;
pub use value::Value;
