//! Fuzzes the first message of a connection, from its bytes to the value in its payload or the
//! refusal.

#![no_main]

use hearth_wire::frame::{EncodeOptions, FrameDecoder};
use hearth_wire::{Dialect, MessageType, Serializer};
use hearth_wire_fuzz::{limits, mend_headers};
use libfuzzer_sys::fuzz_target;

const CONNECT: &[MessageType] = &[MessageType::Connect];

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    mend_headers(&mut bytes);
    let mut decoder = FrameDecoder::new(limits(), None);
    decoder.accept(CONNECT);
    decoder.push(&bytes);
    let refusal = match decoder.next_frame() {
        Ok(None) => None,
        Err(error) => error.refusal(),
        Ok(Some(frame)) => match Serializer::from_id(frame.serializer_id, frame.family) {
            None => Some(frame.refused("not accepted")),
            Some(serializer) => Dialect::new(frame.family, serializer)
                .decode(&frame.payload, &limits())
                .err()
                .map(|error| frame.refused(error.class.name())),
        },
    };
    if let Some(refusal) = refusal {
        let mut out = Vec::new();
        refusal
            .encode(&EncodeOptions::default(), &mut out)
            .expect("a refusal is small");
    }
});
