//! Compressed payloads: the rules by which each family compresses, and inflating within a limit.
//!
//! The format is zlib's. Annotations are never compressed.

use flate2::{
    Compress, Compression, Decompress, DecompressError, FlushCompress, FlushDecompress, Status,
};

use super::{Flags, MessageType};
use crate::Family;
use crate::error::InflateError;

/// Initial output space in bytes, and the least by which it grows.
const CHUNK_LEN: usize = 4096;

/// Returns true if a sender of `family` with compression on tries to compress this message. Pyro4
/// does so from 200 bytes on, but not for exceptions, pings and refusals. Pyro5 does so above 100
/// bytes, for every type.
pub(super) fn applies(family: Family, kind: MessageType, flags: Flags, payload_len: usize) -> bool {
    match (family, kind) {
        (Family::Pyro4, MessageType::ConnectFail | MessageType::Ping) => false,
        (Family::Pyro4, _) => payload_len >= 200 && !flags.exception,
        (Family::Pyro5, _) => payload_len > 100,
    }
}

/// Appends the compressed payload to `out`. Returns false and leaves `out` unchanged if the payload
/// must be sent plain: Pyro4 sends the compressed form only if it is smaller, Pyro5 sends it
/// always.
pub(super) fn deflate(family: Family, payload: &[u8], out: &mut Vec<u8>) -> bool {
    let level = match family {
        Family::Pyro4 => 6,
        Family::Pyro5 => 4,
    };
    let start = out.len();
    let mut stream = Compress::new(Compression::new(level), true);
    loop {
        out.reserve(payload.len() / 2 + CHUNK_LEN);
        let rest = consumed(payload, stream.total_in());
        match stream.compress_vec(rest, out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => break,
            Ok(Status::Ok | Status::BufError) => {}
            Err(_) => {
                out.truncate(start);
                return false;
            }
        }
    }
    if family == Family::Pyro4 && out.len() - start >= payload.len() {
        out.truncate(start);
        return false;
    }
    true
}

/// Returns the plain payload, of at most `len_max` bytes. Ignores bytes after the end of the
/// stream, as Python's `zlib.decompress` does.
///
/// # Errors
/// [`InflateError`] if the data is not one whole zlib stream or is longer than the limit.
pub(super) fn inflate(data: &[u8], len_max: usize) -> Result<Vec<u8>, InflateError> {
    let mut stream = Decompress::new(true);
    let mut plain = Vec::new();
    loop {
        if plain.len() == plain.capacity() {
            // One byte more than allowed shows that there is more.
            let room = len_max.saturating_add(1).saturating_sub(plain.len());
            if room == 0 {
                return Err(InflateError::TooLarge { max: len_max });
            }
            plain.reserve_exact(room.min(plain.len().max(CHUNK_LEN)));
        }
        let rest = consumed(data, stream.total_in());
        let status = stream
            .decompress_vec(rest, &mut plain, FlushDecompress::Finish)
            .map_err(|error| InflateError::Data(zlib_error_text(&error, data)))?;
        if plain.len() > len_max {
            return Err(InflateError::TooLarge { max: len_max });
        }
        if status == Status::StreamEnd {
            plain.shrink_to_fit();
            return Ok(plain);
        }
        if plain.len() < plain.capacity() {
            let text = "Error -5 while decompressing data: incomplete or truncated stream";
            return Err(InflateError::Data(text.to_owned()));
        }
    }
}

/// The rest of `data` after the first `total_in` bytes.
fn consumed(data: &[u8], total_in: u64) -> &[u8] {
    usize::try_from(total_in)
        .ok()
        .and_then(|at| data.get(at..))
        .unwrap_or(&[])
}

/// The text of Python's `zlib.error` for `data`. zlib-rs differs from zlib in one message, and its
/// fast loop loses the message.
fn zlib_error_text(error: &DecompressError, data: &[u8]) -> String {
    if error.needs_dictionary().is_some() {
        return "Error 2 while decompressing data".to_owned();
    }
    let reason = match error.message() {
        Some("repeated call with bad state") => slow_error(data),
        reason => reason.map(str::to_owned),
    };
    let reason = match reason.as_deref() {
        Some("invalid distance code too far back") => "invalid distance too far back",
        Some(reason) => reason,
        None => "invalid input data",
    };
    format!("Error -3 while decompressing data: {reason}")
}

