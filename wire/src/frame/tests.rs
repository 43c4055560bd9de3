//! Tests of frames and the decoder together: reactions to invalid input, memory, round trips.

use proptest::prelude::*;

use super::*;
use crate::error::InflateError;
use crate::{DecodeError, Limits};

const KEY: &[u8] = b"s3cr3t";

fn decoder() -> FrameDecoder {
    FrameDecoder::new(Limits::default(), None)
}

fn encoded(frame: &Frame, options: &EncodeOptions<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(options, &mut out).unwrap();
    out
}

fn plain(frame: &Frame) -> Vec<u8> {
    encoded(frame, &EncodeOptions::default())
}

fn invoke(family: Family) -> Frame {
    Frame::new(family, MessageType::Invoke, 7, 1, b"payload".to_vec())
}

/// Returns the error of a new decoder for `bytes`.
fn error_of(bytes: &[u8]) -> DecodeError {
    let mut decoder = decoder();
    decoder.push(bytes);
    decoder.next_frame().unwrap_err()
}

/// Returns a message whose header announces `annotations.len()` bytes of annotations.
fn with_raw_annotations(family: Family, annotations: &[u8]) -> Vec<u8> {
    let mut frame = invoke(family);
    // One chunk of the right total length makes the room, with a valid header and checksum.
    let data_len = annotations.len() - annotations::header_len(family);
    frame.annotations.insert(*b"XXXX", vec![0; data_len]);
    let mut bytes = plain(&frame);
    let start = Header::len(family);
    bytes[start..start + annotations.len()].copy_from_slice(annotations);
    bytes
}

#[test]
fn refusals_carry_pyros_texts_in_marshal() {
    let refusal = error_of(&[b'!'; 40]).refusal().unwrap();
    assert_eq!(refusal.kind, MessageType::ConnectFail);
    assert_eq!(
        (refusal.family, refusal.seq, refusal.serializer_id),
        (Family::Pyro4, 0, 3)
    );
    assert_eq!(
        refusal.payload,
        b"u\x2c\0\0\0invalid data or unsupported protocol version"
    );
    let refusal = error_of(b"PYRO\x01\xf5").refusal().unwrap();
    assert_eq!(
        (refusal.family, refusal.seq, refusal.serializer_id),
        (Family::Pyro5, 0, 2)
    );
    assert_eq!(refusal.payload, b"u\x1d\0\0\0invalid protocol version: 501");
}

#[test]
fn refusals_of_a_request_speak_its_serializer() {
    for (family, serializer) in [
        (Family::Pyro4, Serializer::Marshal),
        (Family::Pyro5, Serializer::Msgpack),
    ] {
        let id = serializer.id(family);
        let request = Frame::new(family, MessageType::Connect, 9, id, Vec::new());
        let refusal = request.refused("unknown object");
        assert_eq!(refusal.kind, MessageType::ConnectFail);
        assert_eq!((refusal.seq, refusal.serializer_id), (9, id));
        assert_eq!(
            Dialect::new(family, serializer).decode(&refusal.payload, &Limits::default()),
            Ok(Value::from("unknown object"))
        );
        let unknown = Frame {
            serializer_id: 99,
            ..request
        };
        let refusal = unknown.refused("not accepted");
        assert_eq!(refusal.seq, 9);
        assert_eq!(refusal.serializer_id, Serializer::Marshal.id(family));
    }
}

#[test]
fn the_reason_of_a_refusal_is_written_as_marshal_writes_it() {
    let mut payload = Vec::new();
    Dialect::new(Family::Pyro4, Serializer::Marshal)
        .encode(&Value::from("reason \u{e9}"), &mut payload)
        .unwrap();
    assert_eq!(marshal_str("reason \u{e9}"), payload);
}

#[test]
fn a_message_above_the_limit_is_refused_from_its_header() {
    let limits = Limits {
        message_len_max: 10,
        ..Limits::default()
    };
    for family in [Family::Pyro4, Family::Pyro5] {
        let mut frame = invoke(family);
        frame.payload = vec![b'x'; 10];
        let mut decoder = FrameDecoder::new(limits, None);
        decoder.push(&plain(&frame));
        assert_eq!(
            decoder.next_frame(),
            Ok(Some(frame.clone())),
            "the limit is inclusive"
        );

        frame.payload.push(b'x');
        decoder.push(&plain(&frame)[..Header::len(family)]);
        let error = decoder.next_frame().unwrap_err();
        assert_eq!(
            error,
            DecodeError::TooLarge {
                family,
                len: 11,
                max: 10
            }
        );
        match family {
            Family::Pyro4 => assert_eq!(error.refusal(), None),
            Family::Pyro5 => assert_eq!(error.to_string(), "message too large (11, max=10)"),
        }
    }
}

