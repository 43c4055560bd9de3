//! What is said about the options of a cluster, and what becomes of them.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;

use hearth_wire::uri::Location;
use socket2::{Domain, Socket, Type};

use super::*;
use crate::config::{NodeConfig, Request, load};
use crate::listen::BoundSocket;
use crate::pyro::ReadMode;

fn run(words: &[&str], environment: &[(&str, &str)]) -> Result<NodeConfig, Vec<String>> {
    let words = ["hearthd"].iter().chain(words).map(OsString::from);
    let environment = environment
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    match load(words, environment) {
        Ok(Request::Run(config)) => Ok(*config),
        Ok(Request::Print(text)) => panic!("unexpected text: {text}"),
        Err(error) => Err(error.mistakes),
    }
}

fn accepted(words: &[&str]) -> NodeConfig {
    run(words, &[]).unwrap_or_else(|mistakes| panic!("{words:?}: {mistakes:#?}"))
}

/// One mistake that begins with the option and says all of `parts`.
fn refused(words: &[&str], option: &str, parts: &[&str]) {
    let mistakes = run(words, &[]).expect_err("it is wrong");
    assert_eq!(mistakes.len(), 1, "{words:?}: {mistakes:#?}");
    let mistake = &mistakes[0];
    assert!(mistake.starts_with(&format!("{option}: ")), "{mistake}");
    for part in parts {
        assert!(mistake.contains(part), "{part} is missing in: {mistake}");
    }
}

const THREE: &str = "1=10.0.0.1:9092,2=10.0.0.2:9092,3=10.0.0.3:9092";

#[test]
fn a_founder_finds_its_own_address_in_the_list() {
    let config = accepted(&[
        "--initial-cluster",
        " 1=a:1 , 2=b , 7=[::1]:3 ",
        "--node-id=2",
        "-n",
        "b",
        "-s",
        "rocksdb:d",
        "--insecure-peers",
    ]);
    assert_eq!(config.node_id, Some(2));
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.peer_addr.as_deref(), Some("b:9092"));
    let founders = [(1, "a:1"), (2, "b:9092"), (7, "[::1]:3")];
    let founders = founders.map(|(id, addr)| (id, addr.to_owned())).into();
    assert_eq!(cluster.birth, Birth::Found { founders });
    assert!(cluster.keys.is_empty());
}

#[test]
fn a_joiner_needs_nothing_but_a_member() {
    let config = accepted(&["--join", "a:1,b,a:1", "--learner", "--insecure-peers"]);
    assert_eq!(config.node_id, None);
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.peer_addr, None);
    assert_eq!(
        cluster.birth,
        Birth::Join {
            seeds: vec!["a:1".to_owned(), "b:9092".to_owned()],
            learner: true
        }
    );
    // A list that all nodes are given holds this one, too.
    let words = ["--join", "a:1,b:1", "--peer-addr", "b:1", "-s", "rocksdb:d"];
    let config = accepted(&[&words[..], &["--insecure-peers"]].concat());
    let Birth::Join { seeds, learner } = config.cluster.unwrap().birth else {
        panic!("it joins");
    };
    assert_eq!((seeds, learner), (vec!["a:1".to_owned()], false));
}

#[test]
fn the_options_come_from_every_layer() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hearth.toml");
    std::fs::write(
        &file,
        "join = ['a:1', 'b:2']\nlearner = true\npeer-addr = 'c:3'\nreads = 'stale'\nheartbeat-interval = 50\ninsecure-peers = true\n",
    )
    .unwrap();
    let config = run(
        &["--reads", "available", "--config", file.to_str().unwrap()],
        &[
            ("HEARTH_PEER_ADDR", "d:4"),
            ("HEARTH_ELECTION_TIMEOUT", "300-600"),
        ],
    )
    .unwrap();
    assert_eq!(config.reads, ReadMode::Available);
    assert_eq!(config.heartbeat_interval, Duration::from_millis(50));
    let millis = Duration::from_millis;
    assert_eq!(config.election_timeout, (millis(300), millis(600)));
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.peer_addr.as_deref(), Some("d:4"));
    let Birth::Join { seeds, learner } = cluster.birth else {
        panic!("it joins");
    };
    assert_eq!(seeds, ["a:1", "b:2"]);
    assert!(learner);
    assert!(run(&[], &[("HEARTH_LEARNER", "maybe")]).is_err());
}

