//! Tests that `nsctl`, under the names `pyro4-nsc` and `pyro5-nsc`, cannot be distinguished from
//! the originals. Each test runs the same commands with both, each with its own real name server,
//! and compares streams and exit codes.

mod support;

use std::path::PathBuf;

use support::{Finished, Python, RealServer, closed_port, nsctl, run};

/// A command: the arguments after the options of the name server, and standard input.
type Step = (&'static [&'static str], &'static str);

/// Commands of both tools.
const STEPS: &[Step] = &[
    (&["ping"], ""),
    (&["-v", "ping"], ""),
    (&["list"], ""),
    (&["lookup", "zz"], ""),
    (&["-v", "lookup", "zz"], ""),
    (&["lookup"], ""),
    (&["lookup", "a", "b"], ""),
    (&["-v", "lookup"], ""),
    (&["register", "a", "PYRO:obj@host:4000"], ""),
    (&["register", "a", "PYRO:obj@host:4001"], ""),
    (&["register", "a.b", "pyro:o@h:01"], ""),
    (&["register", "bad", "nonsense"], ""),
    (&["register", "bad", "PYRO:o@h:port"], ""),
    (&["register", "a"], ""),
    (&["register", "ü → 猫", "PYRONAME:x"], ""),
    (&["register", "tab\there", "PYRO:o@[::1]:5"], ""),
    (&["register", "", "PYRO:o@./u:/run/x.sock"], ""),
    (&["lookup", "a.b"], ""),
    (&["lookup", "ü → 猫"], ""),
    (&["lookup", "tab\there"], ""),
    (&["lookup", ""], ""),
    (&["setmeta", "a", "t1", "t2", "t1"], ""),
    (
        &[
            "setmeta",
            "a.b",
            "t1",
            "it's",
            "\"q\"",
            "näh",
            "back\\slash",
        ],
        "",
    ),
    (&["setmeta", "zz", "t1"], ""),
    (&["setmeta"], ""),
    (&["lookup", "a"], ""),
    (&["lookup", "a.b"], ""),
    (&["list"], ""),
    (&["list", "a"], ""),
    (&["list", "A"], ""),
    (&["list", "a.", "ignored"], ""),
    (&["list", "it's"], ""),
    (&["listmatching", "a"], ""),
    (&["listmatching", "a$"], ""),
    (&["listmatching", "["], ""),
    (&["listmatching", "(?P<x>a"], ""),
    (&["listmatching"], ""),
    (&["listmatching", "a", "b"], ""),
    (&["setmeta", "a"], ""),
    (&["lookup", "a"], ""),
    (&["remove", "zz"], ""),
    (&["remove", "Pyro.NameServer"], ""),
    (&["remove"], ""),
    (&["remove", "a"], ""),
    (&["removematching", "a"], "n\n"),
    (&["removematching", "a"], "\n"),
    (&["removematching", "a"], "yes\n"),
    (&["removematching", "a"], ""),
    (&["-v", "removematching", "a"], ""),
    (&["removematching", "*"], "y\n"),
    (&["removematching"], "y\n"),
    (&["removematching", "a"], "  Y \n"),
    (&["removematching", "nothing"], "y"),
    (&["list"], ""),
    (&["bogus"], ""),
    (&[], ""),
    (&["-v"], ""),
    (&["--", "ping"], ""),
    (&["ping", "--", "-v"], ""),
    (&["--verb", "ping"], ""),
    (&["--verbose=1", "ping"], ""),
    (&["ping", "-p", "x"], ""),
    (&["ping", "--port="], ""),
    (&["ping", "-n"], ""),
    (&["ping", "--h"], ""),
    (&["lookup", "-x"], ""),
    (&["lookup", "--long"], ""),
    (&["lookup", "-5"], ""),
    (&["lookup", "-"], ""),
    (&["-vx", "ping"], ""),
];

