//! Failover of the leader: the pause in writes is short, and clients of the other nodes see no error.

use std::sync::Arc;
use std::time::Duration;

use hearth_jepsen_tests::client::Recorder;
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE, until};
use hearth_jepsen_tests::history::{Nanos, Operation};
use hearth_jepsen_tests::load::{Load, Pattern, failures, longest_gap, quantile};
use hearth_jepsen_tests::net::{Cut, Net};
use hearth_jepsen_tests::node::Settings;

use crate::support::{alone, amount, assert_linearizable, figure, limit, row, skip_if};

/// Returns the endpoints of six clients, two at each of three nodes.
fn six_clients(cluster: &Cluster) -> Vec<Vec<(u64, hearth_cli::Address)>> {
    [1, 2, 3, 1, 2, 3]
        .map(|node| cluster.endpoints_from(node))
        .to_vec()
}

/// The effect of a fault on the clients.
struct Seen {
    /// The longest time between two writes of a client of a remaining node.
    gap: Duration,
    /// The longest time between two writes of a client of the node that went away.
    gap_of_the_others: Duration,
    history: Vec<Operation>,
}

/// Judges a history, until `end`, in which node `gone` went away at `at`.
#[track_caller]
fn judge(history: Vec<Operation>, gone: u64, at: Nanos, end: Nanos) -> Seen {
    // The node of each client at the time of the fault. Writers have the ids 1 to 6, the readers at each node 7
    // to 9.
    let node_of = |client: u32| u64::from((client - 1) % 3 + 1);
    let stayed = |operation: &Operation| node_of(operation.client) != gone;
    let failed: Vec<_> = failures(&history, 0, end)
        .into_iter()
        .filter(|operation| stayed(operation))
        .collect();
    assert!(
        failed.is_empty(),
        "clients of nodes that stayed were told errors: {failed:#?}"
    );
    assert_linearizable(&history);
    Seen {
        gap: longest_gap(&history, at, end, stayed).unwrap(),
        gap_of_the_others: longest_gap(&history, at, end, |o| !stayed(o)).unwrap(),
        history,
    }
}

/// Waits until each of the clients 1 to 6 has completed a write that began after `since`. Ignores the clients
/// of node `without_clients_of`.
async fn all_write_again(recorder: &Recorder, since: Nanos, without_clients_of: Option<u64>) {
    until("writes of all clients", PATIENCE, || async {
        let history = recorder.operations();
        let missing: Vec<u32> = (1..=6)
            .filter(|client| without_clients_of != Some(u64::from((client - 1) % 3 + 1)))
            .filter(|&client| {
                let wrote = |o: &Operation| {
                    o.client == client && o.call > since && crate::support::is_ok(o)
                };
                !history.iter().any(wrote)
            })
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("clients {missing:?} have not written since"))
        }
    })
    .await
    .unwrap();
}

fn pattern() -> Pattern {
    Pattern {
        // With few operations on each name, each is judged quickly.
        names_per_client: 1_000_000,
        lookups: 1,
        rest: Duration::from_millis(1),
    }
}

enum End {
    Kill,
    Terminate,
}

/// Ends the leader `rounds` times. Returns the gaps of the clients of the other nodes, and those of the
/// leader's clients.
async fn end_the_leader(rounds: u64, end: End) -> (Vec<Duration>, Vec<Duration>) {
    let mut cluster = Cluster::found("failover", 3, Settings::new().unwrap())
        .await
        .unwrap();
    let (mut gaps, mut gaps_of_the_others) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
        let leader = cluster.leader().await.unwrap();
        let recorder = Arc::new(Recorder::default());
        let load = Load::start(&recorder, six_clients(&cluster), pattern());
        all_write_again(&recorder, 0, None).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let at = recorder.now();
        match end {
            End::Kill => cluster.node(leader).kill(),
            End::Terminate => {
                let status = cluster.node(leader).terminate(PATIENCE).await.unwrap();
                assert!(status.success(), "{status}");
            }
        }
        all_write_again(&recorder, recorder.now(), None).await;
        let until = recorder.now();
        load.stop().await;
        let history = recorder.operations();
        if matches!(end, End::Terminate) {
            // A node that shuts down gracefully answers the calls that it has accepted.
            let failed = failures(&history, 0, until);
            assert!(
                failed.is_empty(),
                "calls of a node that stopped in good order: {failed:#?}"
            );
        }
        let seen = judge(history, leader, at, until);
        assert!(!seen.history.is_empty());
        gaps.push(seen.gap);
        gaps_of_the_others.push(seen.gap_of_the_others);
        cluster.node(leader).start().unwrap();
        cluster
            .node(leader)
            .wait_until_it_serves(PATIENCE)
            .await
            .unwrap();
    }
    cluster.same_state(1, PATIENCE).await.unwrap();
    (gaps, gaps_of_the_others)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_a_short_pause() {
    let _alone = alone().await;
    let (mut gaps, mut of_its_clients) = end_the_leader(amount(3, 20), End::Kill).await;
    figure(format!(
        "leader killed with -9, longest gap in writes of clients of the others: {}",
        row(&mut gaps)
    ));
    figure(format!(
        "  of its own clients, which go to another node: {}",
        row(&mut of_its_clients)
    ));
    assert!(
        quantile(&gaps, 0.5) < limit(Duration::from_millis(300)),
        "{gaps:?}"
    );
    assert!(
        quantile(&gaps, 1.0) < limit(Duration::from_millis(1500)),
        "{gaps:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_first() {
    let _alone = alone().await;
    let (mut gaps, mut of_its_clients) = end_the_leader(amount(2, 10), End::Terminate).await;
    figure(format!(
        "leader stopped with SIGTERM, longest gap in writes of clients of the others: {}",
        row(&mut gaps)
    ));
    figure(format!(
        "  of its own clients, which go to another node: {}",
        row(&mut of_its_clients)
    ));
    assert!(
        quantile(&gaps, 0.5) < limit(Duration::from_millis(100)),
        "{gaps:?}"
    );
}

/// The longest election timeout of a node with the default settings.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(2000);

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced() {
    skip_if!(Net::why_not());
    let _alone = alone().await;
    let mut cluster = Cluster::found_on_net("cut off", 3, 0, Settings::new().unwrap())
        .await
        .unwrap();
    let mut gaps = Vec::new();
    for _ in 0..amount(2, 10) {
        cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
        let leader = cluster.leader().await.unwrap();
        let recorder = Arc::new(Recorder::default());
        let load = Load::start(&recorder, six_clients(&cluster), pattern());
        all_write_again(&recorder, 0, None).await;
        let at = recorder.now();
        let fault = cluster
            .net()
            .unwrap()
            .cut(&Cut::isolated(leader, &[1, 2, 3]));
        assert!(fault.is_installed(), "{fault}");
        all_write_again(&recorder, recorder.now(), Some(leader)).await;
        let until = recorder.now();
        let fault = cluster.net().unwrap().heal();
        assert!(fault.is_installed(), "{fault}");
        all_write_again(&recorder, until, None).await;
        load.stop().await;
        let seen = judge(recorder.operations(), leader, at, until);
        gaps.push(seen.gap);
    }
    cluster.same_state(1, PATIENCE).await.unwrap();
    figure(format!(
        "leader cut off, no socket closed, longest gap in writes: {}",
        row(&mut gaps)
    ));
    let promised = ELECTION_TIMEOUT_MAX + Duration::from_millis(500);
    assert!(quantile(&gaps, 1.0) < limit(promised), "{gaps:?}");
}
