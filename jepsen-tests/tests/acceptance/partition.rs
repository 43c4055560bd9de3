//! Network partitions: nodes without a majority acknowledge nothing and return nothing stale, nodes with a
//! majority go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_jepsen_tests::client::{Client, Recorder, plain};
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE};
use hearth_jepsen_tests::history::{Action, Answer, Nanos, Operation};
use hearth_jepsen_tests::load::{Load, Pattern, longest_gap};
use hearth_jepsen_tests::net::{Cut, Net};
use hearth_jepsen_tests::node::Settings;

use crate::support::{
    alone, amount, assert_linearizable, figure, found, insist, is_ok, lookup, register, skip_if,
};

#[track_caller]
fn install(cluster: &Cluster, cut: Option<&Cut>) {
    let net = cluster.net().unwrap();
    let fault = cut.map_or_else(|| net.heal(), |cut| net.cut(cut));
    assert!(fault.is_installed(), "{fault}");
}

fn slow() -> Pattern {
    Pattern {
        names_per_client: 1_000_000,
        lookups: 1,
        rest: Duration::from_millis(5),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_acknowledges_nothing_and_shows_nothing_old() {
    skip_if!(Net::why_not());
    let _alone = alone().await;
    let all = [1, 2, 3, 4, 5];
    let mut cluster = Cluster::found_on_net("minority", 5, 0, Settings::new().unwrap())
        .await
        .unwrap();
    for round in 0..amount(1, 5) {
        cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
        // The leader is in the minority.
        let leader = cluster.leader().await.unwrap();
        let friend = leader % 5 + 1;
        let minority = [leader, friend];
        let majority: Vec<u64> = all
            .into_iter()
            .filter(|node| !minority.contains(node))
            .collect();

        let recorder = Arc::new(Recorder::default());
        let clients = all.map(|node| vec![cluster.endpoints_from(node).remove(0)]);
        let load = Load::start(&recorder, clients.to_vec(), slow());
        let name = format!("shared.{round}");
        let mut winner = Client::new(101, cluster.endpoints_from(majority[0]), &recorder);
        insist(&mut winner, register(&*name, "PYRO:before@host:1")).await;

        install(&cluster, Some(&Cut::halves(&minority, &majority)));
        let cut_at = recorder.now();
        let cut_since = Instant::now();
        insist(&mut winner, register(&*name, "PYRO:after@host:1")).await;
        let moved_on = cut_since.elapsed();

        // From here on every answer of the minority about that name would be stale.
        let mut refusals = 0;
        let mut losers = minority.map(|node| {
            let endpoint = cluster.endpoints_from(node).remove(0);
            Client::new(
                110 + u32::try_from(node).unwrap(),
                vec![endpoint],
                &recorder,
            )
            .with_timeout(Duration::from_secs(4))
        });
        while cut_since.elapsed() < Duration::from_secs(amount(8, 30)) {
            for client in &mut losers {
                let told = client.perform(lookup(&*name)).await;
                assert!(!is_ok(&told), "a stale read: {told:?}");
                let told = client.perform(register("lost", "PYRO:lost@host:1")).await;
                assert!(!is_ok(&told), "a write without a majority: {told:?}");
                refusals += 2;
            }
        }
        let healed_at = recorder.now();
        install(&cluster, None);
        cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
        load.stop().await;
        let told = insist(&mut losers[0], lookup(&*name)).await;
        assert_eq!(found(&told), Some(&plain("PYRO:after@host:1")));

        let history = recorder.operations();
        let acknowledged_alone = |o: &&Operation| {
            minority.contains(&o.node)
                && o.action.is_write()
                && is_ok(o)
                && o.call > cut_at
                && o.end < healed_at
        };
        let wrong: Vec<_> = history.iter().filter(acknowledged_alone).collect();
        assert!(
            wrong.is_empty(),
            "acknowledged without a majority: {wrong:#?}"
        );
        assert_linearizable(&history);
        let state = cluster.same_state(1, PATIENCE).await.unwrap();
        figure(format!(
            "leader and one more of 5 cut off: the majority writes after {:.0} ms; the minority refuses {refusals} \
             calls and acknowledges none; after healing {} nodes hold state {:.12} at {}",
            moved_on.as_secs_f64() * 1e3,
            state.nodes,
            state.hash,
            state.applied
        ));
    }
}

/// The longest time until a connected majority goes on.
const MOVES_ON_WITHIN: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_majority_goes_on_in_partial_partitions() {
    skip_if!(Net::why_not());
    let _alone = alone().await;
    let all = [1, 2, 3, 4, 5];
    let mut cluster = Cluster::found_on_net("bridge and ring", 5, 0, Settings::new().unwrap())
        .await
        .unwrap();
    for _ in 0..amount(1, 5) {
        cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
        let leader = cluster.leader().await.unwrap();
        let other = leader % 5 + 1;
        for cut in [
            // The leader keeps a majority through the bridge, or another node wins one through it.
            Cut::bridge(other, &all),
            Cut::bridge(leader, &all),
            Cut::ring(&all),
            // All nodes receive from the leader, and the leader receives from none.
            all.into_iter()
                .filter(|&node| node != leader)
                .map(|node| Cut::one_way(node, leader))
                .reduce(Cut::and)
                .unwrap(),
        ] {
            let recorder = Arc::new(Recorder::default());
            let clients = all.map(|node| vec![cluster.endpoints_from(node).remove(0)]);
            let load = Load::start(&recorder, clients.to_vec(), slow());
            install(&cluster, Some(&cut));
            let at = recorder.now();
            let moved_on = works_again(&recorder, at, &cut).await;
            // The majority must go on steadily, and not just commit once between two elections.
            let since = recorder.now();
            tokio::time::sleep(Duration::from_secs(amount(4, 20))).await;
            let until = recorder.now();
            let writers = writers(&recorder.operations(), since, until);
            install(&cluster, None);
            load.stop().await;
            assert_linearizable(&recorder.operations());
            let history = recorder.operations();
            let gap = writers
                .iter()
                .filter_map(|&client| longest_gap(&history, since, until, |o| o.client == client))
                .min();
            figure(format!(
                "{cut}: writes go on after {:.0} ms; then clients of nodes {writers:?} write, the best of \
                 them with no gap over {:.0} ms",
                moved_on.as_secs_f64() * 1e3,
                gap.unwrap_or_default().as_secs_f64() * 1e3
            ));
            assert!(
                writers.len() >= 3,
                "{cut}: only clients of {writers:?} write"
            );
            cluster.same_state(1, PATIENCE).await.unwrap();
        }
    }
}

/// Returns the clients with an acknowledged write that began after `from` and ended before `to`. Their ids are
/// those of their nodes.
fn writers(history: &[Operation], from: Nanos, to: Nanos) -> Vec<u32> {
    let mut writers: Vec<u32> = history
        .iter()
        .filter(|o| o.answer() == Some(&Answer::Done) && o.call > from && o.end < to)
        .filter(|o| matches!(o.action, Action::Register { .. }))
        .map(|o| o.client)
        .collect();
    writers.sort_unstable();
    writers.dedup();
    writers
}

/// Waits until clients of three nodes have each had a write acknowledged that began after `at`. Returns the
/// time from `at`.
async fn works_again(recorder: &Recorder, at: Nanos, cut: &Cut) -> Duration {
    loop {
        let now = recorder.now();
        if writers(&recorder.operations(), at, now).len() >= 3 {
            return Duration::from_nanos(now - at);
        }
        let waited = Duration::from_nanos(now - at);
        assert!(
            waited < MOVES_ON_WITHIN,
            "{cut}: no majority works after {waited:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