#[test]
fn a_negative_length_is_pyro4s_receive_error() {
    let mut bytes = plain(&invoke(Family::Pyro4));
    bytes[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
    // The checksum covers the lower half of the length only, which changes from 7 to 0xffff.
    let checksum = u16::from_be_bytes([bytes[22], bytes[23]]).wrapping_sub(8);
    bytes[22..24].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(error_of(&bytes), DecodeError::NegativeLength { len: -1 });
}

#[test]
fn types_out_of_place_are_refused_from_the_header() {
    const CONNECT: &[MessageType] = &[MessageType::Connect];
    const LATER: &[MessageType] = &[MessageType::Invoke, MessageType::Ping];
    for (family, first, later) in [
        (
            Family::Pyro4,
            "invalid msg type 4 received",
            "invalid msg type 1 received",
        ),
        (
            Family::Pyro5,
            "invalid msg type 4 received (expected: 1)",
            "invalid msg type 1 received (expected: 4,6)",
        ),
    ] {
        let mut decoder = decoder();
        decoder.accept(CONNECT);
        decoder.push(&plain(&invoke(family))[..Header::len(family)]);
        assert_eq!(decoder.next_frame().unwrap_err().to_string(), first);

        let mut decoder = self::decoder();
        decoder.accept(CONNECT);
        let connect = Frame {
            kind: MessageType::Connect,
            ..invoke(family)
        };
        decoder.push(&plain(&connect));
        assert_eq!(decoder.next_frame(), Ok(Some(connect.clone())));
        decoder.accept(LATER);
        decoder.push(&plain(&connect));
        assert_eq!(decoder.next_frame().unwrap_err().to_string(), later);
    }
}

#[test]
fn unknown_types_are_refused() {
    let mut bytes = plain(&invoke(Family::Pyro5));
    bytes[6] = 9;
    assert!(matches!(
        error_of(&bytes),
        DecodeError::MessageType { found: 9, .. }
    ));
}

#[test]
fn pyro4_cuts_the_data_of_an_annotation_that_is_too_long() {
    let bytes = with_raw_annotations(Family::Pyro4, b"ABCD\x00\xffxyz");
    let mut decoder = decoder();
    decoder.push(&bytes);
    let frame = decoder.next_frame().unwrap().unwrap();
    assert_eq!(frame.annotations.get(*b"ABCD"), Some(&b"xyz"[..]));
    assert_eq!(frame.payload, b"payload");
}

#[test]
fn broken_annotations_have_pyros_texts() {
    let cut = error_of(&with_raw_annotations(Family::Pyro4, b"ABCD\0\0EFGH\0"));
    assert_eq!(cut.to_string(), "unpack requires a buffer of 6 bytes");
    for annotations in [
        &b"ABCD\0\0\0\x04xyz"[..],
        b"ABCD\0\0\0\x01xyz",
        b"ABCD\xff\xff\xff\xff",
    ] {
        let long = error_of(&with_raw_annotations(Family::Pyro5, annotations));
        assert_eq!(
            long.to_string(),
            "annotation chunk length exceeds remaining data"
        );
    }
    for (family, annotations) in [
        (Family::Pyro4, &b"AB\xffD\0\0"[..]),
        (Family::Pyro5, b"AB\xffD\0\0\0\0"),
    ] {
        assert_eq!(
            error_of(&with_raw_annotations(family, annotations)).to_string(),
            "'ascii' codec can't decode byte 0xff in position 2: ordinal not in range(128)"
        );
    }
}

#[test]
fn of_two_annotations_with_one_key_the_later_wins() {
    let bytes = with_raw_annotations(Family::Pyro4, b"ABCD\0\x01xEFGH\0\0ABCD\0\x01y");
    let mut decoder = decoder();
    decoder.push(&bytes);
    let frame = decoder.next_frame().unwrap().unwrap();
    let chunks: Vec<_> = frame.annotations.iter().collect();
    assert_eq!(chunks, [(*b"ABCD", &b"y"[..]), (*b"EFGH", &b""[..])]);
}

#[test]
fn the_number_of_annotations_is_limited() {
    let chunk = b"ABCD\0\0\0\0EFGH\0\0\0\0";
    let allowed = chunk.repeat(ANNOTATION_COUNT_MAX / 2);
    let mut decoder = decoder();
    decoder.push(&with_raw_annotations(Family::Pyro5, &allowed));
    assert_eq!(decoder.next_frame().unwrap().unwrap().annotations.len(), 2);

    let mut distinct = Vec::new();
    for index in 0..=ANNOTATION_COUNT_MAX {
        distinct.extend_from_slice(format!("{index:04}\0\0\0\0").as_bytes());
    }
    let error = error_of(&with_raw_annotations(Family::Pyro5, &distinct));
    assert!(matches!(
        error,
        DecodeError::TooManyChunks {
            max: ANNOTATION_COUNT_MAX,
            ..
        }
    ));
}

#[test]
fn correlation_ids_travel_in_each_familys_place() {
    for family in [Family::Pyro4, Family::Pyro5] {
        let mut frame = invoke(family);
        frame.correlation_id = Some(*b"0123456789abcdef");
        frame.annotations.insert(*b"XYZW", b"x".to_vec());
        let bytes = plain(&frame);
        let at = match family {
            Family::Pyro4 => 24 + 6,
            Family::Pyro5 => 20,
        };
        assert_eq!(&bytes[at..at + 16], b"0123456789abcdef");
        let mut decoder = decoder();
        decoder.push(&bytes);
        assert_eq!(decoder.next_frame(), Ok(Some(frame)));
    }
}

#[test]
fn a_correlation_id_without_its_flag_is_ignored() {
    let mut bytes = plain(&invoke(Family::Pyro5));
    bytes[20] = 1;
    let mut decoder = decoder();
    decoder.push(&bytes);
    assert_eq!(decoder.next_frame(), Ok(Some(invoke(Family::Pyro5))));
}

#[test]
fn signatures_are_checked_before_anything_else() {
    let frame = Frame {
        payload: vec![b'x'; 300],
        ..invoke(Family::Pyro4)
    };
    let signed = EncodeOptions {
        hmac_key: Some(KEY),
        compress: true,
        ..EncodeOptions::default()
    };
    let result = |key: Option<&[u8]>, bytes: &[u8]| {
        let mut decoder = FrameDecoder::new(Limits::default(), key.map(Into::into));
        decoder.push(bytes);
        decoder.next_frame()
    };
    let bytes = encoded(&frame, &signed);
    let flags = Flags {
        compressed: true,
        ..Flags::default()
    };
    assert_eq!(
        result(Some(KEY), &bytes),
        Ok(Some(Frame {
            flags,
            ..frame.clone()
        }))
    );
    assert_eq!(result(None, &bytes), Err(DecodeError::HmacUnexpected));
    assert_eq!(result(Some(b""), &bytes), Err(DecodeError::HmacUnexpected));
    assert_eq!(
        result(Some(b"other"), &bytes),
        Err(DecodeError::HmacMismatch)
    );
    assert_eq!(
        result(Some(KEY), &plain(&frame)),
        Err(DecodeError::HmacMissing)
    );
    // Key, digest and payload. The digest's length field is left out, because Pyro truncates a
    // chunk that is too long and sees only the remaining bytes.
    for at in (24..28).chain(30..bytes.len()) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x01;
        assert!(result(Some(KEY), &changed).is_err(), "byte {at}");
    }

    let pyro5 = invoke(Family::Pyro5);
    assert_eq!(
        encoded(&pyro5, &signed),
        plain(&pyro5),
        "Pyro5 is never signed"
    );
    assert_eq!(result(Some(KEY), &plain(&pyro5)), Ok(Some(pyro5)));
}