/// The message that inflating `data` ends with if the output space is always too small for the fast
/// loop.
fn slow_error(data: &[u8]) -> Option<String> {
    let mut stream = Decompress::new(true);
    let mut scratch = [0; 128];
    loop {
        let before = (stream.total_in(), stream.total_out());
        let rest = consumed(data, stream.total_in());
        match stream.decompress(rest, &mut scratch, FlushDecompress::None) {
            Err(error) => return error.message().map(str::to_owned),
            Ok(Status::StreamEnd) => return None,
            Ok(_) if before == (stream.total_in(), stream.total_out()) => return None,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(data: &[u8]) -> String {
        inflate(data, 1000).unwrap_err().to_string()
    }

    #[test]
    fn errors_have_the_texts_of_pythons_zlib() {
        // CPython 3.11 gives these texts for `zlib.decompress()` of the same bytes.
        for (data, text) in [
            (
                &b"not zlib"[..],
                "Error -3 while decompressing data: incorrect header check",
            ),
            (
                b"",
                "Error -5 while decompressing data: incomplete or truncated stream",
            ),
            (
                b"x",
                "Error -5 while decompressing data: incomplete or truncated stream",
            ),
            (
                b"x\x9cK",
                "Error -5 while decompressing data: incomplete or truncated stream",
            ),
            (
                b"\x79\x18",
                "Error -3 while decompressing data: unknown compression method",
            ),
            (
                b"\x88\x1c",
                "Error -3 while decompressing data: invalid window size",
            ),
            (b"x\xbb\0\0\0\0", "Error 2 while decompressing data"),
            (
                b"x\x9c\x07",
                "Error -3 while decompressing data: invalid block type",
            ),
            (
                b"x\x9c\x01\x01\0\0\0a",
                "Error -3 while decompressing data: invalid stored block lengths",
            ),
            (
                b"x\x9c\x03\0\0\0\0\x02",
                "Error -3 while decompressing data: incorrect data check",
            ),
            (
                b"x\x9c\x63\x00\x42\0\0",
                "Error -3 while decompressing data: invalid distance too far back",
            ),
        ] {
            assert_eq!(text_of(data), text, "{data:x?}");
        }
    }

    #[test]
    fn errors_in_the_fast_loop_keep_their_texts() {
        // Deliberately damaged streams, and the texts of CPython 3.11 for them.
        for (hex, reason) in [
            (
                "7801934429f0d6d2ae8bda69750a2f0deb036f",
                "invalid distance too far back",
            ),
            (
                "480d4b4d4c49cc4856e04a4be54ae2e24a4f494de34ae1e2ca484d4a4e501a73e7020aa7a62427257229\
                 2426a7a5a5a4242ba470a525a726722543b5a472a5a627029527656480b849c96989190a19a90a490aa9\
                 49698940c5a940b1c4d454a068725246725a7a4606d0a00caec4b4b48c0c85a4c4f424005721283a",
                "invalid literal/length code",
            ),
        ] {
            let data: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            assert_eq!(
                text_of(&data),
                format!("Error -3 while decompressing data: {reason}")
            );
        }
    }

    #[test]
    fn bytes_after_the_stream_are_ignored() {
        let mut data = Vec::new();
        assert!(deflate(Family::Pyro5, b"payload", &mut data));
        data.extend_from_slice(b"junk");
        assert_eq!(inflate(&data, 7), Ok(b"payload".to_vec()));
    }

    #[test]
    fn a_bomb_is_cut_at_the_limit() {
        let mut data = Vec::new();
        assert!(deflate(Family::Pyro4, &vec![0; 1 << 20], &mut data));
        for max in [0, 1, CHUNK_LEN - 1, CHUNK_LEN, (1 << 20) - 1] {
            assert_eq!(inflate(&data, max), Err(InflateError::TooLarge { max }));
        }
        let plain = inflate(&data, 1 << 20).unwrap();
        assert_eq!(plain.len(), 1 << 20);
    }

    #[test]
    fn only_pyro5_keeps_what_became_larger() {
        let mut out = b"before".to_vec();
        assert!(!deflate(Family::Pyro4, b"abc", &mut out));
        assert_eq!(out, b"before");
        assert!(deflate(Family::Pyro5, b"abc", &mut out));
        assert_eq!(inflate(&out[6..], 3), Ok(b"abc".to_vec()));
    }
}
