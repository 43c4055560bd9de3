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
