//! Cost of removing everything: time, memory, and the effect on other operations meanwhile.
//!
//! ```text
//! cargo run --release -p hearth-storage --example removal_bench -- FOLDER COUNT
//! ```
//! Fills an empty directory with COUNT names, removes them all by one prefix, and waits until they are erased
//! from the disk. A second thread looks up one name all the time.

#![allow(clippy::disallowed_methods, reason = "a stopwatch needs a clock")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hearth_storage::{
    Command, IfTaken, Location, Query, RULES, Registry, Revision, RocksOptions, RocksStore,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Returns a field of this process in MiB, as the system reports it.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kb = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or(0) / 1024
}

/// Resets the peak of the resident memory.
fn reset_peak() {
    // If this fails, the peak includes that of filling.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn apply(registry: &Registry, index: u64, commands: &[Command]) -> Outcome<()> {
    let mut change = registry.begin()?;
    for (position, command) in (0..).zip(commands) {
        change.apply(Revision::new(index, position), command)?;
    }
    registry.commit(change)?;
    Ok(())
}

fn register(number: u64) -> Command {
    Command::Register {
        name: format!("service.{:05}.object{number:08}", number / 100),
        uri: format!("PYRO:obj_{number:032x}@10.1.2.3:40123"),
        tags: [format!("kind{}", number % 50), "sensor".to_owned()].into(),
        if_taken: IfTaken::Replace,
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, count] = arguments.as_slice() else {
        return Err("usage: removal_bench FOLDER COUNT".into());
    };
    let count: u64 = count.parse()?;
    let location = Location::Folder(Path::new(folder).to_owned());
    let store = RocksStore::open(&location, &RocksOptions::default())?;
    let registry = Registry::new(Arc::new(store.clone()));
    apply(&registry, 1, &[Command::UseRules { rules: RULES }])?;
    let start = Instant::now();
    let mut index = 1;
    while (index - 1) * 500 < count {
        let first = (index - 1) * 500;
        let commands: Vec<Command> = (first..count.min(first + 500)).map(register).collect();
        index += 1;
        apply(&registry, index, &commands)?;
    }
    println!(
        "{count} names registered: {:.1?}, {} MB resident",
        start.elapsed(),
        memory("VmRSS:")
    );

    let stop = Arc::new(AtomicBool::new(false));
    let (looking, ended) = (registry.clone(), Arc::clone(&stop));
    let reader = std::thread::spawn(move || {
        let (mut longest, mut looked) = (Duration::ZERO, 0u64);
        while !ended.load(Ordering::Relaxed) {
            let start = Instant::now();
            let found = looking.answer(&Query::Lookup("another".to_owned()));
            longest = longest.max(start.elapsed());
            looked += u64::from(found.is_ok());
        }
        (looked, longest)
    });
    reset_peak();
    let start = Instant::now();
    let mut change = registry.begin()?;
    let removal = Command::RemovePrefix {
        prefixes: vec!["service.".to_owned()],
    };
    let reply = change.apply(Revision::new(index + 1, 0), &removal)?;
    println!("{reply:?} applied: {:.2?}", start.elapsed());
    let committing = Instant::now();
    registry.commit(change)?;
    println!("written and hidden: {:.2?}", committing.elapsed());
    let (mut longest, mut written) = (Duration::ZERO, 0u64);
    while store.hidden_removal_count() > 0 {
        let start = Instant::now();
        index += 1;
        apply(&registry, index + 1, &[register(count + written % 100)])?;
        longest = longest.max(start.elapsed());
        written += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("erased: {:.1?} after it began", start.elapsed());
    println!("meanwhile {written} batches were written, the longest in {longest:.2?}");
    stop.store(true, Ordering::Relaxed);
    if let Ok((looked, longest)) = reader.join() {
        println!("and {looked} look-ups made, the longest in {longest:.2?}");
    }
    println!("peak since it began: {} MB resident", memory("VmHWM:"));
    store.close()?;
    Ok(())
}
