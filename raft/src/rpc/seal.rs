//! Signatures of the frames on a connection whose nodes have proved the cluster key to each other.
//!
//! Each direction of a connection has its own key, derived from the cluster key and both hellos, and numbers
//! its frames from 0. A tag is HMAC-SHA-256 under the key of the direction over the signed part (head or body),
//! the frame's number and the bytes, cut to 16 bytes. A frame that was altered, dropped, repeated, reordered,
//! reflected or taken from another connection does not verify, and ends the connection.
//!
//! Frames are not encrypted. Without a cluster key the keys are derived from the hellos alone. The tags then
//! detect network errors, but do not keep out an attacker who has seen the hellos.

use std::io;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::io::AsyncRead;

use super::frame::{self, Frame, Head, Message, Packed, Part, TAG_LEN};

/// Label of a connection's session key, from which the keys of both directions are derived.
const SESSION: &[u8] = b"hearth peer 3: session";
const FROM_CALLER: &[u8] = b"hearth peer 3: from the caller";
const FROM_CALLED: &[u8] = b"hearth peer 3: from the called one";

/// The side of a connection: the client, which opened it (`Caller`), or the server, which accepted it
/// (`Called`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Caller,
    Called,
}

/// Both directions of a connection, as seen from one side.
#[derive(Debug)]
pub(crate) struct Seals {
    /// Signs the frames that this side sends.
    pub(crate) sealer: Sealer,
    /// Verifies the frames that this side receives.
    pub(crate) opener: Opener,
}

impl Seals {
    /// Returns the seals of protocol versions 1 and 2, which sign nothing.
    pub(super) fn clear() -> Self {
        Self {
            sealer: Sealer::Clear,
            opener: Opener::Clear,
        }
    }

    /// Returns the seals of `side` on a connection that began with these hellos, as they were sent, and with
    /// proofs under `cluster_key`.
    pub(super) fn signed(side: Side, cluster_key: &[u8], caller: &[u8], called: &[u8]) -> Self {
        let session = mac_of(cluster_key, &[SESSION, caller, called]).finalize();
        let session = session.into_bytes();
        let direction = |name| {
            let key = mac_of(&session, &[name]).finalize().into_bytes();
            Signer {
                mac: mac(&key),
                next_number: 0,
            }
        };
        let (out, back) = match side {
            Side::Caller => (direction(FROM_CALLER), direction(FROM_CALLED)),
            Side::Called => (direction(FROM_CALLED), direction(FROM_CALLER)),
        };
        Self {
            sealer: Sealer::Signed(out),
            opener: Opener::Signed(back),
        }
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("any length is a key")
}

/// Returns the HMAC-SHA-256 over `parts`, each preceded by its length (u64, little-endian).
pub(super) fn mac_of(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = mac(key);
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac
}

/// The key and the frame counter of one direction.
#[derive(Clone)]
pub(crate) struct Signer {
    mac: Hmac<Sha256>,
    /// The number of the next frame.
    next_number: u64,
}

impl std::fmt::Debug for Signer {
    /// Omits the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("next_number", &self.next_number)
            .finish_non_exhaustive()
    }
}

impl Signer {
    fn take_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        number
    }

    fn mac_of(&self, number: u64, part: Part<'_>) -> Hmac<Sha256> {
        let (what, bytes): (u8, &[u8]) = match part {
            Part::Head(bytes) => (0, bytes),
            Part::Body(bytes) => (1, bytes),
        };
        let mut mac = self.mac.clone();
        mac.update(&[what]);
        mac.update(&number.to_le_bytes());
        mac.update(bytes);
        mac
    }

    fn tag(&self, number: u64, part: Part<'_>) -> [u8; TAG_LEN] {
        let whole = self.mac_of(number, part).finalize().into_bytes();
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&whole[..TAG_LEN]);
        tag
    }

    fn is_tag(&self, number: u64, part: Part<'_>, tag: &[u8]) -> bool {
        // Compares in constant time.
        tag.len() == TAG_LEN && self.mac_of(number, part).verify_truncated_left(tag).is_ok()
    }
}

/// Packs messages into frames, in the order in which they are sent.
#[derive(Debug)]
pub(crate) enum Sealer {
    Clear,
    Signed(Signer),
}

impl Sealer {
    /// Packs the message into the next frame.
    pub(crate) fn seal(&mut self, message: Message) -> Packed {
        match self {
            Self::Clear => message.into_clear(),
            Self::Signed(signer) => {
                let number = signer.take_number();
                message.into_signed(|part| signer.tag(number, part))
            }
        }
    }
}

/// Reads frames. Accepts only frames that arrive unaltered and in the order in which they were sent.
#[derive(Debug)]
pub(crate) enum Opener {
    Clear,
    Signed(Signer),
}

