//! Large removals: atomic for readers, in small batches for the disk.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod leftovers;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hearth_storage::{
    Answer, Batch, Command, Entry, Filter, IfTaken, Install, Location, Name, Query, RULES, Refusal,
    Registry, Reply, Revision, RocksOptions, RocksStore, Store, StoreError, Summary, View,
};
use leftovers::wait_until_erased;

/// A store that passes everything on, and records the number of names in the largest batch.
struct Counting {
    store: RocksStore,
    largest: AtomicUsize,
}

impl Store for Counting {
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        self.store.entry(name)
    }

    fn extra(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.extra(key)
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.meta(key)
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        self.store.summary()
    }

    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        self.store.view()
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.largest
            .fetch_max(batch.entries.len(), Ordering::Relaxed);
        self.store.commit(batch)
    }

    fn begin_install(&self) -> Result<Box<dyn Install>, StoreError> {
        self.store.begin_install()
    }
}

/// A pause so long that hidden entries stay on the disk.
const LATE: Duration = Duration::from_secs(3600);

fn open(folder: &Path, erase_pause: Duration) -> RocksStore {
    let options = RocksOptions {
        erase_pause,
        ..RocksOptions::default()
    };
    RocksStore::open(&Location::Folder(folder.to_owned()), &options).unwrap()
}

fn register(name: String) -> Command {
    Command::Register {
        name,
        uri: "PYRO:o@h:1".to_owned(),
        tags: ["t".to_owned()].into(),
        if_taken: IfTaken::Replace,
    }
}

fn remove_prefix(prefixes: &[&str]) -> Command {
    Command::RemovePrefix {
        prefixes: prefixes.iter().map(|&prefix| prefix.to_owned()).collect(),
    }
}

/// A registry to which commands are applied in log order, many to a batch.
struct Log {
    registry: Registry,
    index: u64,
}

impl Log {
    fn new(store: Arc<dyn Store>) -> Self {
        let mut log = Self {
            registry: Registry::new(store),
            index: 0,
        };
        log.apply([Command::UseRules { rules: RULES }]);
        log
    }

    fn apply(&mut self, commands: impl IntoIterator<Item = Command>) -> Vec<Reply> {
        self.index += 1;
        let mut change = self.registry.begin().unwrap();
        let mut replies = Vec::new();
        for (position, command) in (0..).zip(commands) {
            let revision = Revision::new(self.index, position);
            replies.push(change.apply(revision, &command).unwrap());
        }
        self.registry.commit(change).unwrap();
        replies
    }

    fn fill(&mut self, prefix: &str, count: u64) {
        for thousand in 0..count.div_ceil(1000) {
            let numbers = thousand * 1000..count.min(thousand * 1000 + 1000);
            self.apply(numbers.map(|number| register(format!("{prefix}{number:06}"))));
        }
    }

    fn names(&self, filter: Filter) -> Vec<Name> {
        match self.registry.answer(&Query::List(filter)).unwrap() {
            Answer::Entries(entries) => entries.into_iter().map(|(name, _)| name).collect(),
            other => panic!("a list was answered with {other:?}"),
        }
    }

    /// Checks that the summary matches the entries that can be read.
    fn check(&self) {
        let view = self.registry.snapshot().unwrap();
        let mut names = 0;
        for chunk in view.chunks(1 << 20) {
            names += chunk.unwrap().len();
        }
        let copy = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
        let copy = Registry::new(Arc::new(copy));
        copy.install(view.header().clone(), view.chunks(1 << 20))
            .unwrap();
        assert_eq!(
            copy.summary().unwrap(),
            self.registry.summary().unwrap(),
            "{names}"
        );
    }
}

fn all(tag: &str) -> Filter {
    Filter::TagsAll(vec![tag.to_owned()])
}

