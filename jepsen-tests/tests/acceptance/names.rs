//! Names across nodes: a registration at one node is visible at every other, and of competing registrations one
//! wins everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use hearth_cli::Address;
use hearth_jepsen_tests::client::{Client, Recorder, plain};
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE};
use hearth_jepsen_tests::history::Answer;
use hearth_jepsen_tests::node::{Settings, clear_environment};
use tokio::task::JoinSet;

use crate::support::{
    alone, amount, assert_linearizable, figure, found, lookup, python, register, register_safe,
    skip_if,
};

/// The number of chains that run at the same time. Each has one client per node.
const CHAINS: u64 = 24;

#[tokio::test(flavor = "multi_thread")]
async fn no_look_up_at_another_node_is_stale() {
    let _alone = alone().await;
    let cluster = Cluster::found("stale", 3, Settings::new().unwrap())
        .await
        .unwrap();
    let steps = amount(2_400, 10_000).div_ceil(CHAINS);
    let begin = Instant::now();
    let mut chains = JoinSet::new();
    for chain in 0..CHAINS {
        let recorder = Arc::new(Recorder::default());
        let mut clients: Vec<Client> = (1..=3_u64)
            .zip(1_u32..)
            .map(|(node, id)| Client::new(id, cluster.endpoints_from(node), &recorder))
            .collect();
        chains.spawn(async move {
            for step in 0..steps {
                // The steps cycle through all ordered pairs of different nodes.
                let writer = (step % 3) as usize;
                let reader = (writer + 1 + (step / 3 % 2) as usize) % 3;
                let name = format!("stale.{chain}.{}", step % 40);
                let uri = format!("PYRO:o{chain}_{step}@host:4000");
                let told = clients[writer].perform(register(&*name, &*uri)).await;
                assert_eq!(told.answer(), Some(&Answer::Done), "{told:?}");
                let told = clients[reader].perform(lookup(&*name)).await;
                assert_eq!(
                    found(&told),
                    Some(&plain(uri)),
                    "written at another node before: {told:?}"
                );
            }
            recorder
        });
    }
    while let Some(recorder) = chains.join_next().await {
        assert_linearizable(&recorder.unwrap().operations());
    }
    let (count, taken) = (steps * CHAINS, begin.elapsed().as_secs_f64());
    figure(format!(
        "3 nodes, {CHAINS} chains: {count} times registered at one node and looked up at another at once in \
         {taken:.1} s: 0 stale"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_safe_registrations_at_once_one_wins() {
    let _alone = alone().await;
    let cluster = Cluster::found("winners", 3, Settings::new().unwrap())
        .await
        .unwrap();
    let recorder = Arc::new(Recorder::default());
    let mut clients: Vec<Client> = (1..=3_u64)
        .zip(1_u32..)
        .map(|(node, id)| Client::new(id, cluster.endpoints_from(node), &recorder))
        .collect();
    let mut wins = [0_u32; 3];
    for round in 0..200 {
        let name = format!("safe.{round}");
        let uri = |i: usize| format!("PYRO:by_{i}@host:{}", 4000 + round);
        let [a, b, c] = clients.as_mut_slice() else {
            unreachable!("three clients")
        };
        let (a, b, c) = tokio::join!(
            a.perform(register_safe(&*name, uri(0))),
            b.perform(register_safe(&*name, uri(1))),
            c.perform(register_safe(&*name, uri(2))),
        );
        let answers = [a.answer(), b.answer(), c.answer()];
        let winners: Vec<usize> = (0..3)
            .filter(|&i| answers[i] == Some(&Answer::Done))
            .collect();
        let losers = answers
            .iter()
            .filter(|a| **a == Some(&Answer::Taken))
            .count();
        assert_eq!((winners.len(), losers), (1, 2), "{name}: {answers:?}");
        wins[winners[0]] += 1;
        for client in &mut clients {
            let told = client.perform(lookup(&*name)).await;
            assert_eq!(found(&told), Some(&plain(uri(winners[0]))), "{told:?}");
        }
    }
    assert_linearizable(&recorder.operations());
    cluster.same_state(1, PATIENCE).await.unwrap();
    figure(format!(
        "200 names registered with safe=True from 3 nodes at once: one winner each, by node {wins:?}"
    ));
}

/// A program that registers the same names as its siblings, prints those that it won, and then looks each up.
/// One sibling goes forwards, one backwards and one starts in the middle, so that none is always first.
/// `sys.argv`: family, host, port, number of this program, number of names.
const SAFE_PROGRAM: &str = r#"
import importlib, sys
family, host, port, me, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
if family == "Pyro4":
    import Pyro4
    ns, errors = Pyro4.locateNS(host, port), Pyro4.errors
else:
    import Pyro5.api, Pyro5.errors
    ns, errors = Pyro5.api.locate_ns(host, port), Pyro5.errors
print("ready", flush=True)
sys.stdin.readline()
order = list(range(count))
order = {"1": order, "2": order[::-1], "3": order[count // 2:] + order[:count // 2]}[me]
for i in order:
    try:
        ns.register("py.%d" % i, "PYRO:by_%s@host:4000" % me, safe=True)
        print("won", i)
    except errors.NamingError as x:
        assert "already registered" in str(x), x
print("done", flush=True)
sys.stdin.readline()
for i in range(count):
    print("holds", i, str(ns.lookup("py.%d" % i)))
print("end", flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn real_pyro_programs_at_three_nodes_agree_on_the_winners() {
    skip_if!(python().err());
    let _alone = alone().await;
    let cluster = Cluster::found("python", 3, Settings::new().unwrap())
        .await
        .unwrap();
    const COUNT: usize = 200;
    let python = python().unwrap();
    let mut programs: Vec<_> = ["Pyro4", "Pyro5", "Pyro4"]
        .into_iter()
        .zip(cluster.endpoints())
        .map(|(family, (number, address))| {
            let Address::Tcp { host, port } = address else {
                unreachable!("nodes have TCP addresses")
            };
            let mut command = std::process::Command::new(&python);
            clear_environment(&mut command);
            command
                .args(["-c", SAFE_PROGRAM, family, &host, &port.to_string()])
                .args([&number.to_string(), &COUNT.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            (number, child, lines)
        })
        .collect();
    let mut winners: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    let mut held: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for marker in ["ready", "done", "end"] {
        for (number, child, lines) in &mut programs {
            loop {
                let line = lines
                    .next()
                    .unwrap_or_else(|| {
                        panic!("the program at node {number} ended: {:?}", child.wait())
                    })
                    .unwrap();
                let words: Vec<&str> = line.split(' ').collect();
                match words.as_slice() {
                    [word] if *word == marker => break,
                    ["won", name] => winners
                        .entry(name.parse().unwrap())
                        .or_default()
                        .push(*number),
                    ["holds", name, uri] => {
                        held.entry(name.parse().unwrap())
                            .or_default()
                            .insert((*uri).to_owned());
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        for (_, child, _) in &mut programs {
            // After the last marker the program may have ended already.
            let _ = child.stdin.as_mut().unwrap().write_all(b"go\n");
        }
    }
    for (_, mut child, _) in programs {
        assert!(child.wait().unwrap().success());
    }
    let mut wins: BTreeMap<u64, u32> = BTreeMap::new();
    for name in 0..COUNT {
        let by = winners.get(&name).map_or(&[] as &[u64], Vec::as_slice);
        let [winner] = by else {
            panic!("py.{name} was won by {by:?}")
        };
        let uri = format!("PYRO:by_{winner}@host:4000");
        assert_eq!(held.get(&name), Some(&BTreeSet::from([uri])), "py.{name}");
        *wins.entry(*winner).or_default() += 1;
    }
    figure(format!(
        "{COUNT} names by real Pyro4 and Pyro5 programs at 3 nodes at once: one winner each, by node {wins:?}"
    ));
}
