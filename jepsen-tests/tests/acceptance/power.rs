//! All nodes lose power at once, and with it what no sync had covered.

use std::sync::Arc;
use std::time::Duration;

use hearth_jepsen_tests::client::{Client, Recorder};
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE};
use hearth_jepsen_tests::history::{Action, Answer, Outcome};
use hearth_jepsen_tests::load::{Load, Pattern};
use hearth_jepsen_tests::node::Settings;
use rand::Rng;

use crate::support::{alone, amount, figure, insist, is_ok};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_all_lose_power() {
    let _alone = alone().await;
    let mut settings = Settings::new().unwrap();
    settings.notes_syncs = true;
    let mut cluster = Cluster::found("power", 3, settings).await.unwrap();
    let (mut acknowledged, mut unknown, mut cut) = (0, 0, Vec::new());
    let rounds = amount(3, 20);
    for round in 0..rounds {
        let recorder = Arc::new(Recorder::default());
        let clients = (0..12).map(|client| vec![cluster.endpoints_from(client % 3 + 1).remove(0)]);
        let pattern = Pattern {
            names_per_client: 1_000_000,
            ..Pattern::default()
        };
        let load = Load::start(&recorder, clients.collect(), pattern);
        let time = rand::rng().random_range(200..1500);
        tokio::time::sleep(Duration::from_millis(time)).await;
        for node in cluster.nodes() {
            node.kill();
        }
        load.stop().await;
        for node in cluster.nodes() {
            cut.push(node.lose_unsynced().unwrap().cut_len);
            node.start().unwrap();
        }
        for node in cluster.nodes() {
            node.wait_until_it_serves(PATIENCE).await.unwrap();
        }

        let mut reader = Client::new(100, cluster.endpoints(), &Arc::new(Recorder::default()));
        let list = Action::List {
            prefix: "load.".into(),
        };
        let told = insist(&mut reader, list).await;
        let Some(Answer::Entries(stored)) = told.answer() else {
            panic!("{told:?}")
        };
        let history = recorder.operations();
        for operation in &history {
            let Action::Register { name, entry, .. } = &operation.action else {
                continue;
            };
            let found = stored.get(name).map(|found| found.uri.as_str());
            match operation.outcome {
                Outcome::Ok(_) => {
                    acknowledged += 1;
                    assert_eq!(
                        found,
                        Some(entry.uri.as_str()),
                        "round {round}, lost: {operation:?}"
                    );
                }
                Outcome::Failed(_) => assert_ne!(found, Some(entry.uri.as_str()), "{operation:?}"),
                Outcome::Unknown(_) => unknown += 1,
            }
        }
        assert!(
            history.iter().any(is_ok),
            "round {round}: nobody wrote anything"
        );
        cluster.same_state(1, PATIENCE).await.unwrap();
        // The next round begins with nothing.
        let remove = Action::RemovePrefix {
            prefix: "load.".into(),
            by_regex: false,
        };
        insist(&mut reader, remove).await;
    }
    cut.sort_unstable();
    figure(format!(
        "3 nodes killed at once {rounds} times with up to {} un-synced bytes cut away ({} of {} logs cut): \
         {acknowledged} writes acknowledged, 0 lost ({unknown} unknown)",
        cut.last().copied().unwrap_or_default(),
        cut.iter().filter(|&&len| len > 0).count(),
        cut.len()
    ));
}