#[test]
fn a_list_of_founders_is_checked() {
    let list = "--initial-cluster";
    for (text, parts) in [
        ("", &["NUMBER=HOST:PORT"][..]),
        ("a:1,b:2", &["'a:1'", "NUMBER=HOST:PORT"]),
        ("1=a:1,", &["''"]),
        ("0=a:1", &["'0=a:1'", "from 1 up"]),
        ("x=a:1", &["'x=a:1'"]),
        ("99999999999=a:1", &["too large", "2147483647"]),
        ("1=a:1,1=b:1", &["1 stands there twice"]),
        ("1=a:1,2=a:1", &["nodes 1 and 2", "a:1"]),
        ("1=a,2=a:9092", &["nodes 1 and 2"]),
        ("1=a:0", &["1 to 65535"]),
        ("1=a:65536", &["1 to 65535"]),
        ("1=:5", &["host is missing"]),
        ("1=::1:5", &["too many colons", "[IPV6]:PORT"]),
        ("1=[::1:5", &["brackets"]),
        ("1=[::1]5", &["bracket"]),
        ("1=0.0.0.0:5", &["all interfaces"]),
        ("1=PYRO:x@h:1", &["Pyro URI"]),
        ("1=a b:5", &["no name"]),
        (
            "1=a,2=b,3=c,4=d,5=e,6=f,7=g,8=h,9=i,10=j",
            &["10", "at most 9"],
        ),
    ] {
        refused(&[list, text, "--node-id", "1"], list, parts);
    }
}

