//! Fuzzes a marshal payload of any bytes, in either family.

#![no_main]

use hearth_wire::Serializer;
use hearth_wire_fuzz::{check_value, settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((bits, payload)) = settings(data) {
        check_value(bits, Serializer::Marshal, payload);
    }
});
