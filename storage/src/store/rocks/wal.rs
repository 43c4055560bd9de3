//! A reader of RocksDB's log files that does without RocksDB. It finds where the intact part of a file ends,
//! and what follows it.
//!
//! ```text
//! blocks of 32768 bytes; no record crosses a block, and fewer than 7 bytes at the end of a block are filler
//! 0..4     masked CRC-32C over type and payload, little-endian
//! 4..6     payload_len, little-endian u16
//! 6        type: 1 whole, 2 first, 3 middle, 4 last part of a batch; 130 predecessor; others are RocksDB's own
//! 7..      payload
//! ```
//! A batch is a sequence number u64 and a count u32, little-endian, then its operations. A predecessor is the
//! number, the length and the last sequence number of the log before this one, each u64, little-endian.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::record_check::altered_tail;
use super::synced::Synced;

pub(super) const BLOCK_LEN: usize = 32_768;
pub(super) const HEADER_LEN: usize = 7;

const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
const SET_COMPRESSION: u8 = 9;
const TIMESTAMP_LEN: u8 = 10;
const PREDECESSOR: u8 = 130;

/// Bytes of a batch before its operations.
const BATCH_HEADER_LEN: usize = 12;
/// Type of the operation that is written to the log alone.
const LOG_DATA: u8 = 3;

/// The extent of the intact part of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Intact {
    /// Bytes up to the end of the last batch before which nothing is damaged.
    pub(super) len: u64,
    /// Offset of the first record that is not intact. Greater than `len` if intact parts of an incomplete batch
    /// precede it.
    pub(super) stop: u64,
    /// Length of the file in bytes.
    pub(super) file_len: u64,
    /// The log before this one, as this file records it.
    pub(super) predecessor: Option<Predecessor>,
}

/// The log before another one, as the other one records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Predecessor {
    pub(super) number: u64,
    pub(super) len: u64,
}

impl Predecessor {
    fn read(payload: &[u8]) -> Option<Self> {
        let (number, rest) = payload.split_first_chunk::<8>()?;
        let (len, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            len: u64::from_le_bytes(*len),
        })
    }
}

/// Reads a log up to its end, or to the first record that is not intact. `file_len` is the length of the file
/// in bytes.
pub(super) fn read_intact(mut file: impl Read, file_len: u64) -> io::Result<Intact> {
    let mut intact = Intact {
        len: 0,
        stop: 0,
        file_len,
        predecessor: None,
    };
    let mut start = 0;
    let mut in_parts = false;
    loop {
        let block = next_block(&mut file)?;
        let mut offset = 0;
        while let Some((kind, payload)) = record_at(&block, offset) {
            intact.stop = start + offset as u64;
            offset += HEADER_LEN + payload.len();
            match kind {
                WHOLE if !in_parts => {}
                FIRST if !in_parts => in_parts = true,
                MIDDLE if in_parts => {}
                LAST if in_parts => in_parts = false,
                PREDECESSOR if !in_parts => intact.predecessor = Predecessor::read(payload),
                SET_COMPRESSION | TIMESTAMP_LEN if !in_parts => {}
                _ => return Ok(intact),
            }
            intact.stop = start + offset as u64;
            if !in_parts {
                intact.len = intact.stop;
            }
        }
        if block.len() < BLOCK_LEN || BLOCK_LEN - offset >= HEADER_LEN {
            return Ok(intact);
        }
        start += BLOCK_LEN as u64;
    }
}

/// Returns true if the record at `stop`, which is not intact, may have been only begun when the first `durable`
/// bytes of the log became durable: the length of a log is read while it is written to.
pub(super) fn may_be_begun(path: &Path, stop: u64, durable: u64) -> io::Result<bool> {
    let in_block = stop % BLOCK_LEN as u64;
    let block_end = stop - in_block + BLOCK_LEN as u64;
    if durable > block_end {
        return Ok(false);
    }
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(stop))?;
    let mut rest = Vec::new();
    file.take(durable.saturating_sub(stop))
        .read_to_end(&mut rest)?;
    let Some(header) = Header::read(&rest, 0) else {
        return Ok(true);
    };
    let end = HEADER_LEN + header.payload_len;
    let crosses_blocks = in_block + end as u64 > BLOCK_LEN as u64;
    Ok(end > rest.len() && !crosses_blocks && altered_tail(&rest).is_none())
}