#[test]
fn a_founder_says_who_it_is() {
    let words = [
        "--initial-cluster",
        THREE,
        "-n",
        "h",
        "-s",
        "rocksdb:d",
        "--insecure-peers",
    ];
    let with = |more: &[&'static str]| [&words[..], more].concat();
    refused(&with(&[]), "--initial-cluster", &["--node-id", "(1, 2, 3)"]);
    refused(
        &with(&["--node-id", "4"]),
        "--node-id",
        &["4 is not in", "1, 2, 3"],
    );
    refused(&with(&["--node-id", "zwei"]), "--node-id", &["'zwei'"]);
    refused(
        &with(&["--node-id", "2", "--peer-addr", "10.0.0.9:9092"]),
        "--peer-addr",
        &["10.0.0.9:9092", "node 2", "10.0.0.2:9092"],
    );
    accepted(&with(&["--node-id", "2", "--peer-addr", "10.0.0.2"]));
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let refused = |words: &[&'static str], option: &str, parts: &[&str]| {
        let more = ["--insecure-peers", "-s", "rocksdb:d"];
        refused(&[words, &more].concat(), option, parts);
    };
    refused(
        &["--join", "a:1", "--initial-cluster", "1=h:1", "--node-id=1"],
        "--join",
        &["--initial-cluster"],
    );
    refused(&["--learner"], "--learner", &["--join"]);
    let founder = ["--initial-cluster", "1=h:1", "--node-id=1", "--learner"];
    refused(&founder, "--learner", &["founders"]);
    refused(&["--peer-addr", "a:1"], "--peer-addr", &["--join"]);
    refused(
        &["--join", "a:1", "--peer-addr", "a:1"],
        "--join",
        &["only this node itself"],
    );
    refused(&["--join", ""], "--join", &["host is missing"]);
    refused(
        &["--join", "a:1", "-u", "/tmp/s"],
        "-u/--unixsocket",
        &["--host"],
    );
    let ports = ["--join", "a:1", "-n", "h", "-p", "9092", "--peer-addr"];
    refused(
        &[&ports[..], &["h"]].concat(),
        "--peer-addr",
        &["9092", "--port"],
    );
    let apart = ["g", "--insecure-peers", "--learner"];
    accepted(&[&ports[..], &apart].concat());
}

#[test]
fn storage_for_one_node_is_refused_with_the_way_out() {
    for storage in ["sql:names.db", "dbm:names"] {
        let words = ["--join", "127.0.0.1:1", "--learner", "-s", storage];
        refused(
            &words,
            "-s/--storage",
            &["a node alone", "rocksdb:DIR", "import"],
        );
    }
}

#[test]
fn a_voter_among_others_has_a_disk() {
    let two = ["--initial-cluster", "1=[::1]:1,2=[::1]:2", "--node-id=1"];
    refused(&two, "-s/--storage", &["in memory", "use rocksdb:DIR"]);
    let explicit = [&two[..], &["-s", "memory"]].concat();
    refused(&explicit, "-s/--storage", &["in memory"]);
    let joins = ["--join", "127.0.0.1:1"];
    refused(
        &joins,
        "-s/--storage",
        &["in memory", "rocksdb:DIR", "--learner"],
    );
    accepted(&[&joins[..], &["--learner"]].concat());
    accepted(&["--initial-cluster", "1=[::1]:1", "--node-id=1"]);
    accepted(&[&two[..], &["-s", "rocksdb:d"]].concat());
}

#[test]
fn the_keys_are_read_from_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let file = path.to_str().unwrap();
    let words = ["--join", "a:1", "--learner", "--cluster-key-file", file];
    let option = "--cluster-key-file";
    let private = |mode| {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    };
    refused(&words, option, &[file, "cannot be read"]);
    std::fs::write(&path, " \n").unwrap();
    private(0o600);
    refused(&words, option, &[file, "is empty", "openssl"]);
    std::fs::write(&path, vec![b'x'; 5000]).unwrap();
    refused(&words, option, &["4096"]);
    std::fs::write(&path, "0123456789abcdef\n".repeat(9)).unwrap();
    refused(&words, option, &[file, "9 keys", "8 may be valid"]);

    std::fs::write(
        &path,
        "0123456789abcdef0123456789abcdef\n another 0123456789\r\n",
    )
    .unwrap();
    refused(&[option, file], option, &["--join"]);
    let config = accepted(&words);
    assert!(config.notices.is_empty(), "{:?}", config.notices);
    assert!(!format!("{config:?}").contains("abcdef"));
    let cluster = config.cluster.unwrap();
    let expected: [&[u8]; 2] = [b"0123456789abcdef0123456789abcdef", b"another 0123456789"];
    assert_eq!(cluster.keys, ClusterKeys::new(expected.map(<[u8]>::to_vec)));
    assert_eq!(cluster.key_file.as_deref(), Some(file));
    for mode in [0o640, 0o604, 0o620, 0o610] {
        private(mode);
        let shown = format!("mode {mode:04o}");
        refused(&words, option, &[file, &shown, "chmod 600"]);
    }
    private(0o400);
    accepted(&words);
    private(0o600);
    std::fs::write(&path, "short").unwrap();
    let notices = accepted(&words).notices;
    assert!(notices[0].contains("5 bytes"), "{notices:?}");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(4711), None).unwrap();
        refused(&words, option, &[file, "user 4711", "chown 0"]);
    }
}

#[test]
fn a_cluster_that_others_reach_has_a_key() {
    let disk = ["-s", "rocksdb:d", "-n", "h"];
    for (words, option) in [
        (
            &["--initial-cluster", THREE, "--node-id=1"][..],
            "--initial-cluster",
        ),
        (
            &["--initial-cluster", "1=a:1", "--node-id=1"],
            "--initial-cluster",
        ),
        (&["--join", "a:1"], "--join"),
        (&["--join", "a:1", "--learner"], "--join"),
        (
            &["--join", "127.0.0.1:1", "--peer-addr", "10.0.0.1:1"],
            "--join",
        ),
    ] {
        let words = [words, &disk].concat();
        let way_out = ["--cluster-key-file", "chmod 600", "--insecure-peers"];
        refused(&words, option, &way_out);
        let notices = accepted(&[&words[..], &["--insecure-peers"]].concat()).notices;
        assert!(
            notices.iter().any(|notice| notice.contains("anyone")),
            "{notices:?}"
        );
    }
    for words in [
        &[
            "--initial-cluster",
            "1=127.0.0.1:1,2=localhost:2,3=[::1]:3",
            "--node-id=1",
        ][..],
        &["--join", "127.0.0.1:1"],
        &["--join", "a:1", "--peer-addr", "localhost:1"],
    ] {
        accepted(&[words, &disk].concat());
    }
    let mistakes = run(&["--join", "a:1", "--reads=fast"], &[]).unwrap_err();
    assert_eq!(mistakes.len(), 3, "{mistakes:#?}");
}

