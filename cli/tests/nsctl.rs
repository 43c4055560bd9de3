//! Tests of `nsctl` as scripts use it: exit codes, streams and formats, with both real name
//! servers.

mod support;

use serde_json::{Value as Json, json};
use support::{Finished, Python, RealServer, closed_port, nsctl, run};

const SERVERS: [&str; 2] = ["pyro4-ns", "pyro5-ns"];

/// One name server, and `nsctl` with options that select it.
struct Setup {
    server: RealServer,
}

impl Setup {
    fn each() -> Vec<Self> {
        let Some(python) = Python::find() else {
            return vec![];
        };
        SERVERS
            .iter()
            .map(|program| Self {
                server: RealServer::start(&python, program),
            })
            .collect()
    }

    fn nsctl(&self, arguments: &[&str]) -> Finished {
        self.nsctl_with(arguments, &[], "")
    }

    fn nsctl_with(&self, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Finished {
        let port = self.server.port();
        let mut all = vec!["-n", "127.0.0.1", "-p", &port];
        all.extend(arguments);
        run(&nsctl(), &all, variables, input)
    }

    /// Runs a command that must succeed and returns its output.
    fn done(&self, arguments: &[&str]) -> String {
        let finished = self.nsctl(arguments);
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

/// Runs `nsctl` without options that select a server.
fn alone(arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
    run(&nsctl(), arguments, variables, "")
}

fn assert_failed(finished: &Finished, code: i32, line: &str) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert_eq!(finished.stdout, "", "{finished:?}");
    let lines: Vec<&str> = finished.stderr.lines().collect();
    assert_eq!(lines.first(), Some(&line), "{finished:?}");
    assert!(
        lines.get(1).is_some_and(|hint| hint.starts_with("hint: ")),
        "{finished:?}"
    );
    assert_eq!(lines.len(), 2, "{finished:?}");
}

#[test]
fn results_are_json_documents_of_a_fixed_shape() {
    for setup in Setup::each() {
        assert_eq!(setup.json(&["ping"]), json!({"ok": true}));
        assert_eq!(setup.json(&["count"]), json!({"count": 1}));
        let uri = "PYRO:o@h:1";
        assert_eq!(
            setup.json(&["register", "a", uri, "--meta", "t2", "--meta", "t1"]),
            json!({"name": "a", "uri": uri, "registered": true})
        );
        let entry = json!({"name": "a", "uri": uri, "metadata": ["t1", "t2"]});
        assert_eq!(setup.json(&["lookup", "a"]), entry);
        for arguments in [
            &["list", "a"][..],
            &["listmatching", "a$"],
            &["yplookup_all", "t1", "t2"],
            &["yplookup_any", "t1", "t3"],
            &["listmeta_all", "t1", "t2"],
            &["listmeta_any", "t1", "t3"],
        ] {
            assert_eq!(setup.json(arguments), json!([entry]), "{arguments:?}");
        }
        assert_eq!(setup.json(&["list", "zz"]), json!([]));
        for target in ["PYRONAME:a", "PYROMETA:t1,t2", uri] {
            assert_eq!(
                setup.json(&["resolve", target]),
                json!({"uri": uri}),
                "{target}"
            );
        }
        assert_eq!(
            setup.json(&["setmeta", "a", "t"]),
            json!({"name": "a", "metadata": ["t"]})
        );
        let replaced = setup.json(&["register", "a", "PYRO:o@h:2", "--replace"]);
        assert_eq!(replaced["registered"], json!(true));
        let entry = json!({"name": "a", "uri": "PYRO:o@h:2", "metadata": []});
        assert_eq!(setup.json(&["lookup", "a"]), entry, "tags are replaced too");
        assert_eq!(setup.json(&["remove", "a"]), json!({"removed": 1}));
        assert_eq!(
            setup.json(&["--yes", "removematching", ".*"]),
            json!({"removed": 0})
        );
    }
}

#[test]
fn scripts_can_tell_failures_apart() {
    for setup in Setup::each() {
        setup.done(&["register", "a", "PYRO:o@h:1"]);
        assert_failed(
            &setup.nsctl(&["lookup", "zz"]),
            3,
            "Error: NamingError - unknown name: zz",
        );
        assert_failed(
            &setup.nsctl(&["setmeta", "zz", "t"]),
            3,
            "Error: NamingError - unknown name: zz",
        );
        assert_failed(
            &setup.nsctl(&["resolve", "PYRONAME:zz"]),
            3,
            "Error: NamingError - unknown name: zz",
        );
        assert_failed(
            &setup.nsctl(&["resolve", "PYROMETA:b,a"]),
            3,
            "Error: NamingError - no registrations available with desired metadata properties \
             {'a', 'b'}",
        );
        assert_failed(
            &setup.nsctl(&["register", "a", "PYRO:o@h:2"]),
            4,
            "Error: NamingError - name already registered: a",
        );
        assert_failed(
            &setup.nsctl(&["register", "b", "nonsense"]),
            1,
            "Error: PyroError - invalid uri",
        );
        let removed = setup.nsctl(&["remove", "zz"]);
        assert_eq!(
            (removed.code, removed.stdout.as_str()),
            (Some(3), "Nothing removed\n")
        );
    }
}

#[test]
fn removing_many_asks_first() {
    for setup in Setup::each() {
        let question =
            "Potentially removing lots of items from the Name server. Are you sure (y/n)?";
        setup.done(&["register", "a", "PYRO:o@h:1"]);
        let refused = setup.nsctl_with(&["removematching", "a"], &[], "n\n");
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(0), question));
        let ended = setup.nsctl_with(&["removematching", "a"], &[], "");
        assert_eq!(ended.code, Some(1));
        assert!(
            ended
                .stderr
                .starts_with("Error: EOFError - EOF when reading a line\nhint: ")
        );
        let done = setup.nsctl_with(&["-o", "json", "removematching", "a"], &[], "y\n");
        assert_eq!(done.stdout, "{\n  \"removed\": 1\n}\n");
        assert_eq!(done.stderr, question, "a question would spoil the document");
        assert_eq!(
            setup.done(&["--yes", "removematching", "a"]),
            "0 items removed.\n"
        );
    }
}

