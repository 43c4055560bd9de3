//! The fixed headers of both versions: byte tables, checks, encode and decode.
//!
//! All numbers are big-endian. Both headers begin with the four letters `PYRO` and the version, so
//! six bytes tell the families apart.

use super::{Flags, MessageType};
use crate::{DecodeError, EncodeError, Family};

/// The four letters at the start of every message.
const TAG: &[u8; 4] = b"PYRO";
/// Length of the tag and the version in bytes.
const START_LEN: usize = 6;
/// Offset of the version, u16.
const VERSION: usize = 4;

/// Pyro4's header.
///
/// | Offset | Field |
/// |---|---|
/// | 0 | `PYRO` |
/// | 4 | version, u16: 48 |
/// | 6 | message type, u16 |
/// | 8 | flags, u16 |
/// | 10 | sequence number, u16 |
/// | 12 | payload length, i32, not negative |
/// | 16 | serializer id, u16 |
/// | 18 | length of all annotation chunks, u16 |
/// | 20 | reserved, u16: 0, not checked |
/// | 22 | checksum, u16 |
mod pyro4 {
    pub(super) const LEN: usize = 24;
    pub(super) const KIND: usize = 6;
    pub(super) const FLAGS: usize = 8;
    pub(super) const SEQ: usize = 10;
    pub(super) const PAYLOAD_LEN: usize = 12;
    pub(super) const SERIALIZER_ID: usize = 16;
    pub(super) const ANNOTATIONS_LEN: usize = 18;
    pub(super) const CHECKSUM: usize = 22;
    /// Added to the sum of the fields.
    pub(super) const CHECKSUM_SEED: u16 = 0x34e9;
}

/// Pyro5's header.
///
/// | Offset | Field |
/// |---|---|
/// | 0 | `PYRO` |
/// | 4 | version, u16: 502 |
/// | 6 | message type, u8 |
/// | 7 | serializer id, u8 |
/// | 8 | flags, u16 |
/// | 10 | sequence number, u16 |
/// | 12 | payload length, u32 |
/// | 16 | length of all annotation chunks, u32 |
/// | 20 | correlation id, 16 bytes, valid with its flag |
/// | 36 | reserved, u16: 0, not checked |
/// | 38 | magic number, u16 |
mod pyro5 {
    pub(super) const LEN: usize = 40;
    pub(super) const KIND: usize = 6;
    pub(super) const SERIALIZER_ID: usize = 7;
    pub(super) const FLAGS: usize = 8;
    pub(super) const SEQ: usize = 10;
    pub(super) const PAYLOAD_LEN: usize = 12;
    pub(super) const ANNOTATIONS_LEN: usize = 16;
    pub(super) const CORRELATION_ID: usize = 20;
    pub(super) const MAGIC: usize = 38;
    pub(super) const MAGIC_NUMBER: u16 = 0x4dc5;
}

/// Flag bits; those from 0x10 up differ between the families.
mod bit {
    pub(super) const EXCEPTION: u16 = 0x01;
    pub(super) const COMPRESSED: u16 = 0x02;
    pub(super) const ONEWAY: u16 = 0x04;
    pub(super) const BATCH: u16 = 0x08;
    pub(super) const PYRO4_META_ON_CONNECT: u16 = 0x10;
    pub(super) const PYRO4_ITEM_STREAM_RESULT: u16 = 0x20;
    pub(super) const PYRO4_KEEP_SERIALIZED: u16 = 0x40;
    pub(super) const PYRO5_ITEM_STREAM_RESULT: u16 = 0x10;
    pub(super) const PYRO5_KEEP_SERIALIZED: u16 = 0x20;
    pub(super) const PYRO5_CORRELATION_ID: u16 = 0x40;
}

/// A header whose checksum or magic number is valid. The type and the lengths are not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) family: Family,
    /// The message type's number; may be unknown.
    pub(super) kind: u16,
    pub(super) flags: Flags,
    pub(super) seq: u16,
    pub(super) serializer_id: u16,
    /// Length of the payload in bytes. Pyro4's field is signed, so that a peer may send a negative length.
    pub(super) payload_len: i64,
    /// Length of all annotation chunks in bytes.
    pub(super) annotations_len: u32,
    /// Pyro5's field, if its flag is set.
    pub(super) correlation_id: Option<[u8; 16]>,
}

impl Header {
    /// The family whose tag and version are the first six bytes; `None` if there are fewer or they match
    /// neither.
    pub(super) fn family(bytes: &[u8]) -> Option<Family> {
        let start = bytes.first_chunk::<START_LEN>()?;
        let version = u16::from_be_bytes(field(start, VERSION));
        [Family::Pyro4, Family::Pyro5]
            .into_iter()
            .find(|family| start.starts_with(TAG) && family.version() == version)
    }

