//! CONNECT: who is let in, and what the client learns about the object that it asks for.

use hearth_wire::{Dialect, Exception, Family, Flags, Frame, MessageType, Serializer, Value};

use super::config::FrontConfig;
use super::object::Object;
use super::python;
use super::reply;

/// How a CONNECT is answered.
#[derive(Debug)]
pub(super) enum Greeting {
    /// With a CONNECTOK.
    Welcome(Frame),
    /// With a CONNECTFAIL, and the reason for the log.
    Refused(Frame, String),
    /// Not at all; the reason is for the log.
    Ignored(String),
}

/// Answers the first message of a connection, which is a CONNECT.
pub(super) fn greet(config: &FrontConfig, frame: &Frame) -> Greeting {
    let family = frame.family;
    let id = frame.serializer_id;
    if family == Family::Pyro5 && config.hmac_key.is_some() {
        // Pyro5 has no HMAC: such a client could neither sign its calls nor check our answers.
        return refuse(
            frame,
            false,
            "this name server requires messages signed with its HMAC key, which Pyro5 cannot do",
        );
    }
    let Some(serializer) = accepted(config, family, id) else {
        return match family {
            Family::Pyro4 => refuse(frame, false, &not_accepted_text(id)),
            Family::Pyro5 => Greeting::Ignored(not_accepted_text(id)),
        };
    };
    if let Err(exception) = frame.check_correlation_id() {
        return refuse(frame, false, &exception.text());
    }
    let dialect = Dialect::new(family, serializer);
    match welcome(config, frame, dialect) {
        Ok(welcome) => Greeting::Welcome(welcome),
        Err(exception) => refuse(frame, true, &exception.text()),
    }
}

fn welcome(config: &FrontConfig, frame: &Frame, dialect: Dialect) -> Result<Frame, Exception> {
    let family = frame.family;
    let request = dialect.decode(&frame.payload, &config.limits)?;
    // What the client says in its handshake is for applications to check; the name server does not.
    python::entry(&request, "handshake")?;
    let with_metadata = family == Family::Pyro5 || frame.flags.meta_on_connect;
    let answer = if with_metadata {
        let object = Object::by_id(python::entry(&request, "object")?)?;
        Value::Dict(vec![
            ("handshake".into(), "hello".into()),
            (
                "meta".into(),
                object.metadata(family, family == Family::Pyro4),
            ),
        ])
    } else {
        "hello".into()
    };
    let mut payload = Vec::new();
    dialect
        .encode(&answer, &mut payload)
        .map_err(|error| Exception::value_error(error.to_string()))?;
    Ok(Frame {
        family,
        kind: MessageType::ConnectOk,
        flags: Flags {
            meta_on_connect: with_metadata && family == Family::Pyro4,
            ..Flags::default()
        },
        seq: frame.seq,
        serializer_id: frame.serializer_id,
        correlation_id: Some(reply::correlation_id(frame.correlation_id)),
        annotations: Default::default(),
        payload,
    })
}

/// A refusal in the request's serializer, or in marshal where that is not to be used.
fn refuse(frame: &Frame, in_its_serializer: bool, text: &str) -> Greeting {
    Greeting::Refused(refusal(frame, in_its_serializer, text), text.to_owned())
}

/// The CONNECTFAIL that answers `frame`.
pub(super) fn refusal(frame: &Frame, in_its_serializer: bool, text: &str) -> Frame {
    let mut refusal = if in_its_serializer {
        frame.refused(text)
    } else {
        Frame::connect_fail(frame.family, text)
    };
    refusal.seq = frame.seq;
    refusal.correlation_id = Some(reply::correlation_id(frame.correlation_id));
    refusal
}

/// The serializer with this id, if this family's clients may use it here.
pub(super) fn accepted(config: &FrontConfig, family: Family, id: u16) -> Option<Serializer> {
    let set = match family {
        Family::Pyro4 => config.pyro4_serializers,
        Family::Pyro5 => config.pyro5_serializers,
    };
    Serializer::from_id(id, family).filter(|&serializer| set.contains(serializer))
}

/// What Pyro4 says about a serializer that is not accepted.
pub(super) fn not_accepted_text(id: u16) -> String {
    format!("message used serializer that is not accepted: {id}")
}
