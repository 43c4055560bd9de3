//! A learner on the host of stock programs, at the address where they look first. The servers fail one after
//! the other, and the programs see no error.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use hearth_cli::Address;
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE, options};
use hearth_jepsen_tests::net::Net;
use hearth_jepsen_tests::node::{Settings, clear_environment};

use crate::support::{alone, figure, python, skip_if};

/// A typical program: finds the name server as Pyro does, registers and looks up. It prints one line per
/// failure, and every 50 rounds their number and the longest one. `sys.argv`: family.
const PROGRAM: &str = r#"
import sys, time
family = sys.argv[1]
if family == "Pyro4":
    import Pyro4
    ns = Pyro4.locateNS()
else:
    import Pyro5.api
    ns = Pyro5.api.locate_ns()
print("found", ns._pyroUri if family == "Pyro4" else ns._pyroUri, flush=True)
done, longest = 0, 0.0
while True:
    name, uri = "%s.%d" % (family, done % 200), "PYRO:obj_%d@host:4000" % done
    begin = time.monotonic()
    try:
        ns.register(name, uri)
        found = str(ns.lookup(name))
        if found != uri:
            print("wrong", name, uri, found, flush=True)
    except Exception as x:
        print("error", type(x).__name__, str(x).replace("\n", " "), flush=True)
        time.sleep(0.05)
    longest = max(longest, time.monotonic() - begin)
    done += 1
    if done % 50 == 0:
        print("did", done, "%.3f" % longest, flush=True)
    time.sleep(0.002)
"#;

/// The number of the learner in the run.
const LEARNER: u64 = 9;

/// A stock client beside the learner, and its output so far.
struct Program {
    child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
    wrong: Vec<String>,
    done: u64,
    longest: f64,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines: receiver,
            wrong: Vec::new(),
            done: 0,
            longest: 0.0,
        }
    }

    /// Reads the output that is available.
    fn read(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["found", ..] => {}
                ["did", done, longest] => {
                    self.done = done.parse().unwrap();
                    self.longest = longest.parse().unwrap();
                }
                _ => self.wrong.push(line),
            }
        }
    }

    /// Waits until it has completed `more` further rounds.
    async fn goes_on(&mut self, more: u64) {
        self.read();
        let from = self.done;
        let begin = std::time::Instant::now();
        while self.done < from + more {
            assert!(
                begin.elapsed() < PATIENCE,
                "stuck at {}: {:?}",
                self.done,
                self.wrong
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.read();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_beside_a_learner_outlive_every_server() {
    skip_if!(python().err());
    let _alone = alone().await;
    let on_net = Net::why_not().is_none();
    let settings = Settings::new().unwrap();
    let mut cluster = if on_net {
        Cluster::found_on_net("learner", 3, LEARNER - 3, settings).await
    } else {
        Cluster::found("learner", 3, settings).await
    }
    .unwrap();
    cluster.add_joining(LEARNER, None, true).unwrap();
    if on_net {
        // In the learner's own namespace, the address where stock clients look first is free.
        let seeds: Vec<String> = (1..=3).map(|server| cluster.peer_addr_of(server)).collect();
        let peer_addr = cluster.peer_addr_of(LEARNER);
        let mut birth = options(&[
            ("-n", "localhost"),
            ("--peer-addr", &peer_addr),
            ("--join", &seeds.join(",")),
        ]);
        birth.push("--learner".into());
        cluster.node(LEARNER).set_birth(birth);
    }
    let learner = cluster.node(LEARNER);
    learner.start().unwrap();
    learner.wait_until_it_serves(PATIENCE).await.unwrap();

    let mut programs = ["Pyro4", "Pyro5"].map(|family| {
        let learner = cluster.node(LEARNER);
        let mut command = learner.command_beside(python().unwrap());
        clear_environment(&mut command);
        command.args(["-c", PROGRAM, family]);
        if !on_net && let Address::Tcp { host, port } = learner.address() {
            command.env("PYRO_NS_HOST", host);
            command.env("PYRO_NS_PORT", port.to_string());
        }
        Program::start(command)
    });
    for program in &mut programs {
        program.goes_on(50).await;
    }
    for server in 1..=3 {
        cluster.node(server).kill();
        for program in &mut programs {
            program.goes_on(100).await;
        }
        cluster.node(server).start().unwrap();
        cluster
            .node(server)
            .wait_until_it_serves(PATIENCE)
            .await
            .unwrap();
        cluster.wait_until_healthy(server, PATIENCE).await.unwrap();
    }
    for (program, family) in programs.iter_mut().zip(["Pyro4", "Pyro5"]) {
        program.goes_on(50).await;
        assert!(program.wrong.is_empty(), "{family}: {:#?}", program.wrong);
        figure(format!(
            "a stock {family} program beside a learner, 3 servers killed one after another: {} rounds of register \
             and look-up, 0 errors, longest round {:.0} ms",
            program.done,
            program.longest * 1e3
        ));
    }
}