#[test]
fn a_removal_of_200_000_names_is_one_small_batch_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), Duration::ZERO);
    let counting = Arc::new(Counting {
        store: store.clone(),
        largest: AtomicUsize::new(0),
    });
    let mut log = Log::new(counting.clone());
    log.fill("a.", 5);
    log.fill("service.", 200_000);
    counting.largest.store(0, Ordering::Relaxed);
    let before = log.registry.snapshot().unwrap();
    let replies = log.apply([
        register("service.000007".to_owned()),
        register("service.new".to_owned()),
        remove_prefix(&["service.1", "service"]),
        register("service.000008".to_owned()),
    ]);
    assert_eq!(replies[2], Reply::Removed(200_001));
    // The batch holds the names in the commands, and nothing for the others.
    assert!(counting.largest.load(Ordering::Relaxed) <= 3);
    assert_eq!(before.header().summary.entry_count, 200_005);
    drop(before);
    assert_eq!(log.names(Filter::All).len(), 6);
    assert_eq!(log.names(all("t")).len(), 6);
    log.check();

    // In the end the entries and their traces are erased from the disk, too.
    wait_until_erased(&store);
    assert_eq!(log.names(Filter::All).len(), 6);
    assert_eq!(log.names(all("t")).len(), 6);
    log.check();
    let mut created = 0;
    let view = store.view().unwrap();
    view.created_since(Revision::default(), &mut |_, _| {
        created += 1;
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!(created, 6);
}

#[test]
fn what_is_hidden_stays_hidden_over_restarts_and_makes_room_for_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::new(Arc::new(open(folder.path(), LATE)));
    log.fill("n", 3000);
    log.apply([remove_prefix(&["n"])]);
    // The old entry's tags, and its position in the creation order, go with it.
    log.apply([Command::Register {
        name: "n000001".to_owned(),
        uri: "PYRO:again@h:1".to_owned(),
        tags: ["u".to_owned()].into(),
        if_taken: IfTaken::Refuse,
    }]);
    for pause in [LATE, LATE, Duration::ZERO] {
        let index = log.index;
        drop(log);
        let store = open(folder.path(), pause);
        log = Log {
            registry: Registry::new(Arc::new(store.clone())),
            index,
        };
        assert_eq!(log.names(Filter::All), ["n000001"]);
        assert_eq!(
            log.names(Filter::Prefix(vec!["n0000".to_owned()])),
            ["n000001"]
        );
        assert!(log.names(all("t")).is_empty());
        assert_eq!(log.names(all("u")), ["n000001"]);
        assert_eq!(
            log.registry.answer(&Query::Count).unwrap(),
            Answer::Count(1)
        );
        let gone = Query::Lookup("n000002".to_owned());
        assert_eq!(log.registry.answer(&gone).unwrap(), Answer::Entry(None));
        log.check();
        if pause.is_zero() {
            wait_until_erased(&store);
        }
        // Neither hidden nor erased entries look like damage.
        let findings = store.verify(&mut |_, _| Ok(())).unwrap();
        assert_eq!(findings.problems, Vec::<String>::new());
        assert_eq!(findings.summary, log.registry.summary().unwrap());
        let mut read = Vec::new();
        store.read_entries(
            &mut |name, _| {
                read.push(name.to_owned());
                ControlFlow::Continue(())
            },
            &mut |damage| panic!("{damage}"),
        );
        assert_eq!(read, ["n000001"]);
    }
    assert_eq!(log.names(Filter::All), ["n000001"]);
    assert_eq!(log.names(all("u")), ["n000001"]);
}

#[test]
fn many_removals_are_finished_before_more_are_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), LATE);
    let mut log = Log::new(Arc::new(store.clone()));
    for round in 0..40 {
        log.fill("n", 1001);
        assert_eq!(log.apply([remove_prefix(&[""])]), [Reply::Removed(1001)]);
        assert!(store.hidden_removal_count() <= 16, "round {round}");
        assert!(log.names(all("t")).is_empty());
    }
    log.check();
}

#[test]
fn a_large_removal_ends_what_was_looked_up_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::new(Arc::new(open(folder.path(), LATE)));
    log.fill("n", 1500);
    log.fill("other", 3);
    let listed = |log: &Log, names: Vec<Name>| Command::RemoveListed {
        names,
        prefix: "n".to_owned(),
        as_of: Revision::end_of(log.index),
    };
    // Many names are removed by name.
    let names: Vec<Name> = log.names(Filter::Prefix(vec!["n".to_owned()]));
    let stale = listed(&log, names[..3].to_vec());
    let command = listed(&log, names[..1400].to_vec());
    assert_eq!(log.apply([command]), [Reply::Removed(1400)]);
    assert_eq!(log.names(Filter::All).len(), 103);
    log.check();
    let refused = Reply::Refused(Refusal::Changed);
    assert_eq!(log.apply([stale]), [refused]);
    let command = listed(&log, names[1390..].to_vec());
    assert_eq!(log.apply([command]), [Reply::Removed(100)]);
    assert_eq!(log.names(Filter::All).len(), 3);
}
