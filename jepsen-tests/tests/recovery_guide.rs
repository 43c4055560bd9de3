//! Tests of `docs/recovery.md`: the commands of each case run as they are written, after the failure that the
//! case is about.
//!
//! The three hosts are three addresses in a network namespace, each with its own `/var/lib`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use hearth_jepsen_tests::programs;

/// A block of commands.
#[derive(Debug)]
struct Block {
    host: String,
    /// `server` if the block starts a server, `fails` if its exit code must not be 0, otherwise empty.
    mark: String,
    commands: String,
}

/// Returns the blocks of each section.
fn guide() -> BTreeMap<String, Vec<Block>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recovery.md");
    let text = fs::read_to_string(path).unwrap();
    let mut sections: BTreeMap<String, Vec<Block>> = BTreeMap::new();
    let mut section = String::new();
    let mut block: Option<Block> = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_owned();
        } else if let Some(about) = line.strip_prefix("```sh ") {
            let (host, mark) = about.split_once(' ').unwrap_or((about, ""));
            block = Some(Block {
                host: host.to_owned(),
                mark: mark.to_owned(),
                commands: String::new(),
            });
        } else if line == "```" {
            let block = block
                .take()
                .expect("every block says on which host it is run");
            sections.entry(section.clone()).or_default().push(block);
        } else if let Some(block) = &mut block {
            block.commands.push_str(line);
            block.commands.push('\n');
        }
    }
    sections
}

/// The shell script that sets up the hosts and defines the functions of the cases.
const STAGE: &str = r#"
set -eu
ip link set lo up
mount -t tmpfs tmpfs /mnt
mkdir /mnt/etc
for file in passwd group nsswitch.conf ld.so.cache python3; do cp -a /etc/$file /mnt/etc/ 2>/dev/null || true; done
mount --bind /mnt/etc /etc
printf '127.0.0.1 localhost\n10.9.0.1 alpha\n10.9.0.2 beta\n10.9.0.3 gamma\n' > /etc/hosts
echo 5f1c6a8f9a0d4c0f8d2f5f1c6a8f9a0d > /etc/hearth.key
chmod 600 /etc/hearth.key
for number in 1 2 3; do ip address add 10.9.0.$number/32 dev lo; done
for host in alpha beta gamma; do mkdir /mnt/$host; done

# Runs commands on a host, in place of this shell; its /var/lib is its own.
become() {
    exec unshare -m sh -c 'mount --bind /mnt/$1 /var/lib && cd / && exec sh -eu -c "$2"' sh "$1" "$2"
}

on() {
    (become "$1" "$2")
}

# Starts a node on a host; its process has the number that is kept.
begin() {
    (become "$1" "exec $2") > /mnt/$1.log 2>&1 &
    echo $! > /mnt/$1.pid
}

start() {
    begin "$1" "$2"
    answers "$1"
}

answers() {
    for i in $(seq 300); do
        if nsctl -n "$1" --timeout 5 ping > /dev/null 2>&1; then return; fi
        sleep 0.2
    done
    echo "$1 does not answer:"; cat /mnt/$1.log; exit 1
}

# Ends a node at once.
crash() {
    kill -9 "$(cat /mnt/$1.pid)"; wait "$(cat /mnt/$1.pid)" || true
}

# Waits until this holds.
until_true() {
    for i in $(seq 300); do
        if sh -c "$1" > /mnt/last 2>&1; then return; fi
        sleep 0.2
    done
    echo "never: $1"; cat /mnt/last; exit 1
}

fails() {
    if "$@"; then echo "this should fail: $*"; exit 1; fi
}

voters() {
    until_true "[ \$(nsctl -n $1 -o json cluster members | grep -o '\"voter\": *true' | wc -l) -eq $2 ]"
}

founders() {
    for host in alpha beta gamma; do
        id=$((id + 1))
        begin $host "hearthd -n $host -s rocksdb:/var/lib/hearth --node-id $id --cluster-key-file /etc/hearth.key --initial-cluster 1=alpha:9092,2=beta:9092,3=gamma:9092"
    done
    for host in alpha beta gamma; do answers $host; done
    for number in 1 2 3 4 5; do nsctl -n alpha register name.$number PYRO:object@host:$number > /dev/null; done
    nsctl -n alpha setmeta name.1 a b > /dev/null
}
id=0

all_there() {
    for number in 1 2 3 4 5; do nsctl -n "$1" lookup name.$number > /dev/null; done
    nsctl -n "$1" register --replace later PYRO:object@host:9 > /dev/null
}
"#;

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Converts blocks to a script that uses the functions of [`STAGE`].
fn script(blocks: &[Block]) -> String {
    let mut script = String::new();
    for block in blocks {
        let commands = quoted(&block.commands);
        let line = match block.mark.as_str() {
            "server" => format!("start {} {commands}", block.host),
            "fails" => format!("fails on {} {commands}", block.host),
            "" => format!("on {} {commands}", block.host),
            other => panic!("a block is marked {other:?}"),
        };
        writeln!(script, "{line}").unwrap();
    }
    script
}

