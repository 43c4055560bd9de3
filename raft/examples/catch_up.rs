//! Measures how long a new member needs to catch up with many names while clients write, what that costs them, and how
//! long it takes to start again.
//!
//! ```text
//! cargo run --release -p hearth-raft --example catch_up -- [FOLDER [NAMES [WRITES A SECOND]]]
//! ```
//! FOLDER must be new or empty, and on the disk that is to be measured; without it a temporary one is
//! used. NAMES is 1000000, WRITES 1000. The new member runs in a process of its own, so that its memory
//! can be told.

use std::error::Error;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hearth_raft::{Birth, ClusterConfig, ClusterKeys, Replica, ReplicaConfig, StorageLocation};
use hearth_storage::{Answer, Command, IfTaken, Query};
use tokio::io::{AsyncBufReadExt, BufReader};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Writes under way while the names are registered.
const FILLERS: u64 = 256;

#[tokio::main(worker_threads = 2)]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, folder, own, seed] = arguments.as_slice()
        && role == "--member"
    {
        return member(Path::new(folder), own, seed).await;
    }
    let temporary = tempfile::tempdir()?;
    let folder = match arguments.first() {
        Some(folder) => PathBuf::from(folder),
        None => temporary.path().to_owned(),
    };
    let number = |at: usize, default| match arguments.get(at) {
        Some(text) => text.parse(),
        None => Ok(default),
    };
    lead(&folder, number(1, 1_000_000)?, number(2, 1000)?).await
}

async fn lead(folder: &Path, names: u64, rate: u64) -> Outcome<()> {
    let addr = free_addr()?;
    let birth = Birth::Found {
        founders: [(1, addr.clone())].into(),
    };
    let config = config(Some(1), &folder.join("first"), &addr, birth);
    let replica = Replica::start(config).await?;

    let start = Instant::now();
    let fillers: Vec<_> = (0..FILLERS)
        .map(|filler| {
            let replica = replica.clone();
            tokio::spawn(async move {
                let mut number = filler;
                while number < names {
                    replica.write(register(number), soon()).await?;
                    number += FILLERS;
                }
                Ok::<_, hearth_raft::WriteError>(())
            })
        })
        .collect();
    for filler in fillers {
        filler.await??;
    }
    println!("{names} names registered in {:.1?}", start.elapsed());

    let written = Arc::new(AtomicU64::new(names));
    let slowest = Arc::new(AtomicU64::new(0));
    let clients = tokio::spawn(write_evenly(
        replica.clone(),
        rate,
        Arc::clone(&written),
        Arc::clone(&slowest),
    ));
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!(
        "clients alone: slowest of {} writes {}",
        2 * rate,
        slowest_of(&slowest)
    );

    let own = free_addr()?;
    for what in ["new", "restarted"] {
        let before = written.load(Ordering::Relaxed);
        let start = Instant::now();
        let mut child = tokio::process::Command::from(Process::new(std::env::current_exe()?))
            .arg("--member")
            .arg(folder.join("second"))
            .args([&own, &addr])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(said).lines();
        while let Some(line) = lines.next_line().await? {
            println!("  {what}, {:.2?}: {line}", start.elapsed());
            if line.starts_with("has") {
                let has: u64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
                if has >= before {
                    break;
                }
            }
        }
        println!(
            "{what} member: caught up after {:.2?}; {} registrations went on meanwhile, the slowest {}",
            start.elapsed(),
            written.load(Ordering::Relaxed) - before,
            slowest_of(&slowest)
        );
        // The end of its input ends it.
        drop(child.stdin.take());
        while let Some(line) = lines.next_line().await? {
            if line.starts_with("at most") {
                println!("{what} member: {line}");
            }
        }
        child.wait().await?;
    }
    clients.abort();
    println!("first node: at most {} MB resident", memory("VmHWM:") >> 10);
    replica.shutdown().await;
    Ok(())
}

fn slowest_of(slowest: &AtomicU64) -> String {
    let micros = slowest.swap(0, Ordering::Relaxed);
    format!("{:.1} ms", micros as f64 / 1000.0)
}

/// Registers new names at `rate` a second.
async fn write_evenly(
    replica: Replica,
    rate: u64,
    written: Arc<AtomicU64>,
    slowest: Arc<AtomicU64>,
) {
    let mut number = written.load(Ordering::Relaxed);
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        ticks.tick().await;
        for _ in 0..rate / 100 {
            let replica = replica.clone();
            let (written, slowest) = (Arc::clone(&written), Arc::clone(&slowest));
            let command = register(number);
            number += 1;
            tokio::spawn(async move {
                let start = Instant::now();
                match replica.write(command, soon()).await {
                    Ok(_) => {
                        let micros = start.elapsed().as_micros();
                        slowest.fetch_max(
                            u64::try_from(micros).unwrap_or(u64::MAX),
                            Ordering::Relaxed,
                        );
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => println!("a write failed: {error}"),
                }
            });
        }
    }
}

async fn member(folder: &Path, own: &str, seed: &str) -> Outcome<()> {
    let birth = Birth::Join {
        seeds: vec![seed.to_owned()],
        learner: true,
    };
    let replica = Replica::start(config(None, folder, own, birth)).await?;
    println!("serves");
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let tell = async {
        loop {
            let Answer::Count(count) = replica.answer(&Query::Count)? else {
                return Err("a count was answered with something else".into());
            };
            println!(
                "has {count} names, {:?} installed",
                replica.status().install_count
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        _ = end => {}
        told = tell => return told,
    }
    replica.shutdown().await;
    println!("at most {} MB resident", memory("VmHWM:") >> 10);
    Ok(())
}

fn config(node_id: Option<u64>, folder: &Path, peer_addr: &str, birth: Birth) -> ReplicaConfig {
    ReplicaConfig {
        node_id,
        cluster_name: "catch-up".to_owned(),
        storage: StorageLocation::Rocks(folder.to_owned()),
        cluster: Some(ClusterConfig {
            peer_addr: peer_addr.to_owned(),
            ns_addr: String::new(),
            birth,
            keys: ClusterKeys::default(),
        }),
    }
}

fn free_addr() -> Outcome<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.to_string())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn register(number: u64) -> Command {
    // In no order.
    let shuffled = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Command::Register {
        name: format!("plant{:03}.sensor{shuffled:016x}", shuffled % 200),
        uri: format!("PYRO:obj_{shuffled:032x}@10.1.2.3:40123"),
        tags: [format!("kind{}", shuffled % 50), "sensor".to_owned()].into(),
        if_taken: IfTaken::Replace,
    }
}

/// A line of what the system says of this process, in kB.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|found| found.strip_prefix(line));
    let number = found.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