impl Opener {
    /// Reads the next frame. Its body has at most `len_max` bytes and must arrive within `patience` plus the
    /// time that its length takes on a slow network. Returns `None` if the stream ends between two frames. Not
    /// cancel safe.
    ///
    /// # Errors
    /// `InvalidData` with the reason, `TimedOut`, and the errors of the stream.
    pub(crate) async fn read<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        len_max: usize,
        patience: Duration,
    ) -> io::Result<Option<Frame>> {
        let Some(head) = self.head(reader, len_max).await? else {
            return Ok(None);
        };
        if head.body_len() == 0 {
            return self.body(reader, head).await.map(Some);
        }
        let limit = patience + frame::time_for(head.body_len());
        match tokio::time::timeout(limit, self.body(reader, head)).await {
            Ok(frame) => frame.map(Some),
            Err(_) => {
                let text = format!("the rest of a message did not come within {limit:.1?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    /// Reads the head of the next frame, the first half of [`Self::read`].
    ///
    /// # Errors
    /// See [`Self::read`].
    pub(crate) async fn head<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        len_max: usize,
    ) -> io::Result<Option<Head>> {
        match self {
            Self::Clear => frame::read_clear_head(reader, len_max).await,
            Self::Signed(signer) => {
                let number = signer.next_number;
                frame::read_signed_head(reader, len_max, |part, tag| {
                    signer.is_tag(number, part, tag)
                })
                .await
            }
        }
    }

    /// Reads the rest of the frame with this head, which must be the last one that was read.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub(crate) async fn body<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        head: Head,
    ) -> io::Result<Frame> {
        match self {
            Self::Clear => frame::read_clear_body(reader, head).await,
            Self::Signed(signer) => {
                let number = signer.take_number();
                frame::read_signed_body(reader, head, |part, tag| signer.is_tag(number, part, tag))
                    .await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::{BODY_LEN_MAX, Kind};
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn caller() -> Seals {
        Seals::signed(Side::Caller, b"key", b"one", b"two")
    }

    fn called() -> Seals {
        Seals::signed(Side::Called, b"key", b"one", b"two")
    }

    fn sealed(seals: &mut Seals, body: &[u8]) -> Vec<u8> {
        let message = Message::new(Kind::Request, 7, 0, |out| out.extend_from_slice(body));
        seals.sealer.seal(message.unwrap()).as_slice().to_vec()
    }

    /// Returns the bodies in `bytes`, and an error if some bytes were rejected.
    fn opened(seals: &mut Seals, mut bytes: &[u8]) -> (Vec<Vec<u8>>, io::Result<()>) {
        let mut bodies = Vec::new();
        loop {
            let patience = Duration::from_secs(60);
            match run(seals.opener.read(&mut bytes, BODY_LEN_MAX, patience)) {
                Ok(Some(frame)) => bodies.push(frame.body),
                Ok(None) => return (bodies, Ok(())),
                Err(error) => return (bodies, Err(error)),
            }
        }
    }

    fn frames(seals: &mut Seals) -> [Vec<u8>; 3] {
        [&b"first"[..], b"", b"third"].map(|body| sealed(seals, body))
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..5),
        ) {
            let mut here = caller();
            let bytes: Vec<Vec<u8>> = bodies.iter().map(|body| sealed(&mut here, body)).collect();
            let (read, end) = opened(&mut called(), &bytes.concat());
            prop_assert!(end.is_ok());
            prop_assert_eq!(read, bodies);
        }

        #[test]
        fn a_changed_byte_is_noticed_before_its_frame_counts(
            at: prop::sample::Index,
            change in 1_u8..,
        ) {
            let frames = frames(&mut caller());
            let mut bytes = frames.concat();
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            let mut whole = 0;
            let mut end = 0;
            for frame in &frames {
                end += frame.len();
                whole += usize::from(end <= at);
            }
            let (read, end) = opened(&mut called(), &bytes);
            prop_assert_eq!(read.len(), whole);
            prop_assert_eq!(end.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_changed_length_is_not_waited_for() {
        for at in 16..20 {
            let mut bytes = sealed(&mut caller(), b"body");
            bytes[at] ^= 1;
            // No bytes follow the head.
            let (_, end) = opened(&mut called(), &bytes[..36]);
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::InvalidData, "{at}");
        }
    }

    #[test]
    fn frames_that_are_doubled_dropped_or_moved_are_refused() {
        let [first, second, third] = &frames(&mut caller());
        for (sequence, good) in [
            (vec![first, first], 1),
            (vec![first, second, second], 2),
            (vec![second], 0),
            (vec![first, third], 1),
            (vec![second, first], 0),
            (vec![first, second, third, first], 3),
        ] {
            let bytes: Vec<u8> = sequence.into_iter().flatten().copied().collect();
            let (read, end) = opened(&mut called(), &bytes);
            assert_eq!(read.len(), good);
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_frame_is_of_its_direction_and_its_connection() {
        let bytes = sealed(&mut caller(), b"body");
        let others = [
            caller(),
            Seals::signed(Side::Called, b"other", b"one", b"two"),
            Seals::signed(Side::Called, b"key", b"one", b"other"),
            Seals::signed(Side::Called, b"key", b"other", b"two"),
            Seals::signed(Side::Called, b"key", b"onet", b"wo"),
            Seals::clear(),
        ];
        for mut other in others {
            let (read, end) = opened(&mut other, &bytes);
            assert!(read.is_empty() && end.is_err());
        }
        let clear = sealed(
            &mut Seals::clear(),
            b"a clear frame that is as long as it likes",
        );
        let (read, end) = opened(&mut called(), &clear);
        assert!(read.is_empty() && end.is_err());
    }

    #[test]
    fn a_body_that_does_not_come_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let bytes = sealed(&mut caller(), b"body");
        let (mut near, mut far) = tokio::io::duplex(100);
        let reading = async {
            tokio::io::AsyncWriteExt::write_all(&mut near, &bytes[..38])
                .await
                .unwrap();
            let patience = Duration::from_secs(2);
            called().opener.read(&mut far, 100, patience).await
        };
        let error = runtime.block_on(reading).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
