//! Measures registrations: `write_load [FOLDER|memory] [SECONDS] [ENTRIES_IN_FLIGHT]`.
//!
//! For 1, 64 and 512 writers, each with one command under way: commands per second, commands per sync,
//! and how long a command took.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hearth_raft::{Replica, ReplicaConfig, StorageLocation, Tuning};
use hearth_storage::{Command, IfTaken};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let storage = match args.next() {
        Some(folder) if folder != "memory" => StorageLocation::Rocks(PathBuf::from(folder)),
        _ => StorageLocation::Memory,
    };
    let seconds: u64 = args.next().map_or(Ok(3), |text| text.parse())?;
    let mut tuning = Tuning::default();
    if let Some(count) = args.next() {
        tuning.entries_in_flight_max = count.parse()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let config = ReplicaConfig {
            node_id: Some(1),
            cluster_name: "hearth".to_owned(),
            storage,
            cluster: None,
        };
        let begin = Instant::now();
        let replica = Replica::start_with(config, tuning).await?;
        println!("ready in {:?}", begin.elapsed());
        println!("writers  commands/s  commands/sync      p50      p99");
        for writers in [1, 64, 512] {
            measure(&replica, writers, Duration::from_secs(seconds)).await?;
        }
        replica.shutdown().await;
        Ok(())
    })
}

async fn measure(
    replica: &Replica,
    writers: u64,
    duration: Duration,
) -> Result<(), Box<dyn std::error::Error>> {
    let before = replica.status();
    let begin = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let replica = replica.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                let mut index: u64 = 0;
                while begin.elapsed() < duration {
                    let name = format!("load.{writer}.{}", index % 1000);
                    let command = Command::Register {
                        uri: format!("PYRO:obj_{index}@10.0.0.9:4000"),
                        name,
                        tags: BTreeSet::from(["class:load".to_owned()]),
                        if_taken: IfTaken::Replace,
                    };
                    let one = Instant::now();
                    replica
                        .write(command, one + Duration::from_secs(10))
                        .await?;
                    took.push(one.elapsed());
                    index += 1;
                }
                Ok::<_, hearth_raft::WriteError>(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let after = replica.status();
    took.sort_unstable();
    let at = |part: f64| {
        let position = (took.len() as f64 * part) as usize;
        took.get(position.min(took.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    let commands = after.command_count - before.command_count;
    let syncs = (after.sync_count - before.sync_count).max(1);
    println!(
        "{writers:7}  {:10.0}  {:13.1}  {:>7.1?}  {:>7.1?}",
        commands as f64 / elapsed,
        commands as f64 / syncs as f64,
        at(0.5),
        at(0.99),
    );
    Ok(())
}
