//! The documentation of the workspace is true: the documents name existing paths, and the dependencies between
//! the crates are as described.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the parts of a text between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn the_paths_that_the_documents_name_exist() {
    let mut missing = Vec::new();
    let mut count = 0;
    for document in [
        "ARCHITECTURE.md",
        "README.md",
        "docs/performance.md",
        "docs/recovery.md",
        "docs/reliability.md",
        "wire/fuzz/README.md",
    ] {
        let text = read(document);
        for path in quoted(&text) {
            let is_path = path.contains('/')
                && !path.starts_with(['/', '-', '<', '~'])
                && path
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c))
                && Path::new(path)
                    .components()
                    .next()
                    .is_some_and(|first| root().join(first).exists());
            if is_path {
                count += 1;
                if !root().join(path).exists() {
                    missing.push(format!("{document}: {path}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "named but not there: {missing:#?}");
    assert!(
        count > 20,
        "only {count} paths found: is the reader of the documents broken?"
    );
}

#[test]
fn every_source_folder_is_on_the_map() {
    let map = read("ARCHITECTURE.md");
    let named: BTreeSet<&str> = quoted(&map)
        .map(|path| path.trim_end_matches('/'))
        .collect();
    let mut unnamed = Vec::new();
    for room in ["wire", "storage", "raft", "node", "cli", "jepsen-tests"] {
        let source = root().join(room).join("src");
        for entry in std::fs::read_dir(source).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{room}/src/{}", entry.file_name().to_str().unwrap());
            let is_root = path.ends_with("/lib.rs");
            if !is_root && !named.contains(path.as_str()) {
                unnamed.push(path);
            }
        }
    }
    assert!(unnamed.is_empty(), "not on the map: {unnamed:#?}");
}

/// Returns the names under `[dependencies]` of a crate.
fn dependencies(room: &str) -> BTreeSet<String> {
    let manifest = read(&format!("{room}/Cargo.toml"));
    let section = manifest
        .split("\n[dependencies]\n")
        .nth(1)
        .unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let name = |line: &str| Some(line.split(['.', ' ', '=']).next()?.to_owned());
    section
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .filter_map(name)
        .collect()
}

/// The folders and files of `raft/src`, each with those that its production code may use. A folder uses only folders
/// that stand above it here, so there is no circle.
const RAFT_ARROWS: [(&str, &str); 20] = [
    ("defect", ""),
    ("error", ""),
    ("types", ""),
    ("status", ""),
    ("config", "error"),
    ("codec", "types"),
    ("rpc", "codec config status types"),
    ("environment", "rpc"),
    ("store", "codec types"),
    ("offline", "codec store types"),
    ("leader", "codec rpc store types"),
    ("write", "codec error leader rpc store types"),
    ("read", "error leader store"),
    ("disk_space", "config environment rpc store types"),
    (
        "replication",
        "codec disk_space environment rpc store types",
    ),
    ("retention", "config replication store types"),
    ("membership", "codec rpc status store types write"),
    (
        "report",
        "codec disk_space membership rpc status store types",
    ),
    (
        "service",
        "codec disk_space environment leader membership read replication report rpc store types write",
    ),
    (
        "bootstrap",
        "codec config disk_space environment error leader membership offline read replication report \
         retention rpc service store types write",
    ),
];

/// Returns the first parts of the `crate::` paths in the production code below `path`.
fn crate_paths(path: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.ends_with("_test.rs") && name != "session_model.rs" {
                found.append(&mut crate_paths(&path));
            }
        }
        return found;
    }
    let text = std::fs::read_to_string(path).unwrap();
    let is_test = |line: &&str| line.starts_with("#[cfg(test)]");
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        if is_test(&line) {
            // A module of tests ends the production code; a single item is skipped.
            if lines[at + 1..]
                .iter()
                .take(2)
                .any(|line| line.starts_with("mod "))
            {
                break;
            }
            at += 1;
        } else if !line.trim_start().starts_with("//") {
            for after in line.split("crate::").skip(1) {
                let end = after.find(|c: char| !c.is_ascii_lowercase() && c != '_');
                found.insert(after[..end.unwrap_or(after.len())].to_owned());
            }
        }
        at += 1;
    }
    found
}

#[test]
fn the_folders_of_raft_know_only_those_below_them() {
    let source = root().join("raft/src");
    let mut below: BTreeSet<&str> = BTreeSet::new();
    for (folder, allowed) in RAFT_ARROWS {
        let allowed: BTreeSet<&str> = allowed.split_whitespace().collect();
        assert!(
            allowed.is_subset(&below),
            "{folder} may use a folder that is not below it"
        );
        let path = match source.join(folder) {
            path if path.is_dir() => path,
            path => path.with_extension("rs"),
        };
        for used in crate_paths(&path) {
            let is_fine = used == folder || used == "defect" || allowed.contains(used.as_str());
            assert!(is_fine, "raft/src/{folder} must not use {used}");
        }
        below.insert(folder);
    }
    let above = ["lib", "replica", "tests"];
    for entry in std::fs::read_dir(source).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.strip_suffix(".rs").unwrap_or(&name);
        assert!(
            below.contains(name) || above.contains(&name),
            "raft/src/{name} has no place in the table of arrows"
        );
    }
}

#[test]
fn the_arrows_between_the_rooms_hold() {
    let arrows = [
        ("wire", &[] as &[&str]),
        ("storage", &["hearth-wire"]),
        ("raft", &["hearth-storage"]),
        ("node", &["hearth-wire", "hearth-storage", "hearth-raft"]),
        ("cli", &["hearth-wire"]),
        (
            "jepsen-tests",
            // The simulation runs the replication code itself.
            &[
                "hearth-cli",
                "hearth-raft",
                "hearth-seeded",
                "hearth-storage",
            ],
        ),
    ];
    for (room, allowed) in arrows {
        let found = dependencies(room);
        let rooms = found.iter().filter(|name| name.starts_with("hearth-"));
        for arrow in rooms {
            assert!(
                allowed.contains(&arrow.as_str()),
                "{room} must not know {arrow}"
            );
        }
    }
    for (room, forbidden) in [
        (
            "wire",
            &["tokio", "rocksdb", "openraft", "socket2"] as &[&str],
        ),
        ("storage", &["tokio", "openraft", "socket2"]),
        ("node", &["openraft", "rocksdb"]),
        ("cli", &["openraft", "rocksdb"]),
        ("jepsen-tests", &["openraft", "rocksdb"]),
    ] {
        let found = dependencies(room);
        for name in forbidden {
            assert!(!found.contains(*name), "{room} must not use {name}");
        }
    }
}

/// Appends the Rust sources below a directory.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_test_skips_itself_uncounted() {
    let mut files = Vec::new();
    for room in ["wire", "storage", "raft", "node", "cli", "jepsen-tests"] {
        for part in ["src", "tests"] {
            let folder = root().join(room).join(part);
            if folder.exists() {
                sources(&folder, &mut files);
            }
        }
    }
    assert!(files.len() > 100, "only {} files found", files.len());
    files.retain(|file| {
        let text = std::fs::read_to_string(file).unwrap();
        let text: String = text.split_whitespace().collect();
        text.contains(r#"println!("skipped"#)
    });
    files.retain(|file| !file.ends_with("house.rs"));
    assert!(
        files.is_empty(),
        "cargo counts these as passed; `hearth_skipped::skipped` does not: {files:#?}"
    );
}
