//! Measurements of the RocksDB store: lookups with few and with many names, the time to open, and appends that
//! wait for a sync.
//!
//! ```text
//! cargo run --release -p hearth-storage --example storage_bench -- [FOLDER [NAMES]]
//! ```
//! FOLDER must be new or empty, and on the disk to be measured; without it a temporary one is used. The default
//! of NAMES is 1000000.

#![allow(clippy::disallowed_methods, reason = "a stopwatch needs a clock")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hearth_storage::{
    Answer, Command, Filter, IfTaken, Location, Query, Registry, Revision, RocksOptions,
    RocksStore, StoreError,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The duration of each measured loop.
const SPAN: Duration = Duration::from_secs(2);

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let temporary = tempfile::tempdir()?;
    let folder = match arguments.next() {
        Some(folder) => PathBuf::from(folder),
        None => temporary.path().to_owned(),
    };
    let many = match arguments.next() {
        Some(names) => names.parse()?,
        None => 1_000_000,
    };
    println!("resident at start: {} kB", resident_kb());
    appends(&folder.join("appends"))?;
    for names in [1_000, many] {
        let folder = folder.join(format!("names-{names}"));
        fill(&folder, names)?;
        for round in ["after a clean close", "after a kill"] {
            let (store, registry) = open(&folder)?;
            look_ups(&registry, names)?;
            lists(&registry, names)?;
            if round == "after a clean close" {
                // This leaves work for the recovery of the next round.
                change(&registry, 0..names.min(50_000))?;
                store.log().sync()?;
            }
        }
    }
    Ok(())
}

fn location(folder: &Path) -> Location {
    Location::Folder(folder.to_owned())
}

fn name(number: u64) -> String {
    format!(
        "plant{:03}.line{:02}.sensor{number:07}",
        number % 200,
        number % 17
    )
}

fn fill(folder: &Path, names: u64) -> Outcome<()> {
    let start = Instant::now();
    let store = RocksStore::open(&location(folder), &RocksOptions::default())?;
    let registry = Registry::new(Arc::new(store.clone()));
    change(&registry, 0..names)?;
    store.close()?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{names} names: registered in {seconds:.2} s ({:.0}/s without log), {} kB in tables",
        names as f64 / seconds,
        store.table_len()? / 1024
    );
    Ok(())
}

fn change(registry: &Registry, numbers: std::ops::Range<u64>) -> Result<(), StoreError> {
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        let mut change = registry.begin()?;
        for number in numbers.by_ref().take(200) {
            let command = Command::Register {
                name: name(number),
                uri: format!("PYRO:obj_{number:032x}@10.1.2.3:40123"),
                tags: [format!("kind{}", number % 50), "sensor".to_owned()].into(),
                if_taken: IfTaken::Replace,
            };
            change.apply(Revision::new(number, 0), &command)?;
        }
        registry.commit(change)?;
    }
    Ok(())
}

fn open(folder: &Path) -> Outcome<(RocksStore, Registry)> {
    let before = resident_kb();
    let start = Instant::now();
    let store = RocksStore::open(&location(folder), &RocksOptions::default())?;
    let registry = Registry::new(Arc::new(store.clone()));
    let count = registry.answer(&Query::Count)?;
    println!(
        "  opened in {:.1} ms: {count:?}; resident {before} -> {} kB",
        start.elapsed().as_secs_f64() * 1e3,
        resident_kb()
    );
    Ok((store, registry))
}

fn look_ups(registry: &Registry, names: u64) -> Outcome<()> {
    for (what, suffix) in [("present", ""), ("absent", "?")] {
        let mut number = 1u64;
        let mut count = 0u64;
        let start = Instant::now();
        let cpu_start = cpu_time();
        while start.elapsed() < SPAN {
            for _ in 0..256 {
                // This is a full-period walk over all names, in no particular order.
                number = number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let query = Query::Lookup(name((number >> 33) % names) + suffix);
                let Answer::Entry(found) = registry.answer(&query)? else {
                    return Err("a look-up was answered with something else".into());
                };
                if found.is_some() != suffix.is_empty() {
                    return Err(format!("{query:?} was answered with {found:?}").into());
                }
                count += 1;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "  look-ups of {what} names: {:.0}/s, {:.2} µs each, {:.2} µs of processor; resident {} kB",
            count as f64 / seconds,
            seconds * 1e6 / count as f64,
            (cpu_time() - cpu_start).as_secs_f64() * 1e6 / count as f64,
            resident_kb()
        );
    }
    Ok(())
}

fn lists(registry: &Registry, names: u64) -> Outcome<()> {
    for (what, filter) in [
        ("prefix", Filter::Prefix(vec!["plant007.line01".to_owned()])),
        (
            "two tags",
            Filter::TagsAll(vec!["sensor".to_owned(), "kind7".to_owned()]),
        ),
        ("all", Filter::All),
    ] {
        if what == "all" && names > 100_000 {
            continue;
        }
        let start = Instant::now();
        let Answer::Entries(entries) = registry.answer(&Query::List(filter))? else {
            return Err("a list was answered with something else".into());
        };
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "  list by {what}: {} entries in {:.2} ms",
            entries.len(),
            seconds * 1e3
        );
    }
    Ok(())
}

/// Measures writers that each wait until their append is durable before the next one.
fn appends(folder: &Path) -> Outcome<()> {
    for writers in [1usize, 16, 64, 256] {
        let folder = folder.join(writers.to_string());
        let store = RocksStore::open(&location(&folder), &RocksOptions::default())?;
        let log = store.log();
        let (tell, told) = mpsc::channel();
        let mut index = 0;
        let mut append = |tell: &mpsc::Sender<()>| {
            index += 1;
            let tell = tell.clone();
            let done = move |_| {
                // After the last measured append there is no receiver.
                let _ = tell.send(());
            };
            log.append([(index, vec![7; 150])], Box::new(done))
        };
        for _ in 0..writers {
            append(&tell)?;
        }
        let start = Instant::now();
        let mut count = 0u64;
        while start.elapsed() < SPAN {
            told.recv()?;
            count += 1;
            append(&tell)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let syncs = log.sync_count();
        println!(
            "{writers} writers: {:.0} appends/s, {:.0} syncs/s, {:.1} appends per sync",
            count as f64 / seconds,
            syncs as f64 / seconds,
            count as f64 / syncs as f64
        );
    }
    Ok(())
}

/// Returns the processor time of this thread, which other load on the machine does not lengthen; 0 where the
/// system does not report it.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Returns the resident memory of this process in kB; 0 where the system does not report it.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
