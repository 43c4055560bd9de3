//! Clients that write as fast as they are answered.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::{Client, Entry};

/// What tests let `name` stand for.
pub fn entry(name: &str) -> Entry {
    Entry {
        uri: format!("PYRO:{name}@host:4000"),
        tags: BTreeSet::from(["all".to_owned()]),
    }
}

/// Connections that register one name after the other until they are told to stop, or the server has gone.
pub struct Load {
    acknowledged_count: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(Vec<String>, u32)>>,
}

impl Load {
    /// Four connections; the names begin with `prefix`.
    pub fn start(port: u16, prefix: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged_count = Arc::new(AtomicU32::new(0));
        let run = |writer: u32| {
            let stop = Arc::clone(&stop);
            let count = Arc::clone(&acknowledged_count);
            move || {
                let (mut acknowledged, mut refused) = (Vec::new(), 0);
                let Ok(mut client) = Client::connect(port) else {
                    return (acknowledged, refused);
                };
                for index in 0u32.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("{prefix}.{writer}.{index}");
                    match client.register(&name, &entry(&name)) {
                        Ok(()) => {
                            acknowledged.push(name);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) if error.kind() == std::io::ErrorKind::Other => {
                            refused += 1;
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        Err(_) => break,
                    }
                }
                (acknowledged, refused)
            }
        };
        let threads = (0..4).map(|writer| std::thread::spawn(run(writer)));
        let threads = threads.collect();
        Self {
            acknowledged_count,
            stop,
            threads,
        }
    }

    /// Names that were acknowledged so far.
    pub fn acknowledged_count(&self) -> u32 {
        self.acknowledged_count.load(Ordering::Relaxed)
    }

    /// The names that were acknowledged, and how many were refused.
    pub fn finish(self) -> (Vec<String>, u32) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = (Vec::new(), 0);
        for thread in self.threads {
            let (acknowledged, refused) = thread.join().unwrap();
            all.0.extend(acknowledged);
            all.1 += refused;
        }
        all
    }
}

/// Fails unless each of these names is there.
pub fn assert_all_there(client: &mut Client, names: &[String]) {
    let listed = client.list().unwrap();
    let lost: Vec<_> = names
        .iter()
        .filter(|name| !listed.contains_key(*name))
        .collect();
    assert!(lost.is_empty(), "lost {lost:?} of {}", names.len());
}
