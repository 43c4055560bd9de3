//! The nemeses that change the environment of nodes: each takes effect when it reports so, and is gone once it
//! is healed. The clusters have three nodes; the network belongs to the run.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_jepsen_tests::campaign::faults::{self, Nemesis, Outcome};
use hearth_jepsen_tests::campaign::prepare;
use hearth_jepsen_tests::client::{Client, Recorder, plain};
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE, until};
use hearth_jepsen_tests::folder::Network;
use hearth_jepsen_tests::history::{Action, Answer, Operation, Outcome as Said};
use hearth_jepsen_tests::net::Net;
use hearth_jepsen_tests::node::Settings;
use hearth_jepsen_tests::programs;
use hearth_jepsen_tests::run::Run;
use hearth_jepsen_tests::shaper::{Shape, Shaper};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;

/// Runs one cluster at a time, because clusters would slow each other down.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

macro_rules! skip_if {
    ($reason:expr) => {
        if let Some(reason) = $reason {
            return hearth_skipped::skipped(reason);
        }
    };
}

struct Scene {
    cluster: Cluster,
    recorder: Arc<Recorder>,
    random: SmallRng,
    next: u64,
}

impl Scene {
    /// Bootstraps three nodes with the environment that these nemeses need.
    async fn found(name: &str, nemeses: &[Box<dyn Nemesis>]) -> Self {
        let run = Run::begin(name).unwrap();
        let mut settings = Settings::new().unwrap();
        settings.notes_syncs = true;
        prepare(&mut settings, nemeses, &run, Network::Namespaces);
        let net = Net::build(&run, 5).unwrap();
        let mut cluster = Cluster::new(run, Some(net), settings);
        cluster.found_with(3).await.unwrap();
        cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
        Self {
            cluster,
            recorder: Arc::default(),
            random: SmallRng::seed_from_u64(1),
            next: 0,
        }
    }

    fn client(&mut self, node: u64) -> Client {
        self.next += 1;
        let endpoints = self.cluster.endpoints_from(node);
        Client::new(self.next.try_into().unwrap(), endpoints, &self.recorder)
    }

    async fn register(&mut self, node: u64, name: &str) -> Operation {
        let action = Action::Register {
            name: name.into(),
            entry: plain("PYRO:a@h:1"),
            safe: false,
        };
        self.client(node).perform(action).await
    }

    /// Waits until a registration at each node is acknowledged.
    async fn works(&mut self) {
        let nodes = self.cluster.numbers();
        for node in nodes {
            let name = format!("works.{}", self.next);
            let begin = Instant::now();
            loop {
                let told = self.register(node, &name).await;
                if told.answer() == Some(&Answer::Done) {
                    break;
                }
                assert!(begin.elapsed() < PATIENCE, "{told:?}");
            }
        }
    }

    /// Starts endless registrations, so that the nodes have something to write.
    fn load(&mut self) -> Load {
        let mut client = self.client(1);
        Load(tokio::spawn(async move {
            for number in 0.. {
                let action = Action::Register {
                    name: format!("load.{number}"),
                    entry: plain("PYRO:a@h:1"),
                    safe: false,
                };
                client.perform(action).await;
            }
        }))
    }

    async fn inject(&mut self, nemesis: &mut Box<dyn Nemesis>) -> String {
        match nemesis.inject(&mut self.cluster, &mut self.random).await {
            Outcome::Installed(what) => what,
            other => panic!("{}: {other:?}", nemesis.name()),
        }
    }

    async fn heal(&mut self, nemesis: &mut Box<dyn Nemesis>) -> String {
        match nemesis.heal(&mut self.cluster).await {
            Outcome::Installed(what) => what,
            other => panic!("{}: {other:?}", nemesis.name()),
        }
    }

    fn net(&self) -> Arc<Net> {
        self.cluster.shared_net().unwrap()
    }
}

/// A load, which ends when it is dropped.
struct Load(JoinHandle<()>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn chosen(names: &[&str]) -> Vec<Box<dyn Nemesis>> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    faults::chosen(&names).unwrap()
}

fn routes(net: &Net, node: u64) -> String {
    let output = net.command(node, "ip").arg("route").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

const ALL_LINKS: [(u64, u64); 6] = [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)];