const PYRO4_STEPS: &[Step] = &[
    (&["setmeta", "ü → 猫", "t1", "t2"], ""),
    (&["listmeta_all", "t1", "t2"], ""),
    (&["listmeta_all", "t1", "t3"], ""),
    (&["listmeta_any", "t1", "t3"], ""),
    (&["listmeta_all"], ""),
    (&["listmeta_any"], ""),
    (&["yplookup_all", "t1"], ""),
];

const PYRO5_STEPS: &[Step] = &[
    (&["setmeta", "ü → 猫", "t1", "t2"], ""),
    (&["yplookup_all", "t1", "t2"], ""),
    (&["yplookup_all", "t1", "t3"], ""),
    (&["yplookup_any", "t1", "t3"], ""),
    (&["yplookup_all"], ""),
    (&["yplookup_any"], ""),
    (&["listmeta_all", "t1"], ""),
    (&["-k", "ping"], ""),
];

/// Commands whose output depends on the serializer.
const SERIALIZER_STEPS: &[Step] = &[
    (&["ping"], ""),
    (&["register", "a", "PYRO:obj@host:4000"], ""),
    (&["setmeta", "a", "t1", "t2"], ""),
    (&["lookup", "a"], ""),
    (&["lookup", "zz"], ""),
    (&["list", "a"], ""),
    (&["list"], ""),
    (&["removematching", "a"], "y\n"),
];

/// The original tool and `nsctl` under its name.
struct Pair {
    python: Python,
    original: PathBuf,
    ours: PathBuf,
    _links: tempfile::TempDir,
}

impl Pair {
    fn new(tool: &str) -> Option<Self> {
        let python = Python::find()?;
        let links = tempfile::tempdir().expect("a folder");
        let ours = links.path().join(tool);
        std::os::unix::fs::symlink(nsctl(), &ours).expect("a link");
        Some(Self {
            original: python.program(tool),
            python,
            ours,
            _links: links,
        })
    }

    /// Runs `arguments` with both tools and replaces `{port}` by each one's port.
    fn compare(
        &self,
        ports: [&str; 2],
        arguments: &[&str],
        variables: &[(&str, &str)],
        input: &str,
    ) {
        let [expected, found] =
            [(&self.original, ports[0]), (&self.ours, ports[1])].map(|(program, port)| {
                let arguments: Vec<String> = arguments
                    .iter()
                    .map(|argument| argument.replace("{port}", port))
                    .collect();
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                shape(run(program, &arguments, variables, input), port)
            });
        assert_eq!(found, expected, "{arguments:?} {variables:?} {input:?}");
    }

    fn compare_steps(&self, server: &str, steps: &[Step], variables: &[(&str, &str)]) {
        let servers = [(); 2].map(|()| RealServer::start(&self.python, server));
        let ports = [servers[0].port(), servers[1].port()];
        for (arguments, input) in steps {
            let mut all = vec!["-n", "127.0.0.1", "-p", "{port}"];
            all.extend(*arguments);
            self.compare([&ports[0], &ports[1]], &all, variables, input);
        }
    }
}

/// Reduces a result to the parts that must be equal. It drops the port, the order of tags, which is
/// random in Python, and the frames of tracebacks.
fn shape(finished: Finished, port: &str) -> Finished {
    let stdout = finished.stdout.replace(&format!(":{port}"), ":PORT");
    let stdout = stdout.split_inclusive('\n').map(sort_tags).collect();
    let stderr = finished.stderr;
    let stderr = if let Some((_, warning)) = stderr.split_once("UserWarning: ") {
        warning.lines().next().unwrap_or_default().to_owned()
    } else if stderr.starts_with("Traceback ") {
        format!(
            "Traceback {}",
            stderr.trim_end().lines().last().unwrap_or_default()
        )
    } else {
        // Newer versions of argparse quote the choices differently.
        match stderr.split_once("(choose from ") {
            Some((start, choices)) => format!("{start}(choose from {}", choices.replace('\'', "")),
            None => stderr,
        }
    };
    Finished {
        stdout,
        stderr,
        ..finished
    }
}

