//! The only pickle that Hearth writes: the refusal of a pickled request.
//!
//! This module does not read pickles. A Pyro4 client may switch to pickle, cloudpickle or dill after it has
//! connected. A server that does not accept the serializer answers with an exception reply in that same
//! serializer, because the client reads replies in no other, and closes the connection.

/// Appends the pickle of `Pyro4.errors.SerializeError(text)` to `out`, for a reply with the request's own
/// serializer id (pickle 4, dill 5 or cloudpickle 7; all three read plain pickles).
///
/// The format is pickle protocol 2, the highest that Python 2 reads:
///
/// | bytes | opcode |
/// |---|---|
/// | `80 02` | PROTO 2 |
/// | `63`, module, `0A`, class, `0A` | GLOBAL: push the class |
/// | `58`, length as little-endian u32, UTF-8 | BINUNICODE: push the text |
/// | `85` | TUPLE1: the arguments |
/// | `52` | REDUCE: call the class |
/// | `2E` | STOP |
///
/// A text that is longer than the length field allows is cut at a character boundary.
pub fn write_serialize_error(text: &str, out: &mut Vec<u8>) {
    let mut end = text.len().min(u32::MAX as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or_default().as_bytes();
    out.extend_from_slice(b"\x80\x02cPyro4.errors\nSerializeError\nX");
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text);
    out.extend_from_slice(b"\x85R.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_a_protocol_2_pickle_of_a_serialize_error() {
        let mut out = b"before".to_vec();
        write_serialize_error("caf\u{e9}", &mut out);
        assert_eq!(
            out,
            b"before\x80\x02cPyro4.errors\nSerializeError\nX\x05\0\0\0caf\xc3\xa9\x85R."
        );
    }
}
