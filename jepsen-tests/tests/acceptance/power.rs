//! Power failures: a node loses everything that no sync had covered, or any pages of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_jepsen_tests::client::{Client, Recorder};
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE};
use hearth_jepsen_tests::disk::Lost;
use hearth_jepsen_tests::history::{Action, Answer, Entry, Operation, Outcome};
use hearth_jepsen_tests::load::{Load, Pattern};
use hearth_jepsen_tests::node::Settings;
use hearth_jepsen_tests::run::Run;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::{alone, amount, figure, insist, is_ok};

/// The fate of the writes of many power failures.
#[derive(Default)]
struct Seen {
    acknowledged: u64,
    unknown: u64,
    lost: Vec<Lost>,
}

impl Seen {
    /// Compares the stored entries with the answers that clients received.
    #[track_caller]
    fn judge(&mut self, round: u64, history: &[Operation], stored: &BTreeMap<String, Entry>) {
        for operation in history {
            let Action::Register { name, entry, .. } = &operation.action else {
                continue;
            };
            let found = stored.get(name).map(|found| found.uri.as_str());
            match operation.outcome {
                Outcome::Ok(_) => {
                    self.acknowledged += 1;
                    assert_eq!(
                        found,
                        Some(entry.uri.as_str()),
                        "round {round}, lost: {operation:?}"
                    );
                }
                Outcome::Failed(_) => assert_ne!(found, Some(entry.uri.as_str()), "{operation:?}"),
                Outcome::Unknown(_) => self.unknown += 1,
            }
        }
        let has_written = |one: &Operation| is_ok(one) && one.action.is_write();
        assert!(
            history.iter().any(has_written),
            "round {round}: nobody wrote anything"
        );
    }

    fn figure(&self, what: &str) {
        let longest = self.lost.iter().map(|lost| lost.cut_len).max();
        figure(format!(
            "{what}: up to {} un-synced bytes lost ({} of {} logs were hit, {} with holes before what stayed): {} \
             writes acknowledged, 0 lost ({} unknown)",
            longest.unwrap_or(0),
            self.lost.iter().filter(|lost| lost.cut_len > 0).count(),
            self.lost.len(),
            self.lost.iter().filter(|lost| lost.hole_count > 0).count(),
            self.acknowledged,
            self.unknown
        ));
    }
}

async fn stored(reader: &mut Client) -> BTreeMap<String, Entry> {
    let list = Action::List {
        prefix: "load.".into(),
    };
    let told = insist(reader, list).await;
    match told.answer() {
        Some(Answer::Entries(stored)) => stored.clone(),
        _ => panic!("{told:?}"),
    }
}

async fn clear(reader: &mut Client) {
    let remove = Action::RemovePrefix {
        prefix: "load.".into(),
        by_regex: false,
    };
    insist(reader, remove).await;
}

fn pattern() -> Pattern {
    Pattern {
        names_per_client: 1_000_000,
        ..Pattern::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_all_lose_power() {
    let _alone = alone().await;
    let mut settings = Settings::new().unwrap();
    settings.notes_syncs = true;
    let mut cluster = Cluster::found("power", 3, settings).await.unwrap();
    let mut random = SmallRng::from_os_rng();
    let mut seen = Seen::default();
    let rounds = amount(4, 20);
    for round in 0..rounds {
        let recorder = Arc::new(Recorder::default());
        let clients = (0..12).map(|client| vec![cluster.endpoints_from(client % 3 + 1).remove(0)]);
        let load = Load::start(&recorder, clients.collect(), pattern());
        let time = random.random_range(200..1500);
        tokio::time::sleep(Duration::from_millis(time)).await;
        for node in cluster.nodes() {
            node.kill();
        }
        load.stop().await;
        for node in cluster.nodes() {
            // Either a prefix of the unsynced bytes survives, or any of their pages.
            let lost = match round % 2 {
                0 => node.lose_unsynced(),
                _ => node.lose_pages(&mut random),
            };
            seen.lost.push(lost.unwrap());
            node.start().unwrap();
        }
        for node in cluster.nodes() {
            node.wait_until_it_serves(PATIENCE).await.unwrap();
        }
        let mut reader = Client::new(100, cluster.endpoints(), &Arc::new(Recorder::default()));
        let stored = stored(&mut reader).await;
        seen.judge(round, &recorder.operations(), &stored);
        cluster.same_state(1, PATIENCE).await.unwrap();
        // The next round begins with an empty registry.
        clear(&mut reader).await;
    }
    seen.figure(&format!("3 nodes killed at once {rounds} times"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_starts_whichever_pages_a_power_failure_took() {
    let _alone = alone().await;
    let mut settings = Settings::new().unwrap();
    settings.notes_syncs = true;
    let mut cluster = Cluster::new(Run::begin("power alone").unwrap(), None, settings);
    cluster.add(1, Vec::new()).unwrap().start().unwrap();
    cluster
        .node(1)
        .wait_until_it_serves(PATIENCE)
        .await
        .unwrap();
    let seed: u64 = rand::random();
    figure(format!("power failures of seed {seed}"));
    let mut random = SmallRng::seed_from_u64(seed);
    let mut seen = Seen::default();
    let rounds = amount(12, 1_000);
    for round in 0..rounds {
        let recorder = Arc::new(Recorder::default());
        let clients = vec![cluster.endpoints(); 8];
        let load = Load::start(&recorder, clients, pattern());
        let time = random.random_range(20..400);
        tokio::time::sleep(Duration::from_millis(time)).await;
        while !recorder.operations().iter().any(is_ok) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let node = cluster.node(1);
        node.kill();
        load.stop().await;
        seen.lost.push(node.lose_pages(&mut random).unwrap());
        node.start().unwrap();
        node.wait_until_it_serves(PATIENCE).await.unwrap();
        let mut reader = Client::new(100, cluster.endpoints(), &Arc::new(Recorder::default()));
        let stored = stored(&mut reader).await;
        seen.judge(round, &recorder.operations(), &stored);
        clear(&mut reader).await;
    }
    seen.figure(&format!("a node alone killed {rounds} times"));
}
