//! A look at RocksDB's logs and its manifest before RocksDB reads them.
//!
//! RocksDB refuses most altered bytes by itself. Three kinds it does not notice, each one flipped bit
//! away from a good file, and this module does:
//!
//! 1. An altered length in the last block of the file looks like a record whose writing was
//!    interrupted, and RocksDB forgets it and all that follows. But intact records follow it: after an
//!    interrupted write there is nothing.
//! 2. The same in the very last record. But its checksum, which does not cover the length, is right for
//!    the bytes up to the end of the file.
//! 3. An altered type may say that the file was recycled, and RocksDB 11.8 then looks at the same place
//!    again for ever. Our files are never recycled.
//!
//! ```text
//! blocks of 32768 bytes; a record does not cross them, and fewer than 7 bytes at the end are filler
//! 0..4     masked CRC-32C over type and payload, little-endian
//! 4..6     payload_len, little-endian u16
//! 6        type: 1 whole, 2 first, 3 middle, 4 last part of a record; others are RocksDB's own
//! 7..      payload
//! ```
//! A client could put the bytes of a record into a name, and then see the node refuse to start if it
//! crashes in the middle of writing that very name. The refusal loses nothing, so be it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::folder::{at, manifest, wals};
use crate::error::StoreError;

const BLOCK_LEN: usize = 32_768;
const HEADER_LEN: usize = 7;

/// Types of records in recycled files.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Refuses a database whose logs or manifest are altered in a way that RocksDB does not notice.
pub(super) fn check(database: &Path) -> Result<(), StoreError> {
    let mut files = wals(database).map_err(at(database))?;
    files.extend(manifest(database));
    for path in files {
        let damage = File::open(&path).and_then(find_damage).map_err(at(&path))?;
        if let Some(reason) = damage {
            return Err(StoreError::Damaged { path, reason });
        }
    }
    Ok(())
}

/// What is wrong with a file of records.
fn find_damage(mut file: impl Read) -> io::Result<Option<String>> {
    let mut start = 0;
    let mut block = next_block(&mut file)?;
    while !block.is_empty() {
        let following = next_block(&mut file)?;
        let mut damage = recycled_record(&block);
        if following.is_empty() {
            damage = damage.or_else(|| altered_tail(&block));
        }
        if let Some((offset, reason)) = damage {
            return Ok(Some(format!(
                "the record at byte {} {reason}",
                start + offset
            )));
        }
        start += block.len();
        block = following;
    }
    Ok(None)
}

fn next_block(file: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut block = Vec::new();
    file.take(BLOCK_LEN as u64).read_to_end(&mut block)?;
    Ok(block)
}

/// The third kind: where, and what.
fn recycled_record(block: &[u8]) -> Option<(usize, String)> {
    let mut offset = 0;
    while let Some(header) = Header::read(block, offset) {
        if RECYCLED.contains(&header.kind) {
            return Some((
                offset,
                format!("has the type {}, which is not ours", header.kind),
            ));
        }
        if header.is_zero() {
            break;
        }
        offset += HEADER_LEN + header.payload_len;
    }
    None
}

/// The first and the second kind, in the last block of a file.
fn altered_tail(block: &[u8]) -> Option<(usize, String)> {
    let mut end = 0;
    while let Some(len) = record_at(block, end) {
        end += len;
    }
    let rest = block.get(end..)?;
    let header = Header::read(rest, 0)?;
    let payload = rest.get(HEADER_LEN..)?;
    if !header.is_zero() && header.fits(payload) {
        let len = payload.len();
        let reason = format!(
            "says it has {} bytes, and is intact with {len}",
            header.payload_len
        );
        return Some((end, reason));
    }
    // A record at the very front of the rest would have been readable.
    let found = (1..rest.len()).find(|&offset| is_record_at(rest, offset))?;
    let reason = format!("is unreadable, but there is an intact one {found} bytes later");
    Some((end, reason))
}

/// The fixed part of a record.
struct Header {
    masked_crc: u32,
    payload_len: usize,
    kind: u8,
}

impl Header {
    fn read(block: &[u8], offset: usize) -> Option<Self> {
        let [c0, c1, c2, c3, l0, l1, kind] = *block.get(offset..)?.first_chunk::<HEADER_LEN>()?;
        Some(Self {
            masked_crc: u32::from_le_bytes([c0, c1, c2, c3]),
            payload_len: usize::from(u16::from_le_bytes([l0, l1])),
            kind,
        })
    }