#[test]
fn each_family_compresses_what_its_programs_do() {
    use MessageType::{Connect, ConnectFail, Invoke, Ping, Result};
    let compress = EncodeOptions {
        compress: true,
        ..EncodeOptions::default()
    };
    let is_compressed = |family, kind, exception, len| {
        let mut frame = Frame {
            kind,
            payload: vec![b'x'; len],
            ..invoke(family)
        };
        frame.flags.exception = exception;
        let mut decoder = decoder();
        decoder.push(&encoded(&frame, &compress));
        let found = decoder.next_frame().unwrap().unwrap();
        assert_eq!(found.payload, frame.payload);
        found.flags.compressed
    };
    assert!(!is_compressed(Family::Pyro4, Invoke, false, 199));
    assert!(is_compressed(Family::Pyro4, Invoke, false, 200));
    assert!(is_compressed(Family::Pyro4, Connect, false, 200));
    assert!(is_compressed(Family::Pyro4, Result, false, 200));
    assert!(!is_compressed(Family::Pyro4, Result, true, 200));
    assert!(!is_compressed(Family::Pyro4, Ping, false, 200));
    assert!(!is_compressed(Family::Pyro4, ConnectFail, false, 200));
    assert!(!is_compressed(Family::Pyro5, Invoke, false, 100));
    for kind in [Connect, ConnectFail, Invoke, Ping, Result] {
        assert!(is_compressed(Family::Pyro5, kind, true, 101));
    }
}

