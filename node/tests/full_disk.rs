//! A disk that others fill: an alarm, reads and removals as before, refusals that help, and nothing to do
//! when there is room again but to go on.
//!
//! On real file systems of 64 MB, one in memory and one of ext4. Where this process may not mount, the
//! tests say so and show nothing.

// Helpers of a test fail as the test itself does.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use support::client::Client;
use support::load::{Load, assert_all_there, entry};
use support::small_disk::SmallDisk;
use support::{PATIENCE, Server, hearthd};

/// What counts as little room on 64 MB.
const LOW: u64 = (64 << 20) / 10;

/// Registers `name`; the text of the exception, if it is refused.
fn register(client: &mut Client, name: &str) -> Result<(), String> {
    match client.register(name, &entry(name)) {
        Ok(()) => Ok(()),
        Err(error) => {
            // An answer, not a broken connection.
            assert_eq!(error.kind(), std::io::ErrorKind::Other, "{name}: {error}");
            Err(error.to_string())
        }
    }
}

/// Asks until it is as it should be.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn on_each_disk(test: impl Fn(&SmallDisk)) {
    let mut tested = 0;
    for (name, disk) in [
        ("tmpfs", SmallDisk::tmpfs(64)),
        ("ext4", SmallDisk::ext4(64)),
    ] {
        match disk {
            Ok(disk) => {
                println!("on {name}");
                test(&disk);
                tested += 1;
            }
            Err(reason) => hearth_skipped::skipped(format_args!("on {name}: {reason}")),
        }
    }
    println!("tested on {tested} of 2 file systems");
}

fn server_on(disk: &SmallDisk) -> Command {
    let storage = format!("rocksdb:{}", disk.path().join("data").display());
    hearthd(&["-n", "127.0.0.1", "-p", "0", "-s", &storage])
}

fn start(disk: &SmallDisk) -> Server {
    Server::run(server_on(disk))
}

#[test]
fn a_disk_that_fills_up_is_announced_and_left_room_to_recover() {
    on_each_disk(|disk| {
        let server = start(disk);
        let mut client = Client::connect(server.port()).unwrap();
        for index in 0..200 {
            register(&mut client, &format!("before.{index}")).unwrap();
        }

        // Little room: the alarm.
        disk.fill(LOW / 2);
        let mut refused = String::new();
        wait_until("a registration is refused", || {
            match register(&mut client, "while.low") {
                Ok(()) => false,
                Err(text) => {
                    refused = text;
                    true
                }
            }
        });
        let folder = disk.path().join("data").display().to_string();
        for part in [
            "NamingError",
            &folder,
            "nearly full",
            " free",
            "the limit is",
        ] {
            assert!(refused.contains(part), "{part:?} in {refused}");
        }
        client
            .set_metadata("before.1", &BTreeSet::new())
            .unwrap_err();
        assert_eq!(
            client.lookup("before.7").unwrap(),
            "PYRO:before.7@host:4000"
        );
        client.remove("before.7").unwrap();
        client.lookup("before.7").unwrap_err();
        let listed = client.list().unwrap();
        assert!(listed.len() >= 199, "{} names", listed.len());

        // Room again: without a restart, without a word.
        disk.clear();
        wait_until("registrations are taken again", || {
            register(&mut client, "after.low").is_ok()
        });

        // Not a byte: the reserve lets names be removed.
        disk.fill(0);
        wait_until("a registration is refused", || {
            register(&mut client, "while.full").is_err()
        });
        for index in 10..110 {
            client.remove(&format!("before.{index}")).unwrap();
        }
        assert_eq!(
            client.lookup("before.8").unwrap(),
            "PYRO:before.8@host:4000"
        );
        assert_eq!(client.with_tag("all").unwrap(), client.list().unwrap());

        disk.clear();
        wait_until("registrations are taken again", || {
            register(&mut client, "after.full").is_ok()
        });
        let expected = client.list().unwrap();
        let (status, _, log) = server.stop();
        assert!(status.success(), "{log}");
        let server = start(disk);
        let mut client = Client::connect(server.port()).unwrap();
        assert_eq!(client.list().unwrap(), expected);
        server.stop();
    });
}