fn sort_tags(line: &str) -> String {
    let Some((start, tags)) = line.split_once("metadata: ") else {
        return line.to_owned();
    };
    let tags = tags.trim_end();
    let (open, rest) = tags.split_at(1);
    let (tags, close) = rest.split_at(rest.len() - 1);
    let mut tags: Vec<&str> = tags.split(", ").collect();
    tags.sort_unstable();
    format!("{start}metadata: {open}{}{close}\n", tags.join(", "))
}

#[test]
fn every_command_of_pyro4_nsc() {
    let Some(pair) = Pair::new("pyro4-nsc") else {
        return;
    };
    pair.compare_steps("pyro4-ns", PYRO4_STEPS, &[]);
    pair.compare_steps("pyro4-ns", STEPS, &[]);
}

#[test]
fn every_command_of_pyro5_nsc() {
    let Some(pair) = Pair::new("pyro5-nsc") else {
        return;
    };
    pair.compare_steps("pyro5-ns", PYRO5_STEPS, &[]);
    pair.compare_steps("pyro5-ns", STEPS, &[]);
}

#[test]
fn every_serializer_of_pyro4_nsc() {
    let Some(pair) = Pair::new("pyro4-nsc") else {
        return;
    };
    for serializer in ["json", "marshal"] {
        let variables = [("PYRO_SERIALIZER", serializer)];
        pair.compare_steps("pyro4-ns", SERIALIZER_STEPS, &variables);
    }
}

#[test]
fn every_serializer_of_pyro5_nsc() {
    let Some(pair) = Pair::new("pyro5-nsc") else {
        return;
    };
    for serializer in ["json", "marshal", "msgpack"] {
        let variables = [("PYRO_SERIALIZER", serializer)];
        pair.compare_steps("pyro5-ns", SERIALIZER_STEPS, &variables);
    }
}

#[test]
fn no_name_server() {
    let port = closed_port().to_string();
    let quiet = [
        ("PYRO_BROADCAST_ADDRS", "127.0.0.1"),
        ("PYRO_NS_BCPORT", &port),
        ("PYRO_NS_PORT", &port),
    ];
    for tool in ["pyro4-nsc", "pyro5-nsc"] {
        let Some(pair) = Pair::new(tool) else { return };
        let ports = [port.as_str(); 2];
        pair.compare(ports, &["-n", "127.0.0.1", "-p", "{port}", "ping"], &[], "");
        pair.compare(
            ports,
            &["-v", "-n", "127.0.0.1", "-p", "{port}", "ping"],
            &[],
            "",
        );
        pair.compare(
            ports,
            &["-n", "127.0.0.1", "-p", "{port}", "lookup"],
            &[],
            "",
        );
        pair.compare(ports, &["-u", "/nonexistent/socket", "ping"], &[], "");
        pair.compare(ports, &["-n", "127.0.0.1", "-p", "99999", "ping"], &[], "");
        pair.compare(ports, &["-v", "ping"], &quiet, "");
        pair.compare(ports, &["-n", "", "ping"], &quiet, "");
    }
}

#[test]
fn the_server_may_be_found_through_the_environment_or_a_unix_socket() {
    for (tool, server) in [("pyro4-nsc", "pyro4-ns"), ("pyro5-nsc", "pyro5-ns")] {
        let Some(pair) = Pair::new(tool) else { return };
        let real = RealServer::start(&pair.python, server);
        let port = real.port();
        let ports = [port.as_str(); 2];
        let variables = [("PYRO_NS_HOST", "127.0.0.1"), ("PYRO_NS_PORT", &port)];
        pair.compare(ports, &["-v", "list"], &variables, "");
        let elsewhere = [("PYRO_NS_HOST", "0.0.0.0"), ("PYRO_NS_PORT", &port)];
        let elsewhere = [
            elsewhere[0],
            elsewhere[1],
            ("PYRO_BROADCAST_ADDRS", "127.0.0.1"),
        ];
        pair.compare(ports, &["-v", "ping"], &elsewhere, "");

        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("ns.sock");
        let socket = socket.to_str().expect("a plain path");
        let _real = RealServer::start_with(&pair.python, server, &["-u", socket], &[]);
        pair.compare(ports, &["-v", "-u", socket, "list"], &[], "");
        pair.compare(
            ports,
            &["-n", "elsewhere.invalid", "-u", socket, "ping"],
            &[],
            "",
        );
    }
}