#[test]
fn a_pyro4_message_that_does_not_inflate_leaves_the_connection_usable() {
    let bad = |family, kind| {
        let mut bytes = plain(&Frame {
            kind,
            ..invoke(family)
        });
        let (flags, checksum) = (9, 23);
        bytes[flags] |= 2;
        if family == Family::Pyro4 {
            bytes[checksum] += 2;
        }
        bytes
    };
    let text = "Error -3 while decompressing data: incorrect header check";

    let mut decoder = decoder();
    decoder.push(&bad(Family::Pyro4, MessageType::Invoke));
    decoder.push(&plain(&invoke(Family::Pyro4)));
    let error = decoder.next_frame().unwrap_err();
    assert!(error.is_recoverable());
    assert_eq!(error.to_string(), text);
    let DecodeError::Inflate { frame, error } = error else {
        panic!("{error:?}")
    };
    assert_eq!((frame.seq, frame.serializer_id), (7, 1));
    assert_eq!(error.to_exception().class.name(), "error");
    assert_eq!(decoder.next_frame(), Ok(Some(invoke(Family::Pyro4))));

    let mut decoder = self::decoder();
    decoder.push(&bad(Family::Pyro5, MessageType::Invoke));
    let error = decoder.next_frame().unwrap_err();
    assert!(!error.is_recoverable());
    assert_eq!(
        error.refusal(),
        Some(Frame::connect_fail(Family::Pyro5, text))
    );
    decoder.push(&plain(&invoke(Family::Pyro5)));
    assert_eq!(decoder.next_frame(), Err(error));

    let mut decoder = self::decoder();
    decoder.push(&bad(Family::Pyro4, MessageType::Ping));
    assert_eq!(decoder.next_frame().unwrap().unwrap().payload, b"payload");
}

#[test]
fn inflated_payloads_are_limited() {
    let limits = Limits {
        inflated_len_max: 999,
        ..Limits::default()
    };
    let frame = Frame {
        payload: vec![0; 1000],
        ..invoke(Family::Pyro5)
    };
    let mut decoder = FrameDecoder::new(limits, None);
    decoder.push(&encoded(
        &frame,
        &EncodeOptions {
            compress: true,
            ..EncodeOptions::default()
        },
    ));
    let Err(DecodeError::Inflate { error, .. }) = decoder.next_frame() else {
        panic!("the limit must hold");
    };
    assert_eq!(error, InflateError::TooLarge { max: 999 });
}

#[test]
fn an_idle_decoder_owns_no_memory() {
    let mut decoder = decoder();
    for len in [0, 100, 5000, 200_000] {
        let frame = Frame {
            payload: vec![b'x'; len],
            ..invoke(Family::Pyro4)
        };
        let bytes = plain(&frame);
        for chunk in bytes.chunks(700) {
            assert_eq!(decoder.next_frame(), Ok(None));
            decoder.buffer_mut().extend_from_slice(chunk);
            assert!(decoder.is_mid_frame());
        }
        assert_eq!(decoder.next_frame(), Ok(Some(frame)));
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(!decoder.is_mid_frame());
        decoder.push(b"");
        assert_eq!(decoder.capacity(), 0, "after {len} bytes");
    }
}

#[test]
fn an_announced_length_takes_no_memory() {
    let mut decoder = decoder();
    let bytes = plain(&Frame {
        payload: vec![b'x'; 1 << 20],
        ..invoke(Family::Pyro5)
    });
    decoder.push(&bytes[..100]);
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.buffer_mut().capacity() <= 128 << 10);
}

