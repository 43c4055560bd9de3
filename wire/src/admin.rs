//! The proof that authorizes cluster administration: computed by a client, checked by a node.
//!
//! `Hearth.Cluster.challenge()` returns a nonce as text. The proof is an HMAC-SHA-256, in hexadecimal. Its key
//! is a key of the cluster's key file. Its message is `PURPOSE`, a zero byte, the cluster id as `status()`
//! returns it, a zero byte, and the nonce. `Hearth.Cluster.authorize(proof)` takes the proof. In Python:
//! ```python
//! key = open("/etc/hearth.key", "rb").read().strip()
//! message = b"\0".join([b"hearth admin v1", cluster_id.encode(), nonce.encode()])
//! proof = hmac.new(key, message, "sha256").hexdigest()
//! ```

use ::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Domain separation: the first part of the message, so that a proof made for another purpose is not valid
/// here.
const PURPOSE: &[u8] = b"hearth admin v1";

/// Length of a raw proof in bytes; the hexadecimal text is twice as long.
const PROOF_LEN: usize = 32;

/// Maximum number of keys in a key file.
pub const KEY_COUNT_MAX: usize = 8;

/// Returns the proof, in hexadecimal, that `key` gives for the challenge `nonce` of the cluster `cluster_id`.
pub fn proof(key: &[u8], cluster_id: &str, nonce: &str) -> String {
    let proof = mac(key, cluster_id, nonce).finalize().into_bytes();
    proof.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns true if `proof` is the proof that `key` gives for this cluster and nonce. Takes hexadecimal digits
/// of either case. The comparison takes constant time.
pub fn proves(key: &[u8], cluster_id: &str, nonce: &str, proof: &str) -> bool {
    let proof = from_hex(proof);
    proof.is_some_and(|proof| mac(key, cluster_id, nonce).verify_slice(&proof).is_ok())
}

/// Returns the keys in the content of a key file: one key a line, without surrounding white space, the
/// preferred key first. Empty lines are skipped. A file that is not text is one key.
pub fn keys_of_file(content: &[u8]) -> Vec<&[u8]> {
    let is_text = str::from_utf8(content).is_ok_and(|text| {
        text.chars()
            .all(|char| !char.is_control() || char.is_whitespace())
    });
    if !is_text {
        return vec![content.trim_ascii()];
    }
    content
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|key| !key.is_empty())
        .collect()
}

fn mac(key: &[u8], cluster_id: &str, nonce: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("hmac takes keys of any length");
    for (index, part) in [PURPOSE, cluster_id.as_bytes(), nonce.as_bytes()]
        .into_iter()
        .enumerate()
    {
        if index > 0 {
            mac.update(&[0]);
        }
        mac.update(part);
    }
    mac
}

fn from_hex(text: &str) -> Option<[u8; PROOF_LEN]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * PROOF_LEN {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
    let mut bytes = [0; PROOF_LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "00112233445566778899aabbccddeeff";

    /// The expected proof was computed with Python's `hmac.new(key, message, "sha256").hexdigest()`.
    #[test]
    fn the_proof_is_that_of_the_contract() {
        assert_eq!(proof(b"secret", CLUSTER, "nonce"), PYTHON_PROOF);
        assert!(proves(b"secret", CLUSTER, "nonce", PYTHON_PROOF));
        assert!(proves(
            b"secret",
            CLUSTER,
            "nonce",
            &PYTHON_PROOF.to_uppercase()
        ));
    }

    const PYTHON_PROOF: &str = "f0d39f6fa59df7edd38785df81a8e9dfbf4396e15143e5df9c8e5d8132ed32ec";

    #[test]
    fn nothing_else_proves_the_key() {
        let good = proof(b"secret", CLUSTER, "nonce");
        for (key, cluster, nonce) in [
            (&b"secreT"[..], CLUSTER, "nonce"),
            (b"", CLUSTER, "nonce"),
            (b"secret", "other", "nonce"),
            (b"secret", CLUSTER, "nonc"),
        ] {
            assert!(!proves(key, cluster, nonce, &good));
        }
        for bad in [
            "",
            "0",
            "zz",
            &good[1..],
            &format!("{good}00"),
            &"g".repeat(64),
            &"é".repeat(32),
        ] {
            assert!(!proves(b"secret", CLUSTER, "nonce", bad), "{bad}");
        }
    }

    #[test]
    fn a_key_file_holds_one_key_a_line() {
        assert_eq!(keys_of_file(b" one \r\n\n\ttwo\n"), [b"one", b"two"]);
        assert_eq!(keys_of_file(b"one"), [b"one"]);
        assert!(keys_of_file(b" \n \n").is_empty());
        assert_eq!(keys_of_file(b"\xff\n\x01\n"), [b"\xff\n\x01"]);
        assert_eq!(keys_of_file(b"a\x00b\nc"), [b"a\x00b\nc"]);
    }
}