#[test]
fn the_hmac_key_of_pyro4_nsc() {
    let Some(pair) = Pair::new("pyro4-nsc") else {
        return;
    };
    let arguments = ["-n", "127.0.0.1", "-p", "0"];
    let key = [("PYRO_HMAC_KEY", "s3cret ü")];
    let real = RealServer::start_with(&pair.python, "pyro4-ns", &arguments, &key);
    let port = real.port();
    let ports = [port.as_str(); 2];
    let server = ["-n", "127.0.0.1", "-p", "{port}"];
    let with = |rest: &[&'static str]| [&server[..], rest].concat();
    pair.compare(ports, &with(&["list"]), &key, "");
    pair.compare(ports, &with(&["list"]), &[], "");
    pair.compare(ports, &with(&["-k", "s3cret ü", "list"]), &[], "");
    pair.compare(ports, &with(&["-k", "wrong", "ping"]), &[], "");
    pair.compare(ports, &with(&["-k", "s3cret ü", "list"]), &key, "");
    pair.compare(ports, &with(&["-k", "", "list"]), &key, "");
    pair.compare(ports, &with(&["-k", "s3cret ü"]), &[], "");
}

#[test]
fn mistakes_in_the_environment() {
    for tool in ["pyro4-nsc", "pyro5-nsc"] {
        let Some(pair) = Pair::new(tool) else { return };
        let port = closed_port().to_string();
        for variable in [
            ("PYRO_NS_PORT", "abc"),
            ("PYRO_COMMTIMEOUT", "soon"),
            ("PYRO_COMPRESSION", "Maybe"),
            ("PYRO_UNHEARD_OF", "1"),
        ] {
            let arguments = ["-n", "127.0.0.1", "-p", "{port}", "ping"];
            pair.compare([&port, &port], &arguments, &[variable], "");
        }
    }
    let Some(pair) = Pair::new("pyro5-nsc") else {
        return;
    };
    pair.compare(["1", "1"], &["ping"], &[("PYRO_HMAC_KEY", "k")], "");
    pair.compare(["1", "1"], &["ping"], &[("PYRO_SERIALIZER", "bogus")], "");
    let Some(pair) = Pair::new("pyro4-nsc") else {
        return;
    };
    let server = RealServer::start(&pair.python, "pyro4-ns");
    let ports = [server.port(), server.port()];
    let ports = [ports[0].as_str(), ports[1].as_str()];
    let variables = [("PYRO_SERIALIZER", "bogus")];
    let arguments = ["-v", "-n", "127.0.0.1", "-p", "{port}", "ping"];
    pair.compare(ports, &arguments, &variables, "");
    pair.compare(ports, &["bogus"], &variables, "");
}

#[test]
fn help_texts() {
    for tool in ["pyro4-nsc", "pyro5-nsc"] {
        let Some(pair) = Pair::new(tool) else { return };
        // The layout of Python's help texts changed in 3.10 and 3.13.
        let version =
            "import sys; print(sys.version_info[:2] >= (3, 10) and sys.version_info < (3, 13))";
        if tool == "pyro5-nsc" && pair.python.evaluate(version).trim() != "True" {
            hearth_skipped::skipped("this Python writes help texts in another layout");
            continue;
        }
        for arguments in [&["-h"][..], &["--help"], &["-vh"], &["bogus", "--he"]] {
            pair.compare(["1", "1"], arguments, &[], "");
        }
    }
}