    /// Reads the header at the start of `bytes`; `None` if more bytes are needed. `known` is the connection's
    /// family, once a message has fixed it.
    ///
    /// Bytes that are not Pyro are refused at the point where the real server of the family refuses them: Pyro5
    /// after 6 bytes, Pyro4 after its whole header. While no family is known, foreign bytes and versions below
    /// 500 count as Pyro4.
    ///
    /// # Errors
    /// [`DecodeError::NotPyro`], [`DecodeError::Version`], [`DecodeError::Checksum`] or [`DecodeError::Magic`].
    pub(super) fn decode(bytes: &[u8], known: Option<Family>) -> Result<Option<Self>, DecodeError> {
        let Some(start) = bytes.first_chunk::<START_LEN>() else {
            return Ok(None);
        };
        let is_pyro = start.starts_with(TAG);
        let version = u16::from_be_bytes(field(start, VERSION));
        let family = known.unwrap_or(if is_pyro && version >= 500 {
            Family::Pyro5
        } else {
            Family::Pyro4
        });
        let foreign = if !is_pyro {
            Some(DecodeError::NotPyro { family })
        } else if version != family.version() {
            let found = version;
            Some(DecodeError::Version { family, found })
        } else {
            None
        };
        match (family, foreign) {
            (Family::Pyro5, Some(error)) => Err(error),
            (Family::Pyro5, None) => bytes.first_chunk().map(Self::decode_pyro5).transpose(),
            (Family::Pyro4, foreign) => match (bytes.first_chunk(), foreign) {
                (Some(_), Some(error)) => Err(error),
                (Some(header), None) => Self::decode_pyro4(header).map(Some),
                (None, _) => Ok(None),
            },
        }
    }

    fn decode_pyro4(header: &[u8; pyro4::LEN]) -> Result<Self, DecodeError> {
        let found = u16::from_be_bytes(field(header, pyro4::CHECKSUM));
        let computed = checksum(header);
        if found != computed {
            return Err(DecodeError::Checksum { found, computed });
        }
        let annotations_len = u16::from_be_bytes(field(header, pyro4::ANNOTATIONS_LEN));
        Ok(Self {
            family: Family::Pyro4,
            kind: u16::from_be_bytes(field(header, pyro4::KIND)),
            flags: Flags::from_bits(
                Family::Pyro4,
                u16::from_be_bytes(field(header, pyro4::FLAGS)),
            ),
            seq: u16::from_be_bytes(field(header, pyro4::SEQ)),
            serializer_id: u16::from_be_bytes(field(header, pyro4::SERIALIZER_ID)),
            payload_len: i32::from_be_bytes(field(header, pyro4::PAYLOAD_LEN)).into(),
            annotations_len: annotations_len.into(),
            correlation_id: None,
        })
    }

    fn decode_pyro5(header: &[u8; pyro5::LEN]) -> Result<Self, DecodeError> {
        let found = u16::from_be_bytes(field(header, pyro5::MAGIC));
        if found != pyro5::MAGIC_NUMBER {
            return Err(DecodeError::Magic { found });
        }
        let bits = u16::from_be_bytes(field(header, pyro5::FLAGS));
        let [kind] = field(header, pyro5::KIND);
        let [serializer_id] = field(header, pyro5::SERIALIZER_ID);
        Ok(Self {
            family: Family::Pyro5,
            kind: kind.into(),
            flags: Flags::from_bits(Family::Pyro5, bits),
            seq: u16::from_be_bytes(field(header, pyro5::SEQ)),
            serializer_id: serializer_id.into(),
            payload_len: u32::from_be_bytes(field(header, pyro5::PAYLOAD_LEN)).into(),
            annotations_len: u32::from_be_bytes(field(header, pyro5::ANNOTATIONS_LEN)),
            correlation_id: (bits & bit::PYRO5_CORRELATION_ID != 0)
                .then(|| field(header, pyro5::CORRELATION_ID)),
        })
    }

    /// Length of the family's header in bytes.
    pub(super) const fn len(family: Family) -> usize {
        match family {
            Family::Pyro4 => pyro4::LEN,
            Family::Pyro5 => pyro5::LEN,
        }
    }