/// Runs the blocks of a section after the commands `before`, and then the checks `after`.
fn run_case(section: &str, before: &str, after: &str) {
    let apart = [
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
    ];
    let tried = Command::new("unshare")
        .args(apart)
        .args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return hearth_skipped::skipped(
            "no namespaces of network, mounts and processes can be made here",
        );
    }
    let guide = guide();
    let blocks = guide
        .get(section)
        .unwrap_or_else(|| panic!("no section {section:?}"));
    assert!(!blocks.is_empty());
    let script = format!(
        "{STAGE}\n{before}\n{}\n{after}\necho all is well\n",
        script(blocks)
    )
    .replace("@save@", &self::script(&guide["Before anything is lost"]));
    let programs = programs::folder().unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("unshare")
        .args(apart)
        .args(["--mount-proc", "sh", "-c", &script])
        .env("PATH", format!("{}:{path}", programs.display()))
        .env_remove("PYRO_HMAC_KEY")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("all is well"),
        "{section}: {}\n{text}\n{errors}",
        output.status
    );
}

#[test]
fn every_section_with_commands_is_run_here() {
    let mut sections: Vec<String> = guide().into_keys().collect();
    sections.sort();
    assert_eq!(
        sections,
        [
            "A disk is full",
            "A majority is lost",
            "A member that is gone for good",
            "A member's directory is damaged",
            "A minority is lost",
            "Before anything is lost",
            "Everything is lost",
            "The directory of a node alone is damaged",
        ]
    );
}

#[test]
fn a_minority_is_lost() {
    run_case(
        "A minority is lost",
        "founders; crash gamma; rm -r /mnt/gamma/hearth",
        "voters alpha 3; all_there gamma",
    );
}

#[test]
fn a_majority_is_lost() {
    run_case(
        "A majority is lost",
        "founders; crash alpha; crash beta; crash gamma; rm -r /mnt/beta/hearth /mnt/gamma/hearth",
        "voters alpha 3; all_there beta; all_there gamma",
    );
}

#[test]
fn everything_is_lost() {
    run_case(
        "Everything is lost",
        "founders\n@save@\ncrash alpha; crash beta; crash gamma; rm -r /mnt/*/hearth",
        "voters alpha 2; all_there alpha; all_there beta; nsctl -n beta list | grep name.1",
    );
}

#[test]
fn a_members_directory_is_damaged() {
    run_case(
        "A member's directory is damaged",
        "founders; crash gamma; rm /mnt/gamma/hearth/rocksdb/CURRENT
         fails on gamma 'hearthd -n gamma -s rocksdb:/var/lib/hearth --cluster-key-file /etc/hearth.key --join alpha:9092'",
        "voters alpha 3; all_there gamma",
    );
}

#[test]
fn the_directory_of_a_node_alone_is_damaged() {
    run_case(
        "The directory of a node alone is damaged",
        "start alpha 'hearthd -n 0.0.0.0 -s rocksdb:/var/lib/hearth'
         for number in 1 2 3; do nsctl -n alpha register name.$number PYRO:object@host:$number; done
         nsctl -n alpha setmeta name.1 a b
         nsctl -n localhost snapshot save /mnt/alpha/names.snap
         for number in 4 5; do nsctl -n alpha register name.$number PYRO:object@host:$number; done
         crash alpha; rm /mnt/alpha/hearth/rocksdb/CURRENT
         fails on alpha 'hearthd -n alpha -s rocksdb:/var/lib/hearth'",
        "all_there alpha; nsctl -n alpha lookup name.1 | grep a",
    );
}

#[test]
fn a_member_is_gone_for_good() {
    run_case(
        "A member that is gone for good",
        "founders; crash gamma",
        "voters alpha 2; all_there beta",
    );
}

#[test]
fn a_disk_is_full() {
    run_case(
        "A disk is full",
        "mount -t tmpfs -o size=96m tmpfs /mnt/gamma; founders
         dd if=/dev/zero of=/mnt/gamma/filler bs=1M count=96 2>/dev/null || true
         until_true 'nsctl -n alpha cluster health 2>&1 | grep -q \"nearly full\"'
         nsctl -n alpha register accepted PYRO:object@host:1",
        "rm /mnt/gamma/filler; until_true 'nsctl -n gamma register --replace taken PYRO:object@host:1'; all_there gamma",
    );
}
