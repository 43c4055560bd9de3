//! Snapshots on their way to a client: the file of [`hearth_wire::snapshot`], in numbered pieces.
//!
//! Each holds a view of the store, which keeps old data on the disk. So there are few at once, and one that
//! nobody asks for is dropped. A piece that was lost on its way is asked for again by its number.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hearth_raft::{Replica, SavedState};
use hearth_storage::ChunkCursor;
use hearth_wire::snapshot::{Section, SnapshotWriter};
use hearth_wire::{Exception, NamingErrorKind, Value};

/// Snapshots under way at once.
const COUNT_MAX: usize = 2;
/// Bytes of a piece, at most.
const PIECE_LEN: usize = 512 << 10;
/// How long one is kept for a client that does not ask.
const IDLE_DURATION_MAX: Duration = Duration::from_secs(60);
/// How long one may take in all.
const DURATION_MAX: Duration = Duration::from_secs(3600);
/// How often it is looked whether one is to go.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long the node tries to have it confirmed that it has every acknowledged write.
const CONFIRMATION_DURATION_MAX: Duration = Duration::from_secs(5);

/// Those under way.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    sending: Mutex<HashMap<String, Arc<Mutex<Sending>>>>,
}

/// One under way.
#[derive(Debug)]
struct Sending {
    state: SavedState,
    writer: Option<SnapshotWriter>,
    cursor: ChunkCursor,
    /// Written and not sent.
    waiting: Vec<u8>,
    /// The last piece that was asked for.
    last: Option<(u64, Vec<u8>)>,
    begun: Instant,
    asked: Instant,
}

impl Snapshots {
    /// Begins one: what it is of, with its `id` for the pieces.
    ///
    /// # Errors
    /// `NamingError` that begins with `refused: `.
    pub(super) async fn begin(self: &Arc<Self>, replica: &Replica) -> Result<Value, Exception> {
        // Without a majority, this node's own copy is what there is to be saved.
        let confirmed = replica
            .read_barrier(CONFIRMATION_DURATION_MAX)
            .await
            .is_ok();
        let state = replica.save_state().map_err(|error| failure(&error))?;
        let about = about(&state, confirmed);
        let mut writer = SnapshotWriter::default();
        let mut waiting = Vec::new();
        let json = serde_json::Value::Object(about.clone()).to_string();
        for section in [
            Section::About(json.into_bytes()),
            Section::Header(state.header()),
        ] {
            let written = writer.section(&section, &mut waiting);
            written.map_err(|error| failure(&error))?;
        }
        let now = Instant::now();
        let sending = Sending {
            state,
            writer: Some(writer),
            cursor: ChunkCursor::default(),
            waiting,
            last: None,
            begun: now,
            asked: now,
        };
        let id: [u8; 16] = rand::random();
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut all = self.lock();
        if all.len() >= COUNT_MAX {
            return Err(refused(&format!(
                "{COUNT_MAX} snapshots of this node are under way; wait, or ask another node"
            )));
        }
        all.insert(id.clone(), Arc::new(Mutex::new(sending)));
        drop(all);
        tokio::spawn(drop_forgotten(Arc::downgrade(self), id.clone()));
        let mut items = vec![(Value::from("id"), Value::from(id))];
        items.extend(
            about
                .into_iter()
                .map(|(key, item)| (key.into(), plain(item))),
        );
        Ok(Value::Dict(items))
    }

    /// The piece with this number, from 0; empty behind the end. Blocks.
    ///
    /// # Errors
    /// `NamingError` that begins with `refused: `.
    pub(super) fn piece(&self, id: &str, number: u64) -> Result<Vec<u8>, Exception> {
        let sending = self.lock().get(id).map(Arc::clone);
        let sending = sending.ok_or_else(|| {
            refused(
                "this snapshot is not under way; it was ended, or nobody asked for it for too long",
            )
        })?;
        let mut sending = sending.lock().unwrap_or_else(PoisonError::into_inner);
        sending.piece(number)
    }

