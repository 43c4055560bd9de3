//! Tests of `nsctl cluster` against daemons of the real Pyro4 and Pyro5 with scripted replies, and of the order
//! in which `nsctl` tries endpoints.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hearth_wire::{Exception, Frame, MessageType, Value};
use serde_json::{Value as Json, json};
use support::fake::{Reaction, healthy, reply, serve};
use support::{Finished, Python, RealServer, closed_port, nsctl, run};

struct Double {
    server: RealServer,
}

impl Double {
    fn start(python: &Python, family: &str, state: &str) -> Self {
        Self {
            server: RealServer::start_script(python, "cluster_double.py", &[family, state]),
        }
    }

    fn each() -> Vec<Self> {
        let Some(python) = Python::find() else {
            return vec![];
        };
        let families = ["pyro4", "pyro5"].iter();
        families
            .map(|family| Self::start(&python, family, "healthy"))
            .collect()
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    fn nsctl(&self, arguments: &[&str], input: &str) -> Finished {
        at(&self.endpoint(), arguments, input)
    }

    fn done(&self, arguments: &[&str]) -> String {
        let finished = self.nsctl(arguments, "");
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        assert_eq!(finished.stderr, "", "{arguments:?}");
        finished.stdout
    }

    fn json(&self, arguments: &[&str]) -> Json {
        let mut all = vec!["-o", "json"];
        all.extend(arguments);
        serde_json::from_str(&self.done(&all)).expect("one JSON document")
    }
}

fn at(endpoints: &str, arguments: &[&str], input: &str) -> Finished {
    let mut all = vec!["--endpoints", endpoints];
    all.extend(arguments);
    run(&nsctl(), &all, &[], input)
}

fn assert_failed(finished: &Finished, code: i32, error: &str, hint: &str) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert_eq!(finished.stdout, "", "{finished:?}");
    let lines: Vec<&str> = finished.stderr.lines().collect();
    assert_eq!(lines.first(), Some(&error), "{finished:?}");
    assert!(
        lines.get(1).is_some_and(|line| line.contains(hint)),
        "{finished:?}"
    );
}

#[test]
fn status_shows_every_member() {
    for double in Double::each() {
        let status = double.json(&["cluster", "status"]);
        assert_eq!(status["leader"], json!(2));
        assert_eq!(status["term"], json!(7));
        assert_eq!(status["cluster"], json!("sensors"));
        let members = status["members"].as_array().expect("an array");
        assert_eq!(members.len(), 4);
        for key in [
            "id",
            "peer_addr",
            "ns_addr",
            "role",
            "voter",
            "last_applied",
        ] {
            for member in members {
                assert!(member.get(key).is_some(), "{key} in {member}");
            }
        }
        assert_eq!(members[1]["role"], json!("leader"));
        assert_eq!(members[2]["role"], Json::Null);
        assert_eq!(members[2]["error"], json!("connection refused"));
        assert_eq!(members[0]["purged_index"], json!(100));
        insta::assert_snapshot!("status", double.done(&["cluster", "status"]));
        let table = double.done(&["-o", "table", "cluster", "status"]);
        assert_eq!(table.lines().count(), 5, "{table}");
    }
}

#[test]
fn members_and_health_are_printed() {
    for double in Double::each() {
        insta::assert_snapshot!("members", double.done(&["cluster", "members"]));
        assert_eq!(
            double.json(&["cluster", "members"])[2],
            json!({"id": 4, "peer_addr": "10.0.0.4:9092", "voter": false, "promotes_itself": true})
        );
        assert_eq!(
            double.done(&["cluster", "health"]),
            "healthy, leader node 2\n"
        );
    }
    let Some(python) = Python::find() else { return };
    let ailing = Double::start(&python, "pyro5", "ailing");
    let told = ailing.nsctl(&["cluster", "health"], "");
    assert_eq!(told.code, Some(5));
    assert_eq!(
        told.stdout,
        "not healthy: no leader for 4 s\nalarm: disk nearly full\n"
    );
    let healthy = Double::start(&python, "pyro5", "healthy");
    let both = format!("{},{}", ailing.endpoint(), healthy.endpoint());
    assert_eq!(at(&both, &["cluster", "health"], "").code, Some(0));
}

