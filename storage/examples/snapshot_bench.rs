//! Measurements of snapshots: reading the chunks of one, installing them in an empty data directory, and
//! opening that afterwards. Each runs in its own process, so that the memory is that of one side.
//!
//! ```text
//! cargo run --release -p hearth-storage --example snapshot_bench -- [FOLDER [NAMES]]
//! ```
//! FOLDER must be new or empty, and on the disk to be measured; without it a temporary one is used. The default
//! of NAMES is 1000000.

#![allow(clippy::disallowed_methods, reason = "a stopwatch needs a clock")]

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Instant;

use hearth_storage::{
    Command, IfTaken, Location, Query, Registry, Revision, RocksOptions, RocksStore, SnapshotHeader,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes of a chunk, as nodes send them.
const CHUNK_LEN: usize = 256 << 10;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [phase, folder, names] = arguments.as_slice()
        && phase.starts_with("--")
    {
        return run(phase, Path::new(folder), names.parse()?);
    }
    let temporary = tempfile::tempdir()?;
    let folder = match arguments.first() {
        Some(folder) => PathBuf::from(folder),
        None => temporary.path().to_owned(),
    };
    let names = arguments.get(1).map_or("1000000", String::as_str);
    for phase in ["--fill", "--send", "--install", "--open"] {
        let status = Process::new(std::env::current_exe()?)
            .arg(phase)
            .arg(&folder)
            .arg(names)
            .status()?;
        if !status.success() {
            return Err(format!("{phase}: {status}").into());
        }
    }
    Ok(())
}

fn run(phase: &str, folder: &Path, names: u64) -> Outcome<()> {
    let start = Instant::now();
    let text = match phase {
        "--fill" => fill(&folder.join("from"), names)?,
        "--send" => send(folder)?,
        "--install" => install(folder)?,
        _ => open_again(&folder.join("to"))?,
    };
    println!(
        "{:<9} {:6.2} s; at most {} MB resident; {text}",
        phase.trim_start_matches('-'),
        start.elapsed().as_secs_f64(),
        memory("VmHWM:") / 1024,
    );
    Ok(())
}

fn open(folder: &Path) -> Outcome<(RocksStore, Registry)> {
    let location = Location::Folder(folder.to_owned());
    let store = RocksStore::open(&location, &RocksOptions::default())?;
    let registry = Registry::new(Arc::new(store.clone()));
    Ok((store, registry))
}

fn fill(folder: &Path, names: u64) -> Outcome<String> {
    let (store, registry) = open(folder)?;
    let mut numbers = (0..names).peekable();
    while numbers.peek().is_some() {
        let mut change = registry.begin()?;
        for number in numbers.by_ref().take(200) {
            // The names come in no particular order.
            let number = number.wrapping_mul(7_368_787) % names.max(1);
            let command = Command::Register {
                name: format!("plant{:03}.sensor{number:07}", number % 200),
                uri: format!("PYRO:obj_{number:032x}@10.1.2.3:40123"),
                tags: [format!("kind{}", number % 50), "sensor".to_owned()].into(),
                if_taken: IfTaken::Replace,
            };
            change.apply(Revision::new(number, 0), &command)?;
        }
        registry.commit(change)?;
    }
    store.close()?;
    Ok(format!("{:?}", registry.summary()?.entry_count))
}

fn send(folder: &Path) -> Outcome<String> {
    let (_store, registry) = open(&folder.join("from"))?;
    let snapshot = registry.snapshot()?;
    let mut out = BufWriter::new(File::create(folder.join("chunks"))?);
    let mut len = 0;
    let header = snapshot.header().encode();
    let header = [Ok(header)].into_iter();
    let mut reading = std::time::Duration::ZERO;
    let mut longest = reading;
    let mut chunks = header.chain(snapshot.chunks(CHUNK_LEN));
    loop {
        let start = Instant::now();
        let Some(chunk) = chunks.next() else { break };
        let chunk = chunk?;
        reading += start.elapsed();
        longest = longest.max(start.elapsed());
        out.write_all(&u32::try_from(chunk.len())?.to_be_bytes())?;
        out.write_all(&chunk)?;
        len += chunk.len();
    }
    out.flush()?;
    Ok(format!(
        "{} MB of chunks, read in {reading:.2?}, the slowest in {longest:.2?}",
        len >> 20
    ))
}

fn next(input: &mut impl Read) -> Outcome<Option<Vec<u8>>> {
    let mut len = [0; 4];
    if input.read_exact(&mut len).is_err() {
        return Ok(None);
    }
    let mut chunk = vec![0; u32::from_be_bytes(len) as usize];
    input.read_exact(&mut chunk)?;
    Ok(Some(chunk))
}

fn install(folder: &Path) -> Outcome<String> {
    let (store, registry) = open(&folder.join("to"))?;
    let mut input = BufReader::new(File::open(folder.join("chunks"))?);
    let header = next(&mut input)?.ok_or("no header")?;
    let mut installation = registry.begin_install(SnapshotHeader::decode(&header)?)?;
    let start = Instant::now();
    let mut longest = std::time::Duration::ZERO;
    while let Some(chunk) = next(&mut input)? {
        let start = Instant::now();
        installation.chunk(&chunk)?;
        longest = longest.max(start.elapsed());
    }
    let writing = start.elapsed();
    let start = Instant::now();
    installation.prepare()?;
    let preparing = start.elapsed();
    let start = Instant::now();
    installation.finish()?;
    let text = format!(
        "chunks {writing:.2?}, the slowest {longest:.2?}; prepared {preparing:.2?}; finished {:.2?}; {} MB in tables",
        start.elapsed(),
        store.table_len()? >> 20
    );
    store.close()?;
    Ok(text)
}

fn open_again(folder: &Path) -> Outcome<String> {
    let start = Instant::now();
    let (store, registry) = open(folder)?;
    let count = registry.answer(&Query::Count)?;
    let opened = start.elapsed();
    store.close()?;
    Ok(format!("{count:?} after {opened:.2?}"))
}

/// Returns a field of this process in kB, as the system reports it.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|found| found.strip_prefix(line));
    let number = found.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