#[test]
fn a_small_rest_does_not_keep_a_large_buffer() {
    let mut decoder = decoder();
    let small = plain(&invoke(Family::Pyro4));
    decoder.push(&small.repeat(10_000));
    decoder.push(&small[..5]);
    for _ in 0..10_000 {
        assert_eq!(decoder.next_frame(), Ok(Some(invoke(Family::Pyro4))));
    }
    assert_eq!(decoder.next_frame(), Ok(None));
    decoder.push(&small[5..6]);
    assert!(decoder.capacity() < 100, "{} bytes", decoder.capacity());
}

#[test]
fn values_that_do_not_fit_the_header_are_errors() {
    let mut out = b"before".to_vec();
    let options = EncodeOptions::default();
    let frame = Frame {
        serializer_id: 256,
        ..invoke(Family::Pyro5)
    };
    assert_eq!(
        frame.encode(&options, &mut out),
        Err(EncodeError::SerializerId { id: 256 })
    );
    let mut frame = invoke(Family::Pyro4);
    frame.annotations.insert(*b"LONG", vec![0; 65_530]);
    assert_eq!(
        frame.encode(&options, &mut out),
        Err(EncodeError::TooLarge {
            len: 65_536,
            max: 65_535
        })
    );
    let options = EncodeOptions {
        message_len_max: Some(6),
        ..options
    };
    assert_eq!(
        invoke(Family::Pyro5).encode(&options, &mut out),
        Err(EncodeError::TooLarge { len: 7, max: 6 })
    );
    assert_eq!(out, b"before");
}

fn kinds() -> impl Strategy<Value = MessageType> {
    (1_u16..=6).prop_map(|number| MessageType::from_number(number).unwrap())
}

prop_compose! {
    fn flags(family: Family)(
        exception: bool,
        oneway: bool,
        batch: bool,
        meta_on_connect: bool,
        item_stream_result: bool,
        keep_serialized: bool,
    ) -> Flags {
        Flags {
            exception,
            compressed: false,
            oneway,
            batch,
            meta_on_connect: meta_on_connect && family == Family::Pyro4,
            item_stream_result,
            keep_serialized,
        }
    }
}

fn frames(family: Family) -> impl Strategy<Value = Frame> {
    let chunk = ("[A-Z]{4}", proptest::collection::vec(any::<u8>(), 0..40));
    (
        kinds(),
        flags(family),
        any::<u16>(),
        0_u16..=255,
        any::<Option<[u8; 16]>>(),
        proptest::collection::vec(chunk, 0..4),
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..400),
            (0_usize..100_000).prop_map(|len| vec![b'a'; len]),
        ],
    )
        .prop_map(
            move |(kind, flags, seq, serializer_id, correlation_id, chunks, payload)| {
                let mut frame = Frame::new(family, kind, seq, serializer_id, payload);
                frame.flags = flags;
                frame.correlation_id = correlation_id;
                for (key, data) in chunks
                    .into_iter()
                    .filter(|(key, _)| key != "HMAC" && key != "CORR")
                {
                    frame
                        .annotations
                        .insert(key.as_bytes().try_into().unwrap(), data);
                }
                frame
            },
        )
}

fn conversations() -> impl Strategy<Value = Vec<Frame>> {
    prop_oneof![Just(Family::Pyro4), Just(Family::Pyro5)]
        .prop_flat_map(|family| proptest::collection::vec(frames(family), 1..6))
}

proptest! {
    #[test]
    fn what_was_encoded_decodes_in_pieces_of_any_size(
        frames in conversations(),
        compress: bool,
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..80)),
        pieces in proptest::collection::vec(1_usize..5000, 1..20),
    ) {
        let options = EncodeOptions { compress, hmac_key: key.as_deref(), message_len_max: None };
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.encode(&options, &mut bytes).unwrap();
        }
        let mut decoder = FrameDecoder::new(Limits::default(), key.clone().map(Into::into));
        let mut decoded = Vec::new();
        let mut rest = bytes.as_slice();
        for len in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, tail) = rest.split_at(rest.len().min(*len));
            rest = tail;
            decoder.push(piece);
            while let Some(mut frame) = decoder.next_frame().unwrap() {
                frame.flags.compressed = false;
                decoded.push(frame);
            }
        }
        prop_assert!(!decoder.is_mid_frame());
        prop_assert_eq!(decoded, frames);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        frame in frames(Family::Pyro4),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8),
        signed: bool,
    ) {
        let mut bytes = plain(&frame);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut decoder = FrameDecoder::new(Limits::default(), signed.then(|| KEY.into()));
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next_frame() {}
    }
}