#[test]
fn columns_hide_control_characters_and_text_does_not() {
    for setup in Setup::each() {
        setup.done(&["register", "a\u{1b}[31m\n", "PYRO:o@h:1"]);
        let table = setup.done(&["-o", "table", "list", "a"]);
        assert_eq!(
            table,
            "NAME         URI         METADATA\na\\x1b[31m\\n  PYRO:o@h:1\n"
        );
        let text = setup.done(&["list", "a"]);
        assert!(text.contains("a\u{1b}[31m\n --> PYRO:o@h:1\n"), "{text:?}");
    }
}

#[test]
fn the_protocol_is_found_out_or_demanded() {
    let Some(python) = Python::find() else { return };
    for (program, own, other) in [
        ("pyro4-ns", "pyro4", "pyro5"),
        ("pyro5-ns", "pyro5", "pyro4"),
    ] {
        let setup = Setup {
            server: RealServer::start(&python, program),
        };
        assert_eq!(setup.done(&["ping"]), "Name server ping ok.\n");
        setup.done(&["--protocol", own, "ping"]);
        assert_failed(
            &setup.nsctl(&["--protocol", other, "ping"]),
            5,
            "Error: Failed to locate the nameserver",
        );
        let variables = [("NSCTL_PROTOCOL", other)];
        assert_eq!(setup.nsctl_with(&["ping"], &variables, "").code, Some(5));
    }
}

#[test]
fn every_serializer_reaches_both_servers() {
    for setup in Setup::each() {
        for serializer in ["serpent", "json", "marshal"] {
            setup.done(&["--serializer", serializer, "ping"]);
            let variables = [("NSCTL_SERIALIZER", serializer)];
            assert_eq!(setup.nsctl_with(&["count"], &variables, "").stdout, "1\n");
        }
    }
}

#[test]
fn a_format_that_is_meant_for_others_stops_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    for setup in Setup::each() {
        for name in ["pickle", "cloudpickle", "dill"] {
            let variables = [("PYRO_SERIALIZER", name)];
            let finished = setup.nsctl_with(&["count"], &variables, "");
            assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "1\n"));
            assert_eq!(finished.stderr, "");
            let finished = setup.nsctl_with(&["-v", "count"], &variables, "");
            let note = format!("note: PYRO_SERIALIZER={name}");
            assert!(finished.stderr.starts_with(&note), "{finished:?}");
        }
    }
    let Some(python) = Python::find() else { return };
    for family in ["pyro4", "pyro5"] {
        let server = RealServer::start(&python, &format!("{family}-ns"));
        let tool = folder.path().join(format!("{family}-nsc"));
        std::os::unix::fs::symlink(nsctl(), &tool).expect("a link");
        let port = server.port();
        let arguments = ["-n", "127.0.0.1", "-p", &port, "list"];
        let finished = run(&tool, &arguments, &[("PYRO_SERIALIZER", "pickle")], "");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(
            finished.stdout.contains("Pyro.NameServer --> "),
            "{finished:?}"
        );
    }
}

#[test]
fn endpoints_are_tried_in_turn() {
    for setup in Setup::each() {
        let closed = closed_port();
        let endpoints = format!("127.0.0.1:{closed},127.0.0.1:{}", setup.server.port());
        let found = alone(&["--endpoints", &endpoints, "-v", "ping"], &[]);
        let uri = &setup.server.uri;
        assert_eq!(
            found.stdout,
            format!(
                "Locating name server...\nName server found: {uri}\nName server ping ok.\nDone.\n"
            )
        );
        let variables = [("NSCTL_ENDPOINTS", endpoints.as_str())];
        assert_eq!(alone(&["ping"], &variables).code, Some(0));
        let one = alone(
            &["-n", "127.0.0.1", "-p", &closed.to_string(), "ping"],
            &variables,
        );
        assert_eq!(one.code, Some(5), "a typed host wins over the environment");
    }
    let closed = format!("127.0.0.1:{}", closed_port());
    let failed = alone(&["--endpoints", &closed, "ping"], &[]);
    assert_failed(&failed, 5, "Error: Failed to locate the nameserver");
    assert!(
        failed
            .stderr
            .contains(&format!("hint: tried {closed}: connection refused"))
    );
}