/// Returns the furthest position that an intact record behind `offset` notes as synced. These records stand
/// behind bytes that are not intact, so every offset is tried.
pub(super) fn synced_behind(path: &Path, offset: u64) -> io::Result<Option<Synced>> {
    let mut file = File::open(path)?;
    let block_start = offset - offset % BLOCK_LEN as u64;
    file.seek(SeekFrom::Start(block_start))?;
    let mut from = usize::try_from(offset - block_start).unwrap_or(0);
    let mut known = None;
    loop {
        let block = next_block(&mut file)?;
        if block.is_empty() {
            return Ok(known);
        }
        while from + HEADER_LEN <= block.len() {
            match data_record_at(&block, from) {
                Some(payload) => {
                    known = known.max(synced_in(payload));
                    from += HEADER_LEN + payload.len();
                }
                None => from += 1,
            }
        }
        from = 0;
    }
}

/// Returns the position that the batch beginning with `payload` notes as synced before it. Only the first
/// operation can be such a note, because no client's bytes stand there.
fn synced_in(payload: &[u8]) -> Option<Synced> {
    let [kind, len, rest @ ..] = payload.get(BATCH_HEADER_LEN..)? else {
        return None;
    };
    if *kind != LOG_DATA {
        return None;
    }
    Synced::from_log_data(rest.get(..usize::from(*len))?)
}

pub(super) fn next_block(file: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut block = Vec::new();
    file.take(BLOCK_LEN as u64).read_to_end(&mut block)?;
    Ok(block)
}

/// The header of a record.
pub(super) struct Header {
    masked_crc: u32,
    pub(super) payload_len: usize,
    pub(super) kind: u8,
}

impl Header {
    pub(super) fn read(block: &[u8], offset: usize) -> Option<Self> {
        let [c0, c1, c2, c3, l0, l1, kind] = *block.get(offset..)?.first_chunk::<HEADER_LEN>()?;
        Some(Self {
            masked_crc: u32::from_le_bytes([c0, c1, c2, c3]),
            payload_len: usize::from(u16::from_le_bytes([l0, l1])),
            kind,
        })
    }

    /// Returns true for zeros, which a file system may leave where nothing was written.
    pub(super) fn is_zero(&self) -> bool {
        self.payload_len == 0 && self.kind == 0
    }

    /// Returns true if `payload` has the checksum in the header.
    pub(super) fn fits(&self, payload: &[u8]) -> bool {
        masked_crc(self.kind, payload) == self.masked_crc
    }
}

/// Returns the type and the payload of the record at `offset`, if it is intact.
pub(super) fn record_at(block: &[u8], offset: usize) -> Option<(u8, &[u8])> {
    let header = Header::read(block, offset)?;
    let payload = block
        .get(offset + HEADER_LEN..)?
        .get(..header.payload_len)?;
    (!header.is_zero() && header.fits(payload)).then_some((header.kind, payload))
}

/// Returns the payload of the record at `offset`, if it is intact and holds data.
pub(super) fn data_record_at(block: &[u8], offset: usize) -> Option<&[u8]> {
    // Checking the type first avoids most of the checksums.
    let kind = block.get(offset + HEADER_LEN - 1)?;
    if !(WHOLE..=LAST).contains(kind) {
        return None;
    }
    record_at(block, offset).map(|(_, payload)| payload)
}