    /// Zeros are what a file system may leave where nothing was written.
    fn is_zero(&self) -> bool {
        self.payload_len == 0 && self.kind == 0
    }

    /// Whether the checksum is that of `payload`.
    fn fits(&self, payload: &[u8]) -> bool {
        let crc = crc32c(crc32c(0, &[self.kind]), payload);
        crc.rotate_right(15).wrapping_add(0xa282_ead8) == self.masked_crc
    }
}

/// Whether a record with data lies there.
fn is_record_at(block: &[u8], offset: usize) -> bool {
    // The type first: it spares most of the checksums.
    let kind = block.get(offset + HEADER_LEN - 1);
    kind.is_some_and(|kind| (1..=4).contains(kind)) && record_at(block, offset).is_some()
}

/// Length of the intact record there.
fn record_at(block: &[u8], offset: usize) -> Option<usize> {
    let header = Header::read(block, offset)?;
    let payload = block
        .get(offset + HEADER_LEN..)?
        .get(..header.payload_len)?;
    (!header.is_zero() && header.fits(payload)).then_some(HEADER_LEN + payload.len())
}

/// CRC-32C of `bytes` behind those whose checksum is `before`. Bit by bit: it sees one block a file.
fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    let mut crc = !before;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 * carry);
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let crc = crc32c(crc32c(0, &[1]), payload);
        let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
        let len = u16::try_from(payload.len()).unwrap();
        let mut record = masked.to_le_bytes().to_vec();
        record.extend_from_slice(&len.to_le_bytes());
        record.push(1);
        record.extend_from_slice(payload);
        record
    }

    fn damage(bytes: &[u8]) -> Option<String> {
        find_damage(bytes).unwrap()
    }

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
    }

    #[test]
    fn a_log_cut_anywhere_is_an_interrupted_write() {
        let log = [
            record(b"one"),
            record(&[7; 300]),
            record(b""),
            record(b"four"),
        ]
        .concat();
        for len in 0..=log.len() {
            assert_eq!(damage(&log[..len]), None, "cut at {len}");
        }
        let mut zeros = log.clone();
        zeros.extend_from_slice(&[0; 100]);
        assert_eq!(damage(&zeros), None);
    }

    #[test]
    fn a_length_that_swallows_intact_records_is_damage() {
        let mut log = [record(b"one"), record(b"two"), record(b"three")].concat();
        log[5] ^= 0x40;
        let damage = damage(&log).unwrap();
        assert!(damage.contains("byte 0"), "{damage}");
        assert!(damage.contains("10 bytes later"), "{damage}");
    }

    #[test]
    fn an_altered_length_of_the_last_record_is_damage() {
        let mut log = [record(b"one"), record(b"two")].concat();
        log[10 + 4] ^= 0x10;
        let damage = damage(&log).unwrap();
        assert!(
            damage.contains("says it has 19 bytes, and is intact with 3"),
            "{damage}"
        );
    }

    #[test]
    fn a_recycled_type_is_damage_in_every_block() {
        let block = record(&[1; BLOCK_LEN - HEADER_LEN]);
        let mut log = [block.clone(), block, record(b"two")].concat();
        assert_eq!(damage(&log), None);
        log[BLOCK_LEN + 6] ^= 4;
        let damage = damage(&log).unwrap();
        assert!(damage.contains("byte 32768 has the type 5"), "{damage}");
    }

    #[test]
    fn each_flipped_bit_of_a_length_in_the_last_block_is_damage() {
        let mut log = record(&[1; BLOCK_LEN - HEADER_LEN]);
        for payload in [&b"two"[..], b"three"] {
            log.extend_from_slice(&record(payload));
        }
        for at in [4, 5, 10 + 4, 10 + 5] {
            for bit in 0..8 {
                let mut bad = log.clone();
                bad[BLOCK_LEN + at] ^= 1 << bit;
                // A shorter one RocksDB refuses by its checksum.
                let shorter = bad[BLOCK_LEN + at] < log[BLOCK_LEN + at];
                assert!(shorter || damage(&bad).is_some(), "byte {at} bit {bit}");
            }
        }
    }
}