#[test]
fn changes_are_made_and_refusals_told_apart() {
    for double in Double::each() {
        assert_eq!(
            double.done(&["cluster", "add"]),
            "Node 5 may join. On its machine, with its own address and folder:\n  \
             hearthd --node-id 5 --join 10.0.0.1:9092,10.0.0.2:9092,10.0.0.3:9092 \
             --cluster-name sensors --peer-addr HOST:9092 -n HOST -s rocksdb:DIR\n\
             If the cluster has a key, add --cluster-key-file FILE. For a node without a vote, add \
             --learner.\n"
        );
        let added = double.json(&["cluster", "add", "--node-id", "12"]);
        assert_eq!(added["node_id"], json!(12));
        assert_eq!(added["command"][2], json!("12"));
        assert_eq!(
            double.json(&["cluster", "promote", "4"]),
            json!({"promoted": 4})
        );
        assert_eq!(
            double.json(&["cluster", "transfer-leader"]),
            json!({"leader": 1})
        );
        assert_eq!(
            double.done(&["cluster", "transfer-leader", "3"]),
            "Node 3 leads\n"
        );
        assert_failed(
            &double.nsctl(&["cluster", "add", "--node-id", "2"], ""),
            4,
            "Error: NamingError - refused: number 2 was used before; take another one",
            "cluster status",
        );
        assert_failed(
            &double.nsctl(&["cluster", "promote", "9"], ""),
            3,
            "Error: NamingError - unknown member: 9",
            "cluster members",
        );
        assert_failed(
            &double.nsctl(&["cluster", "transfer-leader", "6"], ""),
            5,
            "Error: NamingError - no quorum: 1 of 3 voters answers",
            "majority",
        );
        assert_failed(
            &double.nsctl(&["cluster", "transfer-leader", "7"], ""),
            1,
            "Error: NamingError - outcome unknown: no quorum since the change was proposed",
            "may or may not have been made",
        );
    }
}

#[test]
fn removing_a_node_asks_first() {
    let question = "Removing node 3 from the cluster for good. Are you sure (y/n)?";
    for double in Double::each() {
        let remove = ["cluster", "remove", "3"];
        let refused = double.nsctl(&remove, "n\n");
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(0), question));
        let ended = double.nsctl(&remove, "");
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("--yes answers"), "{ended:?}");
        let done = double.nsctl(&remove, "y\n");
        assert_eq!(done.stdout, format!("{question}Removed node 3\n"));
        let removed = double.json(&["--yes", "cluster", "remove", "3"]);
        assert_eq!(removed, json!({"removed": 3}));
        let refused = double.nsctl(&["--yes", "cluster", "remove", "2"], "");
        assert_eq!(refused.code, Some(4), "{refused:?}");
        let forced = double.nsctl(&["--yes", "cluster", "remove", "3", "--force"], "");
        assert_eq!(forced.code, Some(2), "{forced:?}");
    }
}

#[test]
fn a_key_of_the_cluster_is_proved_before_a_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path.display().to_string()
    };
    let (right, wrong) = (
        file("right", " the first key\nthe second key \n"),
        file("wrong", "a guess\n"),
    );
    let remove = ["--yes", "cluster", "remove", "8"];
    for double in Double::each() {
        let with =
            |key: &str| double.nsctl(&[&["--cluster-key-file", key], &remove[..]].concat(), "");
        let denied = double.nsctl(&remove, "");
        assert_failed(
            &denied,
            6,
            "Error: NamingError - denied: the cluster is changed from a node's own machine",
            "--cluster-key-file",
        );
        let done = with(&right);
        assert_eq!(done.stdout, "Removed node 8\n", "{done:?}");
        assert_failed(
            &with(&wrong),
            6,
            "Error: NamingError - denied: this proves no key of this cluster",
            "--cluster-key-file",
        );
        let environment = [("NSCTL_CLUSTER_KEY_FILE", right.as_str())];
        let endpoint = double.endpoint();
        let all = [&["--endpoints", &endpoint], &remove[..]].concat();
        let done = run(&nsctl(), &all, &environment, "");
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    for (content, part) in [("", "holds 0 keys"), (&"k\n".repeat(9), "holds 9 keys")] {
        let bad = file("bad", content);
        let told = at("h:1", &["--cluster-key-file", &bad, "cluster", "add"], "");
        assert_eq!(told.code, Some(2), "{told:?}");
        assert!(told.stderr.contains(part), "{told:?}");
    }
    let told = at(
        "h:1",
        &["--cluster-key-file", "/no/such", "cluster", "add"],
        "",
    );
    assert!(told.stderr.contains("cannot be read"), "{told:?}");
}

#[test]
fn a_name_server_that_is_not_hearth_is_named_as_such() {
    let Some(python) = Python::find() else { return };
    for program in ["pyro4-ns", "pyro5-ns"] {
        let server = RealServer::start(&python, program);
        let endpoint = format!("127.0.0.1:{}", server.port());
        let line = format!(
            "Error: PyroError - the name server at {endpoint} is not Hearth: \
             it has no object Hearth.Cluster"
        );
        for command in ["status", "add", "health"] {
            let told = at(&endpoint, &["cluster", command], "");
            assert_failed(&told, 1, &line, "hearthd");
        }
    }
}

