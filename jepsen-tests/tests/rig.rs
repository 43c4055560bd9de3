//! Tests of the rig itself: it kills, pauses and restarts the nodes that it starts, its partitions take effect,
//! and it leaves nothing behind. Standalone nodes are enough for that.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_jepsen_tests::client::{Client, Recorder, plain};
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE, until};
use hearth_jepsen_tests::history::{Action, Answer, Entry, Operation, Outcome};
use hearth_jepsen_tests::net::{Cut, Net};
use hearth_jepsen_tests::node::Settings;
use hearth_jepsen_tests::run::Run;
use rustix::process::Signal;

/// Starts standalone nodes, which do not know each other.
async fn singles(name: &str, count: u64, on_net: bool) -> Cluster {
    let run = Run::begin(name).unwrap();
    let net = on_net.then(|| Net::build(&run, count).unwrap());
    let mut cluster = Cluster::new(run, net, Settings::new().unwrap());
    for number in 1..=count {
        cluster.add(number, Vec::new()).unwrap().start().unwrap();
    }
    for node in cluster.nodes() {
        node.wait_until_it_serves(PATIENCE).await.unwrap();
    }
    cluster
}

fn register(name: &str, uri: &str, safe: bool) -> Action {
    Action::Register {
        name: name.into(),
        entry: plain(uri),
        safe,
    }
}

fn lookup(name: &str) -> Action {
    Action::Lookup { name: name.into() }
}

#[track_caller]
fn assert_failed(operation: &Operation) {
    assert!(
        matches!(operation.outcome, Outcome::Failed(_)),
        "{operation:?}"
    );
}