#[test]
fn a_server_starts_on_a_full_disk_if_it_has_its_reserve() {
    on_each_disk(|disk| {
        let server = start(disk);
        let mut client = Client::connect(server.port()).unwrap();
        for index in 0..200 {
            register(&mut client, &format!("before.{index}")).unwrap();
        }
        let mut expected = client.list().unwrap();
        server.kill();

        disk.fill(0);
        let server = start(disk);
        let mut client = Client::connect(server.port()).unwrap();
        assert_eq!(client.list().unwrap(), expected);
        client.remove("before.9").unwrap();
        // What the old log had put aside is free again, so there is something to fill.
        disk.fill(0);
        wait_until("a registration is refused", || {
            register(&mut client, "while.full").is_err()
        });
        expected = client.list().unwrap();
        server.kill();

        // Its reserve is gone now. Whether it starts or not, it loses nothing and says what is wrong.
        disk.fill(0);
        let mut starts = 0;
        for _ in 0..5 {
            let mut server = Server::spawn(server_on(disk));
            wait_until("it runs, or has ended", || {
                server.has_ended() || server.has_printed_uri()
            });
            if server.has_ended() {
                let (status, _, log) = server.wait();
                assert!(
                    status.code().is_some_and(|code| code != 0),
                    "{status} {log}"
                );
                assert!(log.contains("No space left on device"), "{log}");
            } else {
                starts += 1;
                server.kill();
            }
        }
        println!("started {starts} of 5 times without a reserve");
        disk.clear();
        let server = start(disk);
        let mut client = Client::connect(server.port()).unwrap();
        assert_eq!(client.list().unwrap(), expected);
        wait_until("registrations are taken again", || {
            register(&mut client, "after.full").is_ok()
        });
        server.stop();
    });
}

#[test]
fn the_alarm_is_logged_when_it_comes_and_when_it_goes() {
    on_each_disk(|disk| {
        let server = start(disk);
        let mut client = Client::connect(server.port()).unwrap();
        for round in 0..2 {
            disk.fill(LOW / 2);
            wait_until("a registration is refused", || {
                register(&mut client, "probe").is_err()
            });
            disk.clear();
            wait_until("registrations are taken again", || {
                register(&mut client, &format!("round.{round}")).is_ok()
            });
        }
        let (status, _, log) = server.stop();
        assert!(status.success(), "{log}");
        let alarms = log
            .lines()
            .filter(|line| line.contains("ERROR") && line.contains("is nearly full"));
        assert_eq!(alarms.count(), 2, "{log}");
        let ends = log.lines().filter(|line| line.contains("has room again"));
        assert_eq!(ends.count(), 2, "{log}");
    });
}

#[test]
fn nothing_acknowledged_is_lost_while_a_disk_fills_under_load() {
    on_each_disk(|disk| {
        let server = start(disk);
        let load = Load::start(server.port(), "load");
        let mut client = Client::connect(server.port()).unwrap();
        for round in 0..3 {
            // Not at once: a server cannot see what happens between two looks.
            while disk.free() > LOW / 2 {
                disk.fill(disk.free().saturating_sub(2 << 20).max(LOW / 2));
                std::thread::sleep(Duration::from_millis(20));
            }
            wait_until("a registration is refused", || {
                register(&mut client, "probe").is_err()
            });
            disk.clear();
            wait_until("registrations are taken again", || {
                register(&mut client, &format!("round.{round}")).is_ok()
            });
        }
        let (names, refused) = load.finish();
        server.kill();
        let server = start(disk);
        assert_all_there(&mut Client::connect(server.port()).unwrap(), &names);
        println!("{} acknowledged, {refused} refused", names.len());
        assert!(refused > 0 && names.len() > 100);
        server.stop();
    });
}

#[test]
fn a_disk_that_is_taken_away_at_once_loses_nothing_acknowledged() {
    on_each_disk(|disk| {
        let mut names = Vec::new();
        let mut ended = 0;
        for round in ["r0", "r1", "r2", "r3"] {
            let mut server = start(disk);
            let load = Load::start(server.port(), round);
            wait_until("the load has begun", || {
                disk.path().join("data/rocksdb").exists()
            });
            std::thread::sleep(Duration::from_millis(200));
            // Again and again, so that what the server frees is taken at once.
            let until = Instant::now() + Duration::from_millis(600);
            while Instant::now() < until {
                disk.fill(0);
            }
            names.extend(load.finish().0);
            if server.has_ended() {
                ended += 1;
                let (status, _, log) = server.wait();
                assert!(
                    status.code().is_some_and(|code| code != 0),
                    "{status} {log}"
                );
                assert!(log.contains("No space left on device"), "{log}");
            } else {
                server.kill();
            }
            disk.clear();
        }
        let server = start(disk);
        assert_all_there(&mut Client::connect(server.port()).unwrap(), &names);
        println!(
            "{} acknowledged; the server ended {ended} of 4 times",
            names.len()
        );
        assert!(names.len() > 100);
        server.stop();
    });
}
