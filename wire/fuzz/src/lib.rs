//! The common parts of the fuzz targets: settings from the first input bytes, and the properties that every
//! decoded message or value must have.

use hearth_wire::frame::{EncodeOptions, FrameDecoder};
use hearth_wire::{Call, DecodeError, Dialect, Exception, Family, Frame, Limits, Serializer};

/// The key of signed connections.
pub const KEY: &[u8] = b"s3cr3t";

/// Limits that small inputs can exceed.
pub fn limits() -> Limits {
    Limits {
        message_len_max: 4096,
        inflated_len_max: 8192,
        depth_max: 50,
        value_count_max: 1000,
    }
}

/// Splits the input into the settings byte and the rest.
pub fn settings(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(first, rest)| (*first, rest))
}

/// Returns a dialect of `serializer`: bit 0 of the settings selects the family, bit 1 Python 2.
pub fn dialect(settings: u8, serializer: Serializer) -> Dialect {
    let family = if settings & 1 == 0 {
        Family::Pyro4
    } else {
        Family::Pyro5
    };
    Dialect {
        python2: settings & 2 != 0,
        ..Dialect::new(family, serializer)
    }
}

/// Decodes `data` in pieces of `piece_len` bytes. Returns all frames, and the error that ended the decoding, if
/// any.
pub fn decode_all(
    mut decoder: FrameDecoder,
    data: &[u8],
    piece_len: usize,
) -> (Vec<Frame>, Option<DecodeError>) {
    let mut frames = Vec::new();
    for (index, piece) in data.chunks(piece_len.max(1)).enumerate() {
        if index % 2 == 0 {
            decoder.push(piece);
        } else {
            decoder.buffer_mut().extend_from_slice(piece);
        }
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(DecodeError::Inflate { frame, .. }) if frame.family == Family::Pyro4 => {
                    frames.push(*frame);
                }
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Repairs the checksum or magic number of the headers in `data`, so that the code after these checks is
/// reached. Lengths, types and flags stay as they are.
pub fn mend_headers(data: &mut [u8]) {
    let mut at = 0;
    while let Some(message) = data.get_mut(at..) {
        let len = if message.starts_with(b"PYRO\x00\x30") && message.len() >= 24 {
            let number = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
            let sum = [4, 6, 8, 10, 14, 16, 18]
                .into_iter()
                .fold(0x34e9_u16, |sum, at| sum.wrapping_add(number(at)));
            let payload_len = (u32::from(number(12)) << 16 | u32::from(number(14))) as usize;
            let len = 24 + payload_len + usize::from(number(18));
            message[22..24].copy_from_slice(&sum.to_be_bytes());
            len
        } else if message.starts_with(b"PYRO\x01\xf6") && message.len() >= 40 {
            message[38..40].copy_from_slice(&[0x4d, 0xc5]);
            let number = |at: usize| {
                u32::from_be_bytes([
                    message[at],
                    message[at + 1],
                    message[at + 2],
                    message[at + 3],
                ])
            };
            40 + number(12) as usize + number(16) as usize
        } else {
            return;
        };
        at += len;
    }
}

/// Checks that a decoded frame encodes, and that the result decodes to the same frame.
pub fn check_frame(frame: &Frame, key: Option<&[u8]>) {
    let mut frame = frame.clone();
    // The encoder decides about compression.
    frame.flags.compressed = false;
    for compress in [false, true] {
        let options = EncodeOptions {
            compress,
            hmac_key: key,
            message_len_max: None,
        };
        let mut bytes = Vec::new();
        if frame.encode(&options, &mut bytes).is_err() {
            // A truncated signature was accepted as an annotation; the whole signature is longer and does not
            // fit.
            assert_eq!(frame.family, Family::Pyro4);
            return;
        }
        let mut decoder = FrameDecoder::new(Limits::default(), key.map(Into::into));
        decoder.push(&bytes);
        let mut again = decoder
            .next_frame()
            .expect("an encoded frame decodes")
            .expect("an encoded frame is whole");
        again.flags.compressed = false;
        assert_eq!(again, frame);
        assert!(!decoder.is_mid_frame());
    }
}

/// Checks that a decoded value can be encoded in the same dialect, unless its class cannot be expressed, and
/// that the result can be decoded.
pub fn check_value(settings: u8, serializer: Serializer, data: &[u8]) {
    let dialect = dialect(settings, serializer);
    let Ok(value) = dialect.decode(data, &limits()) else {
        return;
    };
    let mut written = Vec::new();
    if dialect.encode(&value, &mut written).is_ok() {
        let error = dialect.decode(&written, &Limits::default()).err();
        assert!(
            error
                .as_ref()
                .is_none_or(|error| is_key_of_serpent(serializer, error)),
            "{value:?} became {written:?}, which is {error:?}"
        );
    }
}

/// Does the same as [`check_value`] for the call in a payload.
pub fn check_call(dialect: Dialect, payload: &[u8]) {
    let Ok((call, dialect)) = Call::decode(dialect, payload, &limits()) else {
        return;
    };
    let mut written = Vec::new();
    if call.encode(dialect, &mut written).is_ok() {
        let error = Call::decode(dialect, &written, &Limits::default()).err();
        assert!(
            error
                .as_ref()
                .is_none_or(|error| is_key_of_serpent(dialect.serializer, error)),
            "{call:?} became {written:?}, which is {error:?}"
        );
    }
}

/// Returns true for an error that Python has as well: serpent writes bytes and not-a-number as dicts even if
/// they are keys or set elements, and cannot read the result.
fn is_key_of_serpent(serializer: Serializer, error: &Exception) -> bool {
    serializer == Serializer::Serpent && *error == Exception::type_error("unhashable type: 'dict'")
}