/// A server with a single reply, and the number of calls that it received.
struct Scripted {
    endpoint: String,
    call_count: Arc<AtomicUsize>,
}

impl Scripted {
    async fn start(react: impl Fn(&Frame) -> Reaction + Send + Sync + 'static) -> Self {
        let call_count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&call_count);
        let address = serve("127.0.0.1", move |frame| {
            if frame.kind != MessageType::Invoke {
                return healthy(frame, &Value::None);
            }
            counter.fetch_add(1, Ordering::Relaxed);
            react(frame)
        })
        .await;
        Self {
            endpoint: address.to_string(),
            call_count,
        }
    }

    async fn raising(text: &'static str) -> Self {
        Self::start(move |frame| {
            let exception = Value::Exception(Box::new(Exception::naming(text)));
            let mut raised = reply(frame, MessageType::Result, &exception);
            raised.flags.exception = true;
            Reaction::Send(raised)
        })
        .await
    }

    fn call_count(&self) -> usize {
        self.call_count.load(Ordering::Relaxed)
    }
}

/// Runs `nsctl` on another thread, so that the scripted servers of this thread's runtime keep running.
async fn nsctl_at(endpoints: &[&str], arguments: &[&str]) -> Finished {
    let endpoints = endpoints.join(",");
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    let finished = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        at(&endpoints, &arguments, "")
    });
    finished.await.expect("nsctl was run")
}

const READ: [&str; 1] = ["ping"];
const WRITE: [&str; 3] = ["register", "a", "PYRO:o@h:1"];
const CHANGE: [&str; 3] = ["cluster", "promote", "4"];

#[tokio::test]
async fn an_endpoint_that_cannot_serve_is_passed_over() {
    let good = Scripted::start(|frame| healthy(frame, &Value::None)).await;
    let closed = format!("127.0.0.1:{}", closed_port());
    let without_quorum = Scripted::raising("no quorum: 1 of 3 voters answers").await;
    let stopping = Scripted::raising("nothing was changed: the node is stopping").await;
    for command in [&READ[..], &WRITE, &CHANGE] {
        for bad in [&closed, &without_quorum.endpoint, &stopping.endpoint] {
            let before = good.call_count();
            let finished = nsctl_at(&[bad, &good.endpoint], command).await;
            assert_eq!(finished.code, Some(0), "{command:?} {bad}: {finished:?}");
            assert_eq!(good.call_count(), before + 1, "{command:?} {bad}");
        }
    }
    // The system accepts its connections in the backlog; the test never answers them.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let hanging_at = hanging.local_addr().expect("an address").to_string();
    let finished = nsctl_at(&[&hanging_at, &good.endpoint], &WRITE).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let neither = nsctl_at(&[&without_quorum.endpoint, &closed], &WRITE).await;
    assert_failed(
        &neither,
        5,
        "Error: NamingError - no quorum: 1 of 3 voters answers",
        "majority",
    );
    let nobody = nsctl_at(&[&closed, &closed], &CHANGE).await;
    assert_eq!(nobody.code, Some(5), "{nobody:?}");
}

#[tokio::test]
async fn a_change_that_may_have_been_made_is_not_asked_for_again() {
    let good = Scripted::start(|frame| healthy(frame, &Value::None)).await;
    let gone = Scripted::start(|_| Reaction::Close).await;
    let unsure = Scripted::raising("outcome unknown: no quorum since it was proposed").await;
    let silent = Scripted::start(|_| Reaction::Silence).await;
    for command in [&WRITE[..], &CHANGE] {
        for (bad, code) in [(&gone, 1), (&unsure, 1), (&silent, 124)] {
            let mut all = vec!["--timeout", "1"];
            all.extend(command);
            let calls = bad.call_count();
            let finished = nsctl_at(&[&bad.endpoint, &good.endpoint], &all).await;
            assert_eq!(finished.code, Some(code), "{command:?}: {finished:?}");
            assert!(
                finished.stderr.contains("may or may not have been made"),
                "{command:?}: {finished:?}"
            );
            assert_eq!(bad.call_count(), calls + 1, "{command:?}");
        }
    }
    assert_eq!(good.call_count(), 0);

    // A read may be requested any number of times.
    let finished = nsctl_at(&[&gone.endpoint, &good.endpoint], &READ).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[tokio::test]
async fn a_refusal_is_the_answer_of_the_whole_cluster() {
    let good = Scripted::start(|frame| healthy(frame, &Value::None)).await;
    let refusing = Scripted::raising("refused: node 4 is 1200 entries behind").await;
    let finished = nsctl_at(&[&refusing.endpoint, &good.endpoint], &CHANGE).await;
    assert_eq!(finished.code, Some(4), "{finished:?}");
    assert_eq!(good.call_count(), 0);
}
