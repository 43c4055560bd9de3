//! Checks of RocksDB's manifest before RocksDB reads it, and of the logs of a data directory that does not note
//! how much of them is durable (for other directories see `tail.rs`).
//!
//! Both are files of records (`wal.rs`). RocksDB refuses most altered bytes by itself. It does not notice three
//! kinds of damage, each one flipped bit away from an intact file. This module does:
//!
//! 1. An altered length in the last block of the file looks like a record whose write was interrupted, and
//!    RocksDB drops it and everything after it. But intact records follow it, and nothing follows an
//!    interrupted write.
//! 2. An altered length in the very last record looks the same, with nothing behind it. But its checksum, which
//!    does not cover the length, is right for the bytes up to the end of the file.
//! 3. An altered type may say that the file was recycled, and RocksDB 11.8 then reads the same place again
//!    forever. The files of Hearth are never recycled.
//!
//! A client could put the bytes of a record into a name. The node would then refuse to start if it crashed in
//! the middle of writing that very name. The refusal loses nothing, so it is accepted.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::folder::{at, manifest, wals};
use super::wal::{HEADER_LEN, Header, data_record_at, next_block, record_at};
use crate::error::StoreError;

/// Record types of recycled files.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Refuses a manifest that is altered in a way that RocksDB does not notice.
pub(super) fn check_manifest(database: &Path) -> Result<(), StoreError> {
    manifest(database).map_or(Ok(()), check)
}

/// Refuses write-ahead logs that are altered in a way that RocksDB does not notice.
pub(super) fn check_logs(database: &Path) -> Result<(), StoreError> {
    let logs = wals(database).map_err(at(database))?;
    logs.into_iter().try_for_each(check)
}

fn check(path: PathBuf) -> Result<(), StoreError> {
    let damage = File::open(&path).and_then(find_damage).map_err(at(&path))?;
    match damage {
        Some(reason) => Err(StoreError::Damaged { path, reason }),
        None => Ok(()),
    }
}

/// Returns the damage in a file of records, or `None` if there is none.
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

/// Finds damage of the third kind. Returns its offset in the block, and the reason.
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

/// Finds damage of the first and the second kind, in the last block of a file. Returns its offset in the block,
/// and the reason.
pub(super) fn altered_tail(block: &[u8]) -> Option<(usize, String)> {
    let mut end = 0;
    while let Some((_, payload)) = record_at(block, end) {
        end += HEADER_LEN + payload.len();
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
    // A record at the very front of the rest would have been readable, so the search starts behind it.
    let found = (1..rest.len()).find(|&offset| is_record_at(rest, offset))?;
    let reason = format!("is unreadable, but there is an intact one {found} bytes later");
    Some((end, reason))
}

/// Returns true if there is an intact record with data at `offset`.
fn is_record_at(block: &[u8], offset: usize) -> bool {
    data_record_at(block, offset).is_some()
}

#[cfg(test)]
mod tests {
    use super::super::wal::BLOCK_LEN;
    use super::super::wal::made::record;
    use super::*;

    fn damage(bytes: &[u8]) -> Option<String> {
        find_damage(bytes).unwrap()
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
                // RocksDB refuses a shorter length by its checksum.
                let shorter = bad[BLOCK_LEN + at] < log[BLOCK_LEN + at];
                assert!(shorter || damage(&bad).is_some(), "byte {at} bit {bit}");
            }
        }
    }
}