fn masked_crc(kind: u8, payload: &[u8]) -> u32 {
    let crc = crc32c(crc32c(0, &[kind]), payload);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// For each byte, its CRC remainder alone and with one to seven zero bytes behind it.
static CRC_TABLES: [[u32; 256]; 8] = crc_tables();

const fn crc_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc: u32 = tables[zeros - 1][byte];
            tables[zeros][byte] = (crc >> 8) ^ tables[0][(crc & 0xff) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// Returns the CRC-32C of `bytes` behind other bytes whose checksum is `before`. Takes eight bytes per step,
/// since a start reads every log as a whole.
fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    let table = |zeros: usize, byte: u32| CRC_TABLES[zeros][(byte & 0xff) as usize];
    let mut crc = !before;
    let (steps, rest) = bytes.as_chunks::<8>();
    for &[b0, b1, b2, b3, b4, b5, b6, b7] in steps {
        let low = crc ^ u32::from_le_bytes([b0, b1, b2, b3]);
        crc = table(7, low)
            ^ table(6, low >> 8)
            ^ table(5, low >> 16)
            ^ table(4, low >> 24)
            ^ table(3, u32::from(b4))
            ^ table(2, u32::from(b5))
            ^ table(1, u32::from(b6))
            ^ table(0, u32::from(b7));
    }
    for &byte in rest {
        crc = (crc >> 8) ^ table(0, crc ^ u32::from(byte));
    }
    !crc
}

/// Hand-made logs for tests.
#[cfg(test)]
pub(super) mod made {
    use super::*;

    /// Returns a record of this type.
    pub(in crate::store::rocks) fn record_of(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut record = masked_crc(kind, payload).to_le_bytes().to_vec();
        record.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
        record.push(kind);
        record.extend_from_slice(payload);
        record
    }

    /// Returns a record that holds a whole batch.
    pub(in crate::store::rocks) fn record(payload: &[u8]) -> Vec<u8> {
        record_of(WHOLE, payload)
    }

    /// Returns a record that notes what was synced before it.
    pub(in crate::store::rocks) fn noting(synced: Synced) -> Vec<u8> {
        let data = synced.log_data();
        let mut payload = vec![0; BATCH_HEADER_LEN];
        payload.extend_from_slice(&[LOG_DATA, u8::try_from(data.len()).unwrap()]);
        payload.extend_from_slice(&data);
        record(&payload)
    }

    /// Returns a record that names the log before it.
    pub(in crate::store::rocks) fn following(number: u64, len: usize) -> Vec<u8> {
        let mut payload = number.to_le_bytes().to_vec();
        payload.extend_from_slice(&(len as u64).to_le_bytes());
        payload.extend_from_slice(&[0; 8]);
        record_of(PREDECESSOR, &payload)
    }
}

#[cfg(test)]
mod tests {
    use super::made::{following, record, record_of};
    use super::*;

    fn intact(bytes: &[u8]) -> Intact {
        read_intact(bytes, bytes.len() as u64).unwrap()
    }

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
        assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_log_is_intact_up_to_its_last_whole_batch() {
        let ends = [10, 20, 320, 343];
        let log = [
            record(b"one"),
            record(b"two"),
            record(&[7; 293]),
            record_of(FIRST, b"four"),
            record_of(LAST, b"teen!"),
        ]
        .concat();
        for len in 0..=log.len() {
            let expected = ends.iter().rfind(|&&end| end <= len).copied().unwrap_or(0);
            assert_eq!(intact(&log[..len]).len, expected as u64, "cut at {len}");
        }
        for at in 0..log.len() {
            let mut bad = log.clone();
            bad[at] ^= 1;
            let before = ends.iter().rfind(|&&end| end <= at).copied().unwrap_or(0);
            assert_eq!(intact(&bad).len, before as u64, "flipped at {at}");
        }
    }

    #[test]
    fn parts_of_batches_come_in_their_order() {
        for kinds in [
            &[MIDDLE][..],
            &[LAST],
            &[FIRST, WHOLE],
            &[FIRST, FIRST],
            &[5],
        ] {
            let mut log = record(b"good");
            for &kind in kinds {
                log.extend_from_slice(&record_of(kind, b"x"));
            }
            assert_eq!(intact(&log).len, 11, "{kinds:?}");
        }
    }

    #[test]
    fn a_log_goes_on_behind_the_filler_of_a_block_and_ends_at_zeros() {
        let mut log = record(&[1; BLOCK_LEN - HEADER_LEN - 3]);
        log.extend_from_slice(&[0; 3]);
        log.extend_from_slice(&record(b"two"));
        let len = log.len() as u64;
        assert_eq!(intact(&log).len, len);
        log.extend_from_slice(&[0; 100]);
        assert_eq!(intact(&log).len, len);
        // A page of zeros, followed by an intact block.
        let mut log = record(&[1; 100]);
        log.resize(BLOCK_LEN, 0);
        log.extend_from_slice(&record(b"two"));
        assert_eq!(intact(&log).len, 107);
    }

    #[test]
    fn the_log_before_is_known() {
        let log = [following(7, 1234), record(b"x")].concat();
        let predecessor = intact(&log).predecessor.unwrap();
        assert_eq!((predecessor.number, predecessor.len), (7, 1234));
    }
}
