//! Tests of frames against the recorded traffic of real clients and servers; see `captures/README.md`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails, as it should"
)]

use hearth_wire::frame::{EncodeOptions, Flags, FrameDecoder};
use hearth_wire::{DecodeError, Family, Frame, Limits, MessageType, Uri};
use serde_json::Value;

const CONNECT: &[MessageType] = &[MessageType::Connect];
const LATER: &[MessageType] = &[MessageType::Invoke, MessageType::Ping];

fn records(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/captures/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let records: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(!records.is_empty(), "{path} is empty");
    records
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn family(name: &Value) -> Family {
    match name.as_str().unwrap() {
        "pyro4" => Family::Pyro4,
        "pyro5" => Family::Pyro5,
        name => panic!("no family: {name}"),
    }
}

/// The limits of the recorded Pyro5 server, with its `MAX_MESSAGE_SIZE`.
fn limits() -> Limits {
    Limits {
        message_len_max: 1 << 30,
        ..Limits::default()
    }
}

/// Returns the text in the payload of a recorded CONNECTFAIL, which is in CPython's own marshal.
fn marshal_text(payload: &[u8]) -> &str {
    let (code, rest) = payload.split_first().unwrap();
    let text = match code & 0x7f {
        b'z' | b'Z' => &rest[1..],
        b'a' | b'A' | b'u' | b't' => &rest[4..],
        code => panic!("marshal code {code:#x}"),
    };
    std::str::from_utf8(text).unwrap()
}

/// Decodes all frames of one message stream. Each must encode to the bytes that it was decoded from.
fn round_trip(id: &str, stream: &[u8], key: Option<&[u8]>) -> Vec<Frame> {
    let mut decoder = FrameDecoder::new(limits(), key.map(Into::into));
    let mut frames = Vec::new();
    let mut rest = stream;
    decoder.push(stream);
    while let Some(frame) = decoder
        .next_frame()
        .unwrap_or_else(|error| panic!("{id}: {error}"))
    {
        let mut plain = frame.clone();
        plain.flags.compressed = false;
        let options = EncodeOptions {
            hmac_key: key,
            ..EncodeOptions::default()
        };
        let mut encoded = Vec::new();
        plain.encode(&options, &mut encoded).unwrap();
        if frame.flags.compressed {
            // Compressed bytes depend on the version of zlib, and so does the length of the message.
            let mut decoder = FrameDecoder::new(limits(), key.map(Into::into));
            decoder.push(&encoded);
            assert_eq!(decoder.next_frame(), Ok(Some(plain)), "{id}");
            rest = &[];
        } else {
            let (message, tail) = rest.split_at(encoded.len());
            rest = tail;
            // Python 2 sends annotations in arbitrary order, so the signature may come first.
            if !(id.contains("/py27/") && frame.correlation_id.is_some()) {
                assert_eq!(encoded, message, "{id}");
            }
        }
        frames.push(frame);
    }
    assert!(!decoder.is_mid_frame(), "{id}");
    assert!(rest.is_empty(), "{id}");
    frames
}

/// Returns the messages of both directions of an ordinary record, as pairs of request and reply.
fn messages(record: &Value) -> [(&Value, &Value); 2] {
    [
        (&record["connect"][0], &record["connect"][1]),
        (&record["request"], &record["reply"]),
    ]
}

#[test]
fn signed_messages_verify_and_are_signed_alike() {
    let mut signed = 0;
    for record in records("hmac.jsonl") {
        let id = record["id"].as_str().unwrap();
        let client = record["client_key"].as_str().map(str::as_bytes);
        let server = record["server_key"].as_str().map(str::as_bytes);
        for (sent, answered) in messages(&record) {
            for (stream, key) in [(bytes(sent), client), (bytes(answered), server)] {
                let frames = round_trip(id, &stream, key);
                signed += if key.is_some() { frames.len() } else { 0 };
                assert!(
                    frames
                        .iter()
                        .all(|frame| frame.annotations.get(*b"HMAC").is_none())
                );
            }
        }
    }
    assert!(signed > 200, "{signed} signed messages");
}

#[test]
fn keys_that_differ_are_refused_with_pyros_texts() {
    let mut refused = 0;
    for record in records("hmac.jsonl") {
        let client = record["client_key"].as_str();
        let server = record["server_key"].as_str();
        let mut decoder = FrameDecoder::new(limits(), server.map(|key| key.as_bytes().into()));
        decoder.push(&bytes(&record["connect"][0]));
        let decoded = decoder.next_frame();
        if client == server {
            assert!(decoded.is_ok(), "{record}");
            continue;
        }
        let expected = match (client, server) {
            (None, _) => DecodeError::HmacMissing,
            (_, None) => DecodeError::HmacUnexpected,
            _ => DecodeError::HmacMismatch,
        };
        assert_eq!(decoded, Err(expected.clone()));

        // The recorded server signs its refusal, so that only the server's key can verify it.
        let answer = bytes(&record["connect"][1]);
        let answer = round_trip("refusal", &answer, server.map(str::as_bytes));
        let refusal = expected.refusal().unwrap();
        assert_eq!(
            marshal_text(&refusal.payload),
            marshal_text(&answer[0].payload)
        );
        assert_eq!(refusal.serializer_id, answer[0].serializer_id);
        assert_eq!(refusal.seq, answer[0].seq);
        refused += 1;
    }
    assert!(refused >= 10, "{refused} refusals");
}

#[test]
fn compressed_messages_are_read_and_compressed_by_the_same_rule() {
    let (mut compressed, mut plain) = (0, 0);
    for record in records("compression.jsonl") {
        let id = record["id"].as_str().unwrap();
        let compress = id.contains("compress-client-on-server-on");
        for (sent, answered) in messages(&record) {
            for stream in [bytes(sent), bytes(answered)] {
                for frame in round_trip(id, &stream, None) {
                    let options = EncodeOptions {
                        compress,
                        ..EncodeOptions::default()
                    };
                    let mut encoded = Vec::new();
                    frame.encode(&options, &mut encoded).unwrap();
                    let mut decoder = FrameDecoder::new(limits(), None);
                    decoder.push(&encoded);
                    assert_eq!(decoder.next_frame(), Ok(Some(frame.clone())), "{id}");
                    *(if frame.flags.compressed {
                        &mut compressed
                    } else {
                        &mut plain
                    }) += 1;
                }
            }
        }
    }
    assert!(
        compressed > 20 && plain > 20,
        "{compressed} compressed, {plain} plain"
    );
}

/// The reaction of a server's frame layer to a record's bytes.
#[derive(Debug, PartialEq)]
enum Reaction {
    /// All messages are complete and well-formed. The layers above the frames decide about the reply.
    Passed,
    /// The decoder needs more bytes.
    Waiting,
    /// A CONNECTFAIL with this text, then the server closes the connection.
    Refused(String),
    /// The server closes the connection without a reply.
    Dropped,
    /// An exception reply with this text; the connection stays open.
    Raised(String),
}

fn react(decoder: &mut FrameDecoder, sent: &[u8], is_first: bool) -> Reaction {
    let mut is_first = is_first;
    decoder.push(sent);
    loop {
        match decoder.next_frame() {
            Ok(Some(_)) => {
                decoder.accept(LATER);
                is_first = false;
            }
            Ok(None) if decoder.is_mid_frame() => return Reaction::Waiting,
            Ok(None) => return Reaction::Passed,
            // This refusal is in the request's own serializer, which this test does not read.
            Err(error) if is_first && error.is_recoverable() => {
                return Reaction::Refused(error.to_string());
            }
            Err(error) if is_first => {
                return match error.refusal() {
                    Some(refusal) => {
                        assert_eq!(refusal.kind, MessageType::ConnectFail);
                        assert_eq!(refusal.flags, Flags::default());
                        Reaction::Refused(marshal_text(&refusal.payload).to_owned())
                    }
                    None => Reaction::Dropped,
                };
            }
            Err(error) if error.is_recoverable() => return Reaction::Raised(error.to_string()),
            Err(_) => return Reaction::Dropped,
        }
    }
}

/// Returns true if a recorded refusal or close was decided above the frames, by the payload or its serializer.
fn is_decided_above(id: &str) -> bool {
    [
        "/serializer-",
        "/connect-without-",
        "/connect-not-a-dict",
        "/connect-empty-payload",
        "/json-surrogate",
    ]
    .iter()
    .any(|case| id.contains(case))
}

#[test]
fn bad_input_has_the_reactions_of_the_real_servers() {
    let mut refused = 0;
    for record in records("raw.jsonl") {
        let id = record["id"].as_str().unwrap();
        let family = family(&record["family"]);
        let mut decoder = FrameDecoder::for_family(family, limits(), None);
        decoder.accept(CONNECT);
        let steps = record["steps"].as_array().unwrap();
        for (index, step) in steps.iter().enumerate() {
            let sent = bytes(&step["send"]);
            let is_last = index + 1 == steps.len();
            let is_closed = is_last && record["ended"] != "open";
            let answer = round_trip(id, &bytes(&step["receive"]), None);
            // Every step after a refusal has a closed connection.
            if decoder.next_frame().is_err() {
                assert!(answer.is_empty(), "{id}");
                continue;
            }
            let reaction = react(&mut decoder, &sent, index == 0);
            if is_decided_above(id) {
                assert_eq!(reaction, Reaction::Passed, "{id}");
                continue;
            }
            match answer.as_slice() {
                [fail] if fail.kind == MessageType::ConnectFail => {
                    let text = match fail.serializer_id {
                        1 => "Error -3 while decompressing data: incorrect header check",
                        _ => marshal_text(&fail.payload),
                    };
                    assert_eq!(reaction, Reaction::Refused(text.to_owned()), "{id}");
                    refused += 1;
                }
                [] if step.get("raises").is_some() => {
                    let raised = &step["raises"];
                    let expected = match raised[0].as_str().unwrap() {
                        "zlib.error" => Reaction::Raised(raised[1][0].as_str().unwrap().to_owned()),
                        _ => Reaction::Passed,
                    };
                    assert_eq!(reaction, expected, "{id}");
                }
                [] if is_closed || reaction == Reaction::Dropped => {
                    assert_eq!(reaction, Reaction::Dropped, "{id}");
                    assert_ne!(record["ended"], "open", "{id}");
                }
                [] => {
                    let is_oneway = id.contains("/oneway-");
                    let expected = if is_oneway {
                        Reaction::Passed
                    } else {
                        Reaction::Waiting
                    };
                    assert_eq!(reaction, expected, "{id}");
                }
                _ => assert_eq!(reaction, Reaction::Passed, "{id}"),
            }
        }
    }
    assert!(refused >= 20, "{refused} refusals");
}

#[test]
fn the_first_bytes_tell_the_families_apart() {
    for record in records("raw.jsonl") {
        let id = record["id"].as_str().unwrap();
        let family = family(&record["family"]);
        let sent = bytes(&record["steps"][0]["send"]);
        let is_own = sent.starts_with(b"PYRO") && sent[4..6] == family.version().to_be_bytes();
        if !is_own {
            continue;
        }
        let mut known = FrameDecoder::for_family(family, limits(), None);
        let mut unknown = FrameDecoder::new(limits(), None);
        for decoder in [&mut known, &mut unknown] {
            decoder.accept(CONNECT);
        }
        assert_eq!(
            react(&mut known, &sent, true),
            react(&mut unknown, &sent, true),
            "{id}"
        );
        assert_eq!(unknown.family(), Some(family), "{id}");
    }
}

#[test]
fn what_raw_clients_send_well_formed_encodes_alike() {
    let mut frames = 0;
    for record in records("raw.jsonl") {
        let id = record["id"].as_str().unwrap();
        // These messages differ in parts that the decoder drops: unknown bits, and fields without their flag.
        if ["unused-flag-bits", "without-flag", "message-with-flags"]
            .iter()
            .any(|case| id.ends_with(case))
        {
            continue;
        }
        for step in record["steps"].as_array().unwrap() {
            let sent = bytes(&step["send"]);
            let mut decoder = FrameDecoder::new(limits(), None);
            decoder.push(&sent);
            let is_well_formed = loop {
                match decoder.next_frame() {
                    Ok(Some(_)) => {}
                    Ok(None) => break !decoder.is_mid_frame(),
                    Err(_) => break false,
                }
            };
            if is_well_formed {
                frames += round_trip(id, &sent, None).len();
            }
        }
    }
    assert!(frames > 300, "{frames} frames");
}

#[test]
fn servers_and_clients_of_different_families_name_the_trouble_as_pyro_does() {
    for record in records("cross-family.jsonl") {
        let server = family(&record["family"]);
        let client = family(&record["client_family"]);
        let answer = bytes(&record["connect"][1]);

        let mut decoder = FrameDecoder::for_family(server, limits(), None);
        decoder.push(&bytes(&record["connect"][0]));
        let refusal = decoder.next_frame().unwrap_err().refusal().unwrap();
        let recorded = round_trip("refusal", &answer, None);
        assert_eq!(
            marshal_text(&refusal.payload),
            marshal_text(&recorded[0].payload)
        );

        let mut decoder = FrameDecoder::for_family(client, limits(), None);
        decoder.push(&answer);
        let error = decoder.next_frame().unwrap_err();
        let says = record["client_says"].as_str().unwrap();
        assert!(says.ends_with(&error.to_string()), "{says:?} and {error}");
    }
}

#[test]
fn discovery_answers_are_uris() {
    let mut uris = 0;
    for record in records("broadcast.jsonl") {
        for answer in [&record["receive"], &record["answer"]] {
            let Some(text) = answer.as_str().filter(|hex| !hex.is_empty()) else {
                continue;
            };
            let text = String::from_utf8(bytes(&Value::from(text))).unwrap();
            match Uri::parse(&text, 9090) {
                Ok(uri) => assert_eq!(uri.to_string(), text),
                Err(error) => assert_eq!(record["outcome"][1], error.to_string()),
            }
            uris += 1;
        }
    }
    assert!(uris > 10, "{uris} answers");
}