    /// Writes the header into `out`, whose length is [`Self::len`] of the family.
    ///
    /// # Errors
    /// [`EncodeError`] if a value does not fit its field.
    pub(super) fn encode(&self, out: &mut [u8]) -> Result<(), EncodeError> {
        put(out, 0, *TAG);
        put(out, VERSION, self.family.version().to_be_bytes());
        let bits = self.flags.to_bits(self.family);
        match self.family {
            Family::Pyro4 => {
                let payload_len = i32::try_from(self.payload_len)
                    .map_err(|_| too_large(self.payload_len, i32::MAX as usize))?;
                let annotations_len = u16::try_from(self.annotations_len)
                    .map_err(|_| too_large(self.annotations_len.into(), u16::MAX.into()))?;
                put(out, pyro4::KIND, self.kind.to_be_bytes());
                put(out, pyro4::FLAGS, bits.to_be_bytes());
                put(out, pyro4::SEQ, self.seq.to_be_bytes());
                put(out, pyro4::PAYLOAD_LEN, payload_len.to_be_bytes());
                put(out, pyro4::SERIALIZER_ID, self.serializer_id.to_be_bytes());
                put(out, pyro4::ANNOTATIONS_LEN, annotations_len.to_be_bytes());
                if let Some(header) = out.first_chunk() {
                    let checksum = checksum(header);
                    put(out, pyro4::CHECKSUM, checksum.to_be_bytes());
                }
            }
            Family::Pyro5 => {
                let payload_len = u32::try_from(self.payload_len)
                    .map_err(|_| too_large(self.payload_len, u32::MAX as usize))?;
                let serializer_id =
                    u8::try_from(self.serializer_id).map_err(|_| EncodeError::SerializerId {
                        id: self.serializer_id,
                    })?;
                let (bits, correlation_id) = match self.correlation_id {
                    Some(id) => (bits | bit::PYRO5_CORRELATION_ID, id),
                    None => (bits, [0; 16]),
                };
                put(out, pyro5::KIND, [self.kind as u8]);
                put(out, pyro5::SERIALIZER_ID, [serializer_id]);
                put(out, pyro5::FLAGS, bits.to_be_bytes());
                put(out, pyro5::SEQ, self.seq.to_be_bytes());
                put(out, pyro5::PAYLOAD_LEN, payload_len.to_be_bytes());
                put(
                    out,
                    pyro5::ANNOTATIONS_LEN,
                    self.annotations_len.to_be_bytes(),
                );
                put(out, pyro5::CORRELATION_ID, correlation_id);
                put(out, pyro5::MAGIC, pyro5::MAGIC_NUMBER.to_be_bytes());
            }
        }
        Ok(())
    }
}

impl Flags {
    fn from_bits(family: Family, bits: u16) -> Self {
        let has = |bit: u16| bits & bit != 0;
        let (meta_on_connect, item_stream_result, keep_serialized) = match family {
            Family::Pyro4 => (
                has(bit::PYRO4_META_ON_CONNECT),
                has(bit::PYRO4_ITEM_STREAM_RESULT),
                has(bit::PYRO4_KEEP_SERIALIZED),
            ),
            Family::Pyro5 => (
                false,
                has(bit::PYRO5_ITEM_STREAM_RESULT),
                has(bit::PYRO5_KEEP_SERIALIZED),
            ),
        };
        Self {
            exception: has(bit::EXCEPTION),
            compressed: has(bit::COMPRESSED),
            oneway: has(bit::ONEWAY),
            batch: has(bit::BATCH),
            meta_on_connect,
            item_stream_result,
            keep_serialized,
        }
    }

    fn to_bits(self, family: Family) -> u16 {
        let set = |flag: bool, bit: u16| if flag { bit } else { 0 };
        let upper = match family {
            Family::Pyro4 => {
                set(self.meta_on_connect, bit::PYRO4_META_ON_CONNECT)
                    | set(self.item_stream_result, bit::PYRO4_ITEM_STREAM_RESULT)
                    | set(self.keep_serialized, bit::PYRO4_KEEP_SERIALIZED)
            }
            Family::Pyro5 => {
                set(self.item_stream_result, bit::PYRO5_ITEM_STREAM_RESULT)
                    | set(self.keep_serialized, bit::PYRO5_KEEP_SERIALIZED)
            }
        };
        set(self.exception, bit::EXCEPTION)
            | set(self.compressed, bit::COMPRESSED)
            | set(self.oneway, bit::ONEWAY)
            | set(self.batch, bit::BATCH)
            | upper
    }
}

impl MessageType {
    /// Returns the type with this number, or `None` if there is none.
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Connect,
            2 => Self::ConnectOk,
            3 => Self::ConnectFail,
            4 => Self::Invoke,
            5 => Self::Result,
            6 => Self::Ping,
            _ => return None,
        })
    }

    /// The number in the header.
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// The sum of the fields of Pyro4's header and the seed, modulo 2^16. Only the lower half of the payload length
/// can matter.
fn checksum(header: &[u8; pyro4::LEN]) -> u16 {
    [
        VERSION,
        pyro4::KIND,
        pyro4::FLAGS,
        pyro4::SEQ,
        pyro4::PAYLOAD_LEN + 2,
        pyro4::SERIALIZER_ID,
        pyro4::ANNOTATIONS_LEN,
    ]
    .into_iter()
    .map(|at| u16::from_be_bytes(field(header, at)))
    .fold(pyro4::CHECKSUM_SEED, u16::wrapping_add)
}