#[test]
fn a_key_must_fit() {
    let Some(python) = Python::find() else { return };
    let key = [("PYRO_HMAC_KEY", "s3cret")];
    let server = ["-n", "127.0.0.1", "-p", "0"];
    let setup = Setup {
        server: RealServer::start_with(&python, "pyro4-ns", &server, &key),
    };
    assert_eq!(setup.nsctl_with(&["count"], &key, "").stdout, "1\n");
    assert_eq!(setup.done(&["-k", "s3cret", "count"]), "1\n");
    let line = "Error: Failed to locate the nameserver";
    assert_failed(&setup.nsctl(&["count"]), 6, line);
    assert_failed(&setup.nsctl(&["-k", "wrong", "count"]), 6, line);
    assert_eq!(
        setup.nsctl_with(&["-k", "s3cret", "count"], &key, "").code,
        Some(2)
    );

    let unsigned = Setup {
        server: RealServer::start(&python, "pyro5-ns"),
    };
    let refused = unsigned.nsctl(&["-k", "s3cret", "count"]);
    assert_failed(&refused, 5, line);
    assert!(
        refused.stderr.contains("speaks Pyro5 only"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_silent_server_times_out() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = silent.local_addr().expect("an address").port().to_string();
    let failed = alone(
        &["-n", "127.0.0.1", "-p", &port, "--timeout", "0.2", "ping"],
        &[],
    );
    assert_failed(&failed, 124, "Error: Failed to locate the nameserver");
    let variables = [("NSCTL_TIMEOUT", "0.2")];
    let failed = alone(&["-n", "127.0.0.1", "-p", &port, "ping"], &variables);
    assert_eq!(failed.code, Some(124));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &[][..],
        &["bogus"],
        &["lookup"],
        &["lookup", "a", "b"],
        &["--timeout", "soon", "ping"],
        &["-p", "65536", "ping"],
        &["--endpoints", "a:b", "ping"],
        &["--endpoints", "a", "-n", "b", "ping"],
        &["--endpoints", "a", "-p", "1", "ping"],
        &["--protocol", "pyro5", "-k", "key", "ping"],
    ] {
        let finished = alone(arguments, &[]);
        assert_eq!(finished.code, Some(2), "{arguments:?}");
        assert_eq!(finished.stdout, "", "{arguments:?}");
    }
    let variables = [("PYRO_NS_PORT", "abc"), ("PYRO_COMMTIMEOUT", "soon")];
    let finished = alone(&["ping"], &variables);
    assert_eq!(finished.code, Some(2));
    assert_eq!(
        finished.stderr,
        "error: invalid Pyro environment config value: PYRO_NS_PORT=abc\n\
         error: invalid Pyro environment config value: PYRO_COMMTIMEOUT=soon\n"
    );
}

#[test]
fn help_and_manual_cover_every_command() {
    let help = alone(&["--help"], &[]);
    assert_eq!(help.code, Some(0));
    insta::assert_snapshot!("help", help.stdout);
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man1");
    let written = alone(&["man", pages.to_str().expect("a plain path")], &[]);
    assert_eq!(written.code, Some(0), "{written:?}");
    for command in [
        "ping",
        "count",
        "list",
        "listmatching",
        "lookup",
        "register",
        "remove",
        "removematching",
        "setmeta",
        "yplookup_all",
        "yplookup_any",
        "resolve",
        "cluster",
        "bench",
        "completions",
        "man",
    ] {
        assert!(help.stdout.contains(command), "{command}");
        let own = alone(&["help", command], &[]).stdout;
        assert!(own.contains("Examples:\n  nsctl "), "{command}");
        let page = pages.join(format!("nsctl-{command}.1"));
        let page = std::fs::read_to_string(&page).expect("a manual page");
        assert!(page.contains("Examples:"), "{command}");
    }
    for command in [
        "status",
        "health",
        "members",
        "add",
        "promote",
        "remove",
        "transfer-leader",
    ] {
        let own = alone(&["help", "cluster", command], &[]).stdout;
        assert!(own.contains("Examples:\n  nsctl "), "{command}");
        let page = pages.join(format!("nsctl-cluster-{command}.1"));
        assert!(page.exists(), "{command}");
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = alone(&["completions", shell], &[]);
        assert_eq!(script.code, Some(0), "{shell}");
        assert!(script.stdout.contains("removematching"), "{shell}");
    }
}