#[test]
fn risks_are_said() {
    let notices = |words: &[&str]| accepted(words).notices;
    let founder = ["-s", "rocksdb:d", "--node-id=1", "--initial-cluster"];
    let risky = [&founder[..], &["1=a:1,2=b:1", "--insecure-peers"]].concat();
    let risky = notices(&risky);
    assert_eq!(risky.len(), 3, "{risky:#?}");
    for (notice, part) in risky
        .iter()
        .zip(["odd number", "--cluster-key-file", "-n/--host"])
    {
        assert!(notice.contains(part), "{part} is missing in: {notice}");
    }
    // On one machine there is nothing to say.
    let local = "1=127.0.0.1:1,2=localhost:2,3=[::1]:3";
    let quiet = [&founder[..], &[local]].concat();
    assert!(notices(&quiet).is_empty(), "{:?}", notices(&quiet));
    let learner = notices(&["--join", "127.0.0.1:1", "--learner"]);
    assert!(learner.is_empty(), "{learner:?}");
}

#[test]
fn timing_is_checked() {
    let election = "--election-timeout";
    let heartbeat = "--heartbeat-interval";
    for (text, parts) in [
        ("1000", &["MIN-MAX", "1000-2000"][..]),
        ("2000-1000", &["smaller than the second"]),
        ("500-500", &["smaller than the second"]),
        ("a-b", &["'a'", "milliseconds"]),
        ("-5", &["milliseconds"]),
        ("1000-70000", &["60000"]),
        ("250-400", &["100 ms", "250 ms", "begin at 300", heartbeat]),
    ] {
        refused(&[election, text], election, parts);
    }
    for (text, parts) in [
        ("0", &["at least 10"][..]),
        ("x", &["'x'"]),
        ("99999999999", &["at most 333"]),
        ("400", &["400 ms", "at most 333", election]),
    ] {
        refused(&[heartbeat, text], heartbeat, parts);
    }
    let both = [election, "1000-1", heartbeat, "400"];
    refused(&both, election, &["smaller"]);
    let config = accepted(&[election, "300ms-400ms", heartbeat, "100ms"]);
    assert_eq!(config.election_timeout.0, Duration::from_millis(300));
}

#[test]
fn a_mode_of_reading_is_one_of_three() {
    assert_eq!(accepted(&[]).reads, ReadMode::Linearizable);
    assert_eq!(accepted(&["--reads=stale"]).reads, ReadMode::Stale);
    refused(&["--reads", "fast"], "--reads", &["'fast'", "available"]);
}

fn bound(location: &str, address: &str) -> Bound {
    let address = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    Bound {
        socket: BoundSocket::Tcp(vec![(socket, address)]),
        location: location.to_owned(),
        parts: Location::Unix(String::new()),
        address: Some(address),
        file: None,
    }
}

#[tokio::test]
async fn the_others_are_told_where_clients_reach_this_node() {
    for (location, address, nat, expected) in [
        ("host:9090", "10.0.0.1:9090", None, "host:9090"),
        ("host:9090", "10.0.0.1:9090", Some("out:80"), "out:80"),
        ("0.0.0.0:9090", "0.0.0.0:9090", None, "peer:9090"),
        ("[::]:9090", "[::]:9090", None, "peer:9090"),
        ("0.0.0.0:9090", "0.0.0.0:9090", Some("out:80"), "out:80"),
    ] {
        assert_eq!(
            ns_addr(&bound(location, address), nat, "peer:9092"),
            expected
        );
    }
}

#[tokio::test]
async fn a_joiner_finds_its_own_address() {
    let settings = ClusterSettings {
        peer_addr: None,
        birth: Birth::Join {
            seeds: vec![
                "no-such-host.invalid:1".to_owned(),
                "127.0.0.1:1".to_owned(),
            ],
            learner: true,
        },
        keys: ClusterKeys::default(),
        key_file: None,
    };
    let bound = bound("localhost:9090", "127.0.0.1:9090");
    let config = settings.complete(&bound, None).await.unwrap();
    assert_eq!(config.peer_addr, "127.0.0.1:9092");
    assert_eq!(config.ns_addr, "localhost:9090");
}
