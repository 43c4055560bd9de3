//! The HMAC of Pyro4 messages.
//!
//! It is an HMAC-SHA1 over the payload as on the wire, then the data of every other annotation in
//! ascending order of their keys, without the keys and lengths. The header is not covered. Pyro5
//! has no HMAC.

use ::hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// Key of the annotation that carries the digest.
pub(crate) const HMAC: [u8; 4] = *b"HMAC";

/// Length of a digest in bytes.
pub(crate) const DIGEST_LEN: usize = 20;

/// Returns the digest of a message whose annotations, without `HMAC`, are `chunks` in any order.
pub(crate) fn sign(
    key: &[u8],
    payload: &[u8],
    chunks: &mut [([u8; 4], &[u8])],
) -> [u8; DIGEST_LEN] {
    mac(key, payload, chunks).finalize().into_bytes().into()
}

/// Returns true if `digest` is the message's digest. The comparison takes constant time.
pub(crate) fn verify(
    key: &[u8],
    payload: &[u8],
    chunks: &mut [([u8; 4], &[u8])],
    digest: &[u8],
) -> bool {
    mac(key, payload, chunks).verify_slice(digest).is_ok()
}

fn mac(key: &[u8], payload: &[u8], chunks: &mut [([u8; 4], &[u8])]) -> Hmac<Sha1> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("hmac takes keys of any length");
    mac.update(payload);
    chunks.sort_unstable_by_key(|(key, _)| *key);
    for (_, data) in chunks {
        mac.update(data);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_that_of_rfc_2202() {
        let digest = sign(b"Jefe", b"what do ya want for nothing?", &mut []);
        assert_eq!(
            digest,
            [
                0xef, 0xfc, 0xdf, 0x6a, 0xe5, 0xeb, 0x2f, 0xa2, 0xd2, 0x74, 0x16, 0xd5, 0xf1, 0x84,
                0xdf, 0x9c, 0x25, 0x9a, 0x7c, 0x79
            ]
        );
    }

    #[test]
    fn annotations_count_in_order_of_their_keys() {
        let whole = sign(b"key", b"payload-one-two", &mut []);
        let mut chunks = [(*b"BBBB", &b"-two"[..]), (*b"AAAA", &b"-one"[..])];
        assert!(verify(b"key", b"payload", &mut chunks, &whole));
        assert!(!verify(b"yek", b"payload", &mut chunks, &whole));
        assert!(!verify(b"key", b"payload", &mut chunks[1..], &whole));
        assert!(!verify(b"key", b"payload", &mut chunks, &whole[..19]));
        assert!(!verify(b"key", b"payload", &mut chunks, &[]));
    }
}
