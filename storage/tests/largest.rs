//! The largest registration can be read again, from the store and out of a snapshot.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hearth_storage::{
    Answer, Command, Filter, IfTaken, Location, Query, Registry, Reply, Revision, RocksOptions,
    RocksStore, SnapshotHeader, Tags,
};

/// More bytes than any command that is replicated.
const TEXT_LEN_MAX: usize = 70 << 20;

fn open(location: &Location) -> (RocksStore, Registry) {
    let store = RocksStore::open(location, &RocksOptions::default()).unwrap();
    let registry = Registry::new(Arc::new(store.clone()));
    (store, registry)
}

fn apply(registry: &Registry, index: u64, commands: &[Command]) {
    let mut change = registry.begin().unwrap();
    for (position, command) in (0..).zip(commands) {
        let reply = change.apply(Revision::new(index, position), command);
        assert_eq!(reply.unwrap(), Reply::Done);
    }
    change.put_meta(b"a meta record", vec![0xff; 1 << 20]);
    change.put_extra(b"an extra record", vec![0xff; 1 << 20]);
    registry.commit(change).unwrap();
}

fn register(name: String, uri: String, tags: Tags) -> Command {
    Command::Register {
        name,
        uri,
        tags,
        if_taken: IfTaken::Replace,
    }
}

/// Checks that another registry holds the same as `registry` after it has installed its snapshot chunk by
/// chunk.
fn assert_survives(registry: &Registry) {
    let list = |registry: &Registry| match registry.answer(&Query::List(Filter::All)).unwrap() {
        Answer::Entries(entries) => entries,
        other => panic!("{other:?}"),
    };
    let held = list(registry);
    let snapshot = registry.snapshot().unwrap();
    let header = SnapshotHeader::decode(&snapshot.header().encode()).unwrap();
    let (_store, copy) = open(&Location::Memory);
    copy.install(header, snapshot.chunks(64 << 10)).unwrap();
    assert_eq!(list(&copy), held);
    assert_eq!(copy.state_hash().unwrap(), registry.state_hash().unwrap());
    for (name, entry) in held {
        let found = copy.answer(&Query::Lookup(name)).unwrap();
        assert_eq!(found, Answer::Entry(Some(entry)));
    }
}

#[test]
fn the_largest_registration_is_read_again() {
    let (_store, registry) = open(&Location::Memory);
    let uri = "u".repeat(TEXT_LEN_MAX);
    let tags: Tags = (0..100_000).map(|number| format!("tag {number}")).collect();
    apply(
        &registry,
        u64::MAX,
        &[register("large".to_owned(), uri, tags)],
    );
    assert_survives(&registry);
}