    /// Ends one, complete or not.
    pub(super) fn end(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Mutex<Sending>>>> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops it if its time is over; whether it is still there.
    fn keep(&self, id: &str, now: Instant) -> bool {
        let mut all = self.lock();
        let is_over = match all.get(id) {
            // A piece is being made.
            Some(sending) => sending.try_lock().is_ok_and(|sending| {
                now.duration_since(sending.asked) >= IDLE_DURATION_MAX
                    || now.duration_since(sending.begun) >= DURATION_MAX
            }),
            None => return false,
        };
        if is_over {
            all.remove(id);
            tracing::warn!("a snapshot was not fetched to its end, and is dropped");
        }
        !is_over
    }
}

impl Sending {
    fn piece(&mut self, number: u64) -> Result<Vec<u8>, Exception> {
        self.asked = Instant::now();
        let next = match &self.last {
            Some((last, piece)) if *last == number => return Ok(piece.clone()),
            Some((last, _)) => last + 1,
            None => 0,
        };
        if number != next {
            return Err(refused(&format!("the next piece is {next}, not {number}")));
        }
        while self.waiting.len() < PIECE_LEN {
            let Some(writer) = &mut self.writer else {
                break;
            };
            let chunk = self.state.chunk(&self.cursor);
            match chunk.map_err(|error| failure(&error))? {
                Some((chunk, cursor)) => {
                    let written = writer.section(&Section::Chunk(chunk), &mut self.waiting);
                    written.map_err(|error| failure(&error))?;
                    self.cursor = cursor;
                }
                None => {
                    if let Some(writer) = self.writer.take() {
                        writer.end(&mut self.waiting);
                    }
                }
            }
        }
        let rest = self.waiting.split_off(PIECE_LEN.min(self.waiting.len()));
        let piece = std::mem::replace(&mut self.waiting, rest);
        self.last = Some((number, piece.clone()));
        Ok(piece)
    }
}

/// Bytes as serpent writes them, since not every serializer has bytes: a dict of `data` and `encoding`.
pub(super) fn bytes(bytes: &[u8]) -> Value {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            text.push(if digit <= group.len() {
                char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize])
            } else {
                '='
            });
        }
    }
    Value::Dict(vec![
        ("data".into(), text.into()),
        ("encoding".into(), "base64".into()),
    ])
}

async fn drop_forgotten(snapshots: Weak<Snapshots>, id: String) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let is_there = snapshots
            .upgrade()
            .is_some_and(|snapshots| snapshots.keep(&id, Instant::now()));
        if !is_there {
            return;
        }
    }
}

/// What stands in the file for people and programs.
fn about(state: &SavedState, confirmed: bool) -> serde_json::Map<String, serde_json::Value> {
    let about = state.about();
    let mut items = serde_json::Map::new();
    let mut put = |key: &str, value: serde_json::Value| items.insert(key.to_owned(), value);
    put("cluster", about.cluster_name.into());
    put("cluster_id", about.cluster_id.into());
    put("node", about.node_id.into());
    put("members", about.members.into());
    put("term", about.term.into());
    put("last_applied", about.last_applied.into());
    put("names", about.name_count.into());
    put("records", about.record_count.into());
    put("state_hash", about.state_hash.into());
    put("confirmed", confirmed.into());
    put("version", env!("CARGO_PKG_VERSION").into());
    items
}

fn plain(item: serde_json::Value) -> Value {
    match item {
        serde_json::Value::Bool(bool) => Value::Bool(bool),
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(items) => Value::List(items.into_iter().map(plain).collect()),
        serde_json::Value::Number(number) => Value::Int(number.as_i64().unwrap_or(i64::MAX)),
        _ => Value::None,
    }
}

fn failure(error: &impl fmt::Display) -> Exception {
    refused(&error.to_string())
}

fn refused(reason: &str) -> Exception {
    Exception::naming_of(NamingErrorKind::Refused, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_base64() {
        for (raw, data) in [
            (&b""[..], ""),
            (b"a", "YQ=="),
            (b"ab", "YWI="),
            (b"\xff\xfe\xfd", "//79"),
        ] {
            let Value::Dict(items) = bytes(raw) else {
                panic!("a dict");
            };
            assert_eq!(items[0], ("data".into(), data.into()));
        }
    }
}
