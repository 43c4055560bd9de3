//! Fuzzes the frame decoder with a connection's bytes in pieces of any size. Nothing panics, the
//! frames do not depend on the pieces, and every frame encodes to bytes that decode to the same
//! frame.

#![no_main]

use hearth_wire::frame::FrameDecoder;
use hearth_wire::{Family, MessageType};
use hearth_wire_fuzz::{KEY, check_frame, decode_all, limits, mend_headers, settings};
use libfuzzer_sys::fuzz_target;

const CONNECT: &[MessageType] = &[MessageType::Connect];

fuzz_target!(|data: &[u8]| {
    let Some((bits, rest)) = settings(data) else {
        return;
    };
    let Some((piece_len, rest)) = settings(rest) else {
        return;
    };
    let key = (bits & 1 != 0).then_some(KEY);
    let decoder = || {
        let mut decoder = match bits >> 1 & 3 {
            0 => FrameDecoder::for_family(Family::Pyro4, limits(), key.map(Into::into)),
            1 => FrameDecoder::for_family(Family::Pyro5, limits(), key.map(Into::into)),
            _ => FrameDecoder::new(limits(), key.map(Into::into)),
        };
        if bits & 8 != 0 {
            decoder.accept(CONNECT);
        }
        decoder
    };
    let mut bytes = rest.to_vec();
    if bits & 16 == 0 {
        mend_headers(&mut bytes);
    }
    let whole = decode_all(decoder(), &bytes, bytes.len());
    let pieces = decode_all(decoder(), &bytes, piece_len.into());
    assert_eq!(whole, pieces);
    for frame in &whole.0 {
        check_frame(frame, key);
    }
    if let Some(refusal) = whole.1.and_then(|error| error.refusal()) {
        check_frame(&refusal, key);
    }
});