#[track_caller]
fn assert_unknown(operation: &Operation) {
    assert!(
        matches!(operation.outcome, Outcome::Unknown(_)),
        "{operation:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_killed_paused_stopped_and_restarted() {
    let mut cluster = singles("lives of a node", 1, false).await;
    let recorder = Arc::new(Recorder::default());
    let endpoints = cluster.endpoints();
    let mut client = Client::new(1, endpoints, &recorder).with_timeout(Duration::from_millis(300));

    let told = client.perform(register("a", "PYRO:a@h:1", true)).await;
    assert_eq!(told.answer(), Some(&Answer::Done));
    let told = client.perform(register("a", "PYRO:b@h:1", true)).await;
    assert_eq!(told.answer(), Some(&Answer::Taken));

    cluster.node(1).pause();
    assert_unknown(&client.perform(register("b", "PYRO:b@h:1", false)).await);
    cluster.node(1).resume();
    until("an answer", PATIENCE, || {
        let mut client = Client::new(2, cluster.endpoints(), &recorder);
        async move {
            let told = client.perform(lookup("a")).await;
            told.answer().cloned().ok_or_else(|| format!("{told:?}"))
        }
    })
    .await
    .unwrap();

    cluster.node(1).kill();
    assert!(!cluster.node(1).is_running());
    assert_failed(&client.perform(register("c", "PYRO:c@h:1", false)).await);
    cluster.node(1).start().unwrap();
    cluster
        .node(1)
        .wait_until_it_serves(PATIENCE)
        .await
        .unwrap();
    assert!(cluster.node(1).memory().unwrap().resident > 1 << 20);
    let told = client.perform(lookup("a")).await;
    assert_eq!(
        told.answer(),
        Some(&Answer::Entry(Some(plain("PYRO:a@h:1"))))
    );
    let told = client.perform(lookup("c")).await;
    assert_eq!(told.answer(), Some(&Answer::Entry(None)));

    let status = cluster.node(1).terminate(PATIENCE).await.unwrap();
    assert!(status.success(), "{status}");
    assert_failed(&client.perform(lookup("a")).await);
    assert_eq!(recorder.count(), recorder.operations().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_asks_everything_and_goes_on_to_the_next_node() {
    let mut cluster = singles("a client", 2, false).await;
    let recorder = Arc::new(Recorder::default());
    let mut client = Client::new(1, cluster.endpoints(), &recorder);
    let tags: BTreeSet<String> = ["t.1".into()].into();
    let entry = Entry {
        uri: "PYRO:a@h:1".into(),
        tags: tags.clone(),
    };
    for name in ["x.1", "x.2", "x-3"] {
        let action = Action::Register {
            name: name.into(),
            entry: entry.clone(),
            safe: false,
        };
        assert_eq!(client.perform(action).await.answer(), Some(&Answer::Done));
    }
    for (action, count) in [
        (
            Action::List {
                prefix: "x.".into(),
            },
            2,
        ),
        (Action::Tagged { tag: "t.1".into() }, 3),
    ] {
        match client.perform(action).await.answer() {
            Some(Answer::Entries(entries)) => {
                assert_eq!(entries.len(), count);
                assert!(entries.values().all(|found| *found == entry));
            }
            other => panic!("{other:?}"),
        }
    }
    let set = |name: &str| Action::SetMetadata {
        name: name.into(),
        tags: BTreeSet::new(),
    };
    assert_eq!(
        client.perform(set("x.1")).await.answer(),
        Some(&Answer::Done)
    );
    let told = client.perform(set("none")).await;
    assert_eq!(told.answer(), Some(&Answer::UnknownName));
    let remove = Action::RemovePrefix {
        prefix: "x.".into(),
        by_regex: true,
    };
    let told = client.perform(remove).await;
    assert_eq!(told.answer(), Some(&Answer::Removed(2)));
    let remove = Action::Remove { name: "x-3".into() };
    let told = client.perform(remove.clone()).await;
    assert_eq!(told.answer(), Some(&Answer::Removed(1)));
    let told = client.perform(remove).await;
    assert_eq!(told.answer(), Some(&Answer::Removed(0)));

    // The node was killed during the call, so the outcome is unknown. A paused node cannot have answered
    // before.
    assert_eq!(client.node(), 1);
    cluster.node(1).pause();
    let node = cluster.node(1);
    let (told, ()) = tokio::join!(client.perform(register("y", "PYRO:y@h:1", false)), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        node.kill();
    });
    assert_unknown(&told);
    let told = client.perform(lookup("y")).await;
    assert_eq!(told.answer(), Some(&Answer::Entry(None)));
    assert_eq!(told.node, 2);
    let verdict = hearth_jepsen_tests::check::name::check(&recorder.operations());
    assert!(verdict.holds(), "{verdict:?}");
}

/// Returns true if `nsctl ping` at the place of node `from` reaches node `to`.
fn reaches(cluster: &mut Cluster, from: u64, to: u64) -> bool {
    let hearth_cli::Address::Tcp { host, port } = cluster.node(to).address() else {
        unreachable!("nodes have TCP addresses")
    };
    let nsctl = cluster.settings().programs.join("nsctl");
    let output = cluster
        .node(from)
        .command_beside(nsctl)
        .args([
            "-n",
            &host,
            "-p",
            &port.to_string(),
            "--timeout",
            "0.4",
            "ping",
        ])
        .output()
        .unwrap();
    output.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_is_cut_and_heals() {
    if let Some(reason) = Net::why_not() {
        return hearth_skipped::skipped(reason);
    }
    let mut cluster = singles("cuts", 3, true).await;
    let all = [1, 2, 3];
    for cut in [
        None,
        Some(Cut::isolated(3, &all)),
        // The drop itself is one way, but TCP needs replies, so a ping fails in both directions.
        Some(Cut::one_way(1, 2)),
        Some(Cut::halves(&[1], &[2, 3])),
        None,
    ] {
        let fault = match &cut {
            Some(cut) => cluster.net().unwrap().cut(cut),
            None => cluster.net().unwrap().heal(),
        };
        assert!(fault.is_installed(), "{fault}");
        let drops = |a, b| {
            cut.as_ref()
                .is_some_and(|cut| cut.drops(a, b) || cut.drops(b, a))
        };
        for (from, to) in [(1, 2), (1, 3), (2, 3), (3, 1)] {
            assert_eq!(
                reaches(&mut cluster, from, to),
                !drops(from, to),
                "{cut:?}: {from} to {to}"
            );
        }
        // Clients of the run reach each node, whatever the cut between the nodes.
        for number in all {
            let ran = cluster.nsctl(number, &["ping"]).await.unwrap();
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
    }
}

/// The environment variable for the run that is killed in the middle.
const VICTIM: &str = "HEARTH_RIG_VICTIM";

/// Not a test by itself: `nothing_is_left_behind` runs it in another process.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    let Some(on_net) = std::env::var_os(VICTIM) else {
        return;
    };
    let mut cluster = singles("victim", 1, on_net == "net").await;
    let id = cluster.node(1).process().unwrap().id();
    println!("victim {id} {}", cluster.run().folder().display());
    std::future::pending::<()>().await;
}

#[test]
fn nothing_is_left_behind() {
    let net = Net::why_not().is_none();
    for signal in [Signal::KILL, Signal::INT, Signal::TERM] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(VICTIM, if net { "net" } else { "loopback" })
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let line = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("victim ").map(|(_, rest)| rest.to_owned()))
            .unwrap();
        let (node, folder) = line.split_once(' ').unwrap();
        let node = Path::new("/proc").join(node);
        let folder = Path::new(folder);
        assert!(node.exists() && folder.exists());
        let number = folder.file_name().unwrap().to_str().unwrap();
        let namespace = Path::new("/run/netns").join(format!("hearth-{number}-1"));
        assert_eq!(namespace.exists(), net);

        let id = i32::try_from(victim.id()).unwrap();
        let id = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
        victim.wait().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while node.exists() || folder.exists() || namespace.exists() {
            assert!(Instant::now() < deadline, "left behind: {line}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
