//! Many names: a new member catches up while clients write, a restart takes no longer, and memory stays
//! bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_cli::{Address, BatchCall, ConnectOptions, NAME_SERVER, NameServer};
use hearth_jepsen_tests::client::Recorder;
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE, summary, until};
use hearth_jepsen_tests::load::{Load, Pattern, failures};
use hearth_jepsen_tests::node::Settings;
use tokio::task::JoinSet;

use crate::support::{alone, amount, figure, is_full, is_ok, limit};

/// The number of connections that fill the cluster, and of registrations in each of their messages.
const FILLERS: u64 = 150;
const BATCH: u64 = 100;

/// Limit on the resident memory of a node, in bytes.
const MEMORY_MAX: u64 = 400 << 20;

async fn fill(endpoints: &[(u64, Address)], count: u64) {
    let mut fillers = JoinSet::new();
    for filler in 0..FILLERS {
        let (_, address) = endpoints[filler as usize % endpoints.len()].clone();
        fillers.spawn(async move {
            let options = ConnectOptions {
                timeout: Some(PATIENCE),
                ..ConnectOptions::default()
            };
            let mut server = NameServer::connect(&address, &options).await.unwrap();
            let own = (filler..count).step_by(FILLERS as usize);
            let numbers: Vec<u64> = own.collect();
            for batch in numbers.chunks(BATCH as usize) {
                let calls = batch
                    .iter()
                    .map(|number| BatchCall {
                        method: "register".into(),
                        args: vec![
                            format!("many.{number:08}").as_str().into(),
                            format!("PYRO:obj_{number}@machine.example:41234")
                                .as_str()
                                .into(),
                        ],
                        kwargs: vec![],
                    })
                    .collect();
                let connection = server.connection().await.unwrap();
                let replies = connection.batch(NAME_SERVER, calls).await.unwrap();
                assert!(replies.iter().all(Result::is_ok), "{replies:?}");
            }
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_joins_and_restarts_among_many_names() {
    let _alone = alone().await;
    let mut cluster = Cluster::found("many names", 3, Settings::new().unwrap())
        .await
        .unwrap();
    let count = amount(20_000, 1_000_000);
    let begin = Instant::now();
    fill(&cluster.endpoints(), count).await;
    let filled = begin.elapsed();
    figure(format!(
        "{count} names registered through 3 nodes in {:.1} s ({:.0}/s)",
        filled.as_secs_f64(),
        count as f64 / filled.as_secs_f64()
    ));

    // About 200 registrations a second, or 1,000 in full: each client pauses for about 100 ms between two.
    let clients = amount(20, 100);
    let recorder = Arc::new(Recorder::default());
    let endpoints = (0..clients)
        .map(|client| cluster.endpoints_from(client % 3 + 1))
        .collect();
    let rest = Duration::from_millis(if is_full() { 95 } else { 100 });
    let load = Load::start(
        &recorder,
        endpoints,
        Pattern {
            rest,
            ..Pattern::default()
        },
    );

    let begin = Instant::now();
    let from = recorder.now();
    cluster
        .add_joining(4, None, false)
        .unwrap()
        .start()
        .unwrap();
    let patience = Duration::from_secs(120);
    let serves = cluster
        .node(4)
        .wait_until_it_serves(patience)
        .await
        .unwrap();
    let address = cluster.peer_addr_of(4);
    until("the new member votes", patience, || async {
        let status = cluster
            .status_at(1)
            .await
            .map_err(|error| error.to_string())?;
        let new = status
            .members
            .iter()
            .find(|m| m.peer_addr.as_deref() == Some(&*address));
        match new {
            Some(new) if new.voter && new.ready == Some(true) && new.name_count >= Some(count) => {
                Ok(())
            }
            _ => Err(summary(&status)),
        }
    })
    .await
    .unwrap();
    let caught_up = begin.elapsed();
    let span = Duration::from_nanos(recorder.now() - from);
    let written = recorder
        .operations()
        .iter()
        .filter(|o| is_ok(o) && o.action.is_write() && o.call >= from)
        .count();
    figure(format!(
        "{count} names, {:.0} registrations a second going on: a new member serves after {:.1} s and votes \
         after {:.1} s",
        written as f64 / span.as_secs_f64(),
        serves.as_secs_f64(),
        caught_up.as_secs_f64()
    ));
    assert!(caught_up < Duration::from_secs(60), "{caught_up:?}");

    // A restart after a crash, once the load has ended.
    let victim = if cluster.leader().await.unwrap() == 2 {
        3
    } else {
        2
    };
    let failed = failures(&recorder.operations(), 0, recorder.now()).len();
    assert_eq!(
        failed,
        0,
        "{:?}",
        failures(&recorder.operations(), 0, recorder.now())
    );
    load.stop().await;
    cluster.node(victim).kill();
    cluster.node(victim).start().unwrap();
    let serves = cluster
        .node(victim)
        .wait_until_it_serves(PATIENCE)
        .await
        .unwrap();
    figure(format!(
        "{count} names: a killed node serves {:.0} ms after its start",
        serves.as_secs_f64() * 1e3
    ));
    assert!(serves < limit(Duration::from_secs(2)), "{serves:?}");

    let state = cluster.same_state(1, PATIENCE).await.unwrap();
    assert_eq!(state.nodes, 4);
    for number in cluster.numbers() {
        let memory = cluster.node(number).memory().unwrap();
        figure(format!(
            "{count} names: node {number} holds {} MB, at most {} MB",
            memory.resident >> 20,
            memory.resident_max >> 20
        ));
        assert!(
            memory.resident_max < MEMORY_MAX,
            "node {number}: {memory:?}"
        );
    }
}