#[tokio::test(flavor = "multi_thread")]
async fn packets_are_late_lost_doubled_and_out_of_order_while_a_shaper_runs() {
    skip_if!(Net::why_not());
    skip_if!(programs::python().err());
    let _alone = alone().await;
    let mut scene = Scene::found("shaper", &[]).await;
    let net = scene.net();
    let run = Arc::clone(scene.cluster.run());

    // A write takes at least one message to a follower and one back.
    let late = Shape {
        delay_ms: (150.0, 160.0),
        ..Shape::FINE
    };
    let shaper = Shaper::start(&run, &net, &ALL_LINKS, late, 1)
        .await
        .unwrap();
    assert!(
        routes(&net, 1).contains("dev shaper"),
        "{}",
        routes(&net, 1)
    );
    let begin = Instant::now();
    scene.works().await;
    assert!(begin.elapsed() >= Duration::from_millis(300));
    let counts = shaper.end().await.unwrap();
    assert!(counts.passed > 0 && counts.lost == 0, "{counts:?}");
    assert!(!routes(&net, 1).contains("shaper"), "{}", routes(&net, 1));

    for shape in [
        Shape {
            twice: 1.0,
            ..Shape::FINE
        },
        Shape {
            later: 0.5,
            ..Shape::FINE
        },
    ] {
        let shaper = Shaper::start(&run, &net, &ALL_LINKS, shape, 2)
            .await
            .unwrap();
        scene.works().await;
        let counts = shaper.end().await.unwrap();
        let expected = |share: f64, seen: u64| {
            let share_seen = seen as f64 / counts.passed as f64;
            (share - share_seen).abs() < 0.25
        };
        assert!(expected(shape.twice, counts.twice), "{counts:?}");
        assert!(expected(shape.later, counts.later), "{counts:?}");
    }

    // A node that receives nothing acknowledges nothing.
    let nothing = Shape {
        lost: 1.0,
        ..Shape::FINE
    };
    let shaper = Shaper::start(&run, &net, &ALL_LINKS, nothing, 3)
        .await
        .unwrap();
    let mut client = scene.client(1).with_timeout(Duration::from_secs(3));
    let told = client
        .perform(Action::Register {
            name: "nobody hears it".into(),
            entry: plain("PYRO:a@h:1"),
            safe: false,
        })
        .await;
    assert!(!matches!(told.outcome, Said::Ok(_)), "{told:?}");
    let counts = shaper.end().await.unwrap();
    assert_eq!(counts.lost, counts.passed);
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_files_fail_stops_and_comes_back() {
    skip_if!(Net::why_not());
    let _alone = alone().await;
    let mut nemeses = chosen(&["failed-sync", "failed-write"]);
    let mut scene = Scene::found("failed calls", &nemeses).await;
    skip_if!(scene.cluster.node(1).why_no_shims());
    let _load = scene.load();
    for nemesis in &mut nemeses {
        let what = scene.inject(nemesis).await;
        let hit = nemesis.nodes();
        assert_eq!(hit.len(), 1, "{what}");
        assert!(!scene.cluster.node(hit[0]).is_running(), "{what}");
        let failed = scene.cluster.node(hit[0]).failed_calls();
        assert!(what.contains(failed.last().unwrap()), "{what}: {failed:?}");
        scene.heal(nemesis).await;
        scene.works().await;
        // A healed nemesis affects no node.
        assert!(nemesis.nodes().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disks_are_told_and_there_is_room_again() {
    skip_if!(Net::why_not());
    let _alone = alone().await;
    let mut nemeses = chosen(&["disk-full"]);
    let mut scene = Scene::found("full disks", &nemeses).await;
    let volume = scene.cluster.node(1).volume().cloned();
    let Some(volume) = volume else {
        skip_if!(hearth_jepsen_tests::volume::Volume::why_not());
        panic!("the nodes have no volumes");
    };
    let nemesis = &mut nemeses[0];
    // Each of four injections leaves another amount of space, and one of them none.
    let mut told = String::new();
    for _ in 0..4 {
        let what = scene.inject(nemesis).await;
        told += &what;
        for node in nemesis.nodes() {
            let free = scene.cluster.node(node).volume().unwrap().free().unwrap();
            assert!(free < 64 << 20, "{what}: {free}");
        }
        scene.heal(nemesis).await;
        assert!(volume.free().unwrap() > 128 << 20);
        scene.works().await;
    }
    assert!(told.contains(" with 0 bytes left"), "{told}");

    // The mount disappears with the run.
    let mounted = || std::fs::read_to_string("/proc/mounts").unwrap();
    let path = volume.path().display().to_string();
    assert!(mounted().contains(&path));
    drop(scene);
    until("the end of the mount", PATIENCE, || async {
        (!mounted().contains(&path))
            .then_some(())
            .ok_or_else(mounted)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_of_nodes_jump_and_run_at_another_pace() {
    skip_if!(Net::why_not());
    let _alone = alone().await;
    let mut nemeses = chosen(&["clock-jump", "clock-rate"]);
    let mut scene = Scene::found("clocks", &nemeses).await;
    skip_if!(scene.cluster.node(1).why_no_shims());
    for nemesis in &mut nemeses {
        let what = scene.inject(nemesis).await;
        assert!(!nemesis.nodes().is_empty(), "{what}");
        scene.works().await;
        scene.heal(nemesis).await;
        scene.works().await;
    }
    // The timestamps in a node's log are those of its shifted clock.
    let node = scene.cluster.node(1);
    node.set_clocks(
        hearth_jepsen_tests::shim::RIGHT_RATE,
        400 * 86_400 * 1_000_000_000,
    )
    .unwrap();
    let (log, told) = (node.log(), node.log_len());
    scene.cluster.node(2).kill();
    let this_year = utc_year();
    until("a line of a later year", PATIENCE, || async {
        let said = std::fs::read_to_string(&log).unwrap();
        let said = said[usize::try_from(told).unwrap()..].to_owned();
        let year = said.get(..4).and_then(|year| year.parse::<u64>().ok());
        year.filter(|&year| year > this_year).ok_or(said)
    })
    .await
    .unwrap();
}

/// Returns the current year in UTC, from the real clock.
fn utc_year() -> u64 {
    let output = std::process::Command::new("date")
        .args(["-u", "+%Y"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_altered_log_stops_and_is_replaced() {
    skip_if!(Net::why_not());
    let _alone = alone().await;
    let mut nemeses = chosen(&["log-flip", "log-torn"]);
    let mut scene = Scene::found("altered logs", &nemeses).await;
    scene.register(1, "kept").await;
    let load = scene.load();
    // The log must be long enough to be altered.
    let log = scene.cluster.node(1).data().join("rocksdb");
    until("a log", PATIENCE, || async {
        let files = std::fs::read_dir(&log).map_err(|error| error.to_string())?;
        let lens = files.filter_map(|file| {
            let file = file.ok()?;
            let is_log = file.path().extension().is_some_and(|end| end == "log");
            is_log.then(|| file.metadata().map_or(0, |metadata| metadata.len()))
        });
        let longest = lens.max().unwrap_or(0);
        (longest > 64 << 10)
            .then_some(())
            .ok_or(longest.to_string())
    })
    .await
    .unwrap();
    drop(load);
    for nemesis in &mut nemeses {
        let what = scene.inject(nemesis).await;
        let place = nemesis.nodes()[0];
        assert!(!scene.cluster.node(place).is_running(), "{what}");
        let healed = scene.heal(nemesis).await;
        let id = scene.cluster.id_at(place).await.unwrap();
        assert!(id > 3, "{healed}: an id is never used again");
        let told = scene
            .client(place)
            .perform(Action::Lookup {
                name: "kept".into(),
            })
            .await;
        let kept = Answer::Entry(Some(plain("PYRO:a@h:1")));
        assert_eq!(told.answer(), Some(&kept), "{healed}");
        scene.works().await;
        // The new member also needs a log that is long enough.
        scene.cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_is_cut_off_and_two_faults_come_together() {
    skip_if!(Net::why_not());
    let _alone = alone().await;
    let mut nemeses = chosen(&["cut-learner", "pair"]);
    let mut scene = Scene::found("learner and pair", &nemeses).await;
    let what = scene.inject(&mut nemeses[0]).await;
    let place = nemeses[0].nodes()[0];
    let net = scene.net();
    let rules = |node: u64| {
        let output = net.command(node, "nft").args(["list", "ruleset"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let is_cut = [1, 2, 3, place]
        .iter()
        .any(|&node| rules(node).contains("drop"));
    assert!(is_cut, "{what}");
    scene.heal(&mut nemeses[0]).await;
    assert!(!scene.cluster.numbers().contains(&place));
    assert!([1, 2, 3].iter().all(|&node| !rules(node).contains("drop")));

    let _load = scene.load();
    let what = scene.inject(&mut nemeses[1]).await;
    assert_eq!(what.matches("; ").count(), 1, "{what}");
    scene.heal(&mut nemeses[1]).await;
    scene.works().await;
}
