//! Rolling restarts: every node is stopped and started again, one after the other, and no call fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_jepsen_tests::client::Recorder;
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE};
use hearth_jepsen_tests::load::{Load, Pattern, failures, longest_gap};
use hearth_jepsen_tests::node::Settings;
use hearth_jepsen_tests::programs;

use crate::support::{alone, amount, assert_linearizable, figure, skip_if};

async fn restart_all(cluster: &mut Cluster, rounds: u64, new: Option<&Settings>) {
    let recorder = Arc::new(Recorder::default());
    let clients = (0..10).map(|client| cluster.endpoints_from(client % 5 + 1));
    let pattern = Pattern {
        names_per_client: 1_000_000,
        lookups: 1,
        rest: Duration::from_millis(2),
    };
    let load = Load::start(&recorder, clients.collect(), pattern);
    let begin = Instant::now();
    for _ in 0..rounds {
        for number in cluster.numbers() {
            let status = cluster.node(number).terminate(PATIENCE).await.unwrap();
            assert!(status.success(), "node {number}: {status}");
            if let Some(new) = new {
                cluster.node(number).settings = new.clone();
            }
            cluster.node(number).start().unwrap();
            cluster
                .node(number)
                .wait_until_it_serves(PATIENCE)
                .await
                .unwrap();
            cluster.wait_until_healthy(number, PATIENCE).await.unwrap();
        }
    }
    let end = recorder.now();
    load.stop().await;
    let history = recorder.operations();
    recorder
        .write_to(&cluster.run().folder().join("history.jsonl"))
        .unwrap();
    let failed = failures(&history, 0, end);
    let gap = longest_gap(&history, 0, end, |_| true).unwrap();
    figure(format!(
        "5 nodes restarted one after the other {rounds} times in {:.1} s under {} calls: {} failed, longest \
         pause of a client {:.0} ms",
        begin.elapsed().as_secs_f64(),
        history.len(),
        failed.len(),
        gap.as_secs_f64() * 1e3
    ));
    assert!(failed.is_empty(), "{failed:#?}");
    assert_linearizable(&history);
    cluster.same_state(1, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_call() {
    let _alone = alone().await;
    let mut cluster = Cluster::found("rolling restart", 5, Settings::new().unwrap())
        .await
        .unwrap();
    restart_all(&mut cluster, amount(1, 5), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_the_previous_build_is_upgraded_node_by_node() {
    let previous = programs::previous_folder();
    skip_if!(previous.is_none().then(|| format!(
        "{} names no folder with an earlier hearthd",
        programs::PREVIOUS_BIN_DIR
    )));
    let _alone = alone().await;
    let new = Settings::new().unwrap();
    let mut old = new.clone();
    old.programs = previous.unwrap();
    let mut cluster = Cluster::found("upgrade", 5, old).await.unwrap();
    cluster.settings().programs = new.programs.clone();
    restart_all(&mut cluster, 1, Some(&new)).await;
}