/// Returns the `N` bytes at the offset `at`, which is one of the tables' offsets.
fn field<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    header
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .expect("the tables' fields lie inside the header")
}

/// Writes `value` at the offset `at`, which is one of the tables' offsets.
fn put<const N: usize>(header: &mut [u8], at: usize, value: [u8; N]) {
    *header
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut())
        .expect("the tables' fields lie inside the header") = value;
}

fn too_large(len: i64, max: usize) -> EncodeError {
    EncodeError::TooLarge {
        len: usize::try_from(len).unwrap_or(usize::MAX),
        max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYRO4_PING: [u8; 24] = [
        0x50, 0x59, 0x52, 0x4f, 0, 0x30, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0x3a, 0, 1, 0, 0, 0, 0, 0x35,
        0x59,
    ];

    fn pyro5_ping() -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(b"PYRO\x01\xf6\x04\x01\0\0\0\x01\0\0\0\x3a");
        bytes[38..].copy_from_slice(&[0x4d, 0xc5]);
        bytes
    }

    fn header(family: Family) -> Header {
        Header {
            family,
            kind: 4,
            flags: Flags::default(),
            seq: 1,
            serializer_id: 1,
            payload_len: 0x3a,
            annotations_len: 0,
            correlation_id: None,
        }
    }

    #[test]
    fn documented_examples_decode_and_encode() {
        for (bytes, family) in [
            (&PYRO4_PING[..], Family::Pyro4),
            (&pyro5_ping()[..], Family::Pyro5),
        ] {
            assert_eq!(Header::decode(bytes, None), Ok(Some(header(family))));
            let mut out = vec![0; Header::len(family)];
            header(family).encode(&mut out).unwrap();
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn a_header_cut_anywhere_is_waited_for() {
        for bytes in [&PYRO4_PING[..], &pyro5_ping()[..]] {
            for len in 0..bytes.len() {
                assert_eq!(Header::decode(&bytes[..len], None), Ok(None), "{len} bytes");
            }
        }
    }

    #[test]
    fn every_changed_byte_that_counts_is_noticed() {
        for at in (0..24).filter(|at| ![20, 21, 12, 13].contains(at)) {
            let mut bytes = PYRO4_PING;
            bytes[at] ^= 1;
            assert!(Header::decode(&bytes, None).is_err(), "byte {at}");
        }
        for at in (0..6).chain(38..40) {
            let mut bytes = pyro5_ping();
            bytes[at] ^= 1;
            // Flipping byte 5 turns version 502 into 503, which Pyro5 refuses; byte 4 makes it 246, which Pyro4
            // refuses.
            assert!(Header::decode(&bytes, None).is_err(), "byte {at}");
        }
    }

    #[test]
    fn foreign_bytes_are_judged_where_each_family_does() {
        let not_pyro = |family| DecodeError::NotPyro { family };
        let version = |family, found| DecodeError::Version { family, found };
        let garbage = [b'!'; 24];
        assert_eq!(Header::decode(&garbage[..23], None), Ok(None));
        assert_eq!(Header::decode(&garbage, None), Err(not_pyro(Family::Pyro4)));
        assert_eq!(
            Header::decode(&garbage[..6], Some(Family::Pyro5)),
            Err(not_pyro(Family::Pyro5))
        );
        assert_eq!(
            Header::decode(b"PYRO\x01\xf5", None),
            Err(version(Family::Pyro5, 501))
        );
        assert_eq!(
            Header::decode(&PYRO4_PING[..6], Some(Family::Pyro5)),
            Err(version(Family::Pyro5, 48))
        );
        assert_eq!(Header::decode(b"PYRO\0\x2f", None), Ok(None));
        assert_eq!(
            Header::decode(b"PYRO\0\x2f..................", None),
            Err(version(Family::Pyro4, 47))
        );
        assert_eq!(
            Header::decode(&pyro5_ping(), Some(Family::Pyro4)),
            Err(version(Family::Pyro4, 502))
        );
    }

    #[test]
    fn flags_keep_their_meaning_in_each_family() {
        for family in [Family::Pyro4, Family::Pyro5] {
            let known = match family {
                Family::Pyro4 => 0x7f,
                Family::Pyro5 => 0x3f,
            };
            for bits in 0..=0xff {
                assert_eq!(Flags::from_bits(family, bits).to_bits(family), bits & known);
            }
        }
    }
}
