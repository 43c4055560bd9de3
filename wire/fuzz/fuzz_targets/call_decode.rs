//! Fuzzes an INVOKE payload of any bytes, in every dialect.

#![no_main]

use hearth_wire::Serializer;
use hearth_wire_fuzz::{check_call, dialect, settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((bits, payload)) = settings(data) else {
        return;
    };
    let serializer = match bits >> 2 & 3 {
        0 => Serializer::Serpent,
        1 => Serializer::Json,
        2 => Serializer::Marshal,
        _ => Serializer::Msgpack,
    };
    check_call(dialect(bits, serializer), payload);
});
