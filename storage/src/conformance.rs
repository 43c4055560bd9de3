//! The conformance suite that every store must pass.
//!
//! A store provides a function that opens it, empty, and gets one test per case:
//! ```
//! use std::sync::Arc;
//! use hearth_storage::{Location, RocksOptions, RocksStore, conformance::Opened, conformance_suite};
//!
//! fn memory() -> Opened {
//!     let store = RocksStore::open(&Location::Memory, &RocksOptions::default());
//!     Opened::new(Arc::new(store.expect("memory is always there")))
//! }
//! conformance_suite!(rocks_in_memory, super::memory);
//! # fn main() {}
//! ```
//! The cases go through [`Registry`], because the rules must hold on the store. Where a rule cannot show a
//! property of the store, a case asks the store itself. The suite does not test what survives a crash: each
//! store makes its own promises there.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::command::{Command, IfTaken, Refusal, Reply};
use crate::error::StoreError;
use crate::model::{Entry, Name, Revision, Tags};
use crate::pattern::Pattern;
use crate::query::{Answer, Filter, Query};
use crate::registry::Registry;
use crate::rules::RULES;
use crate::snapshot::SnapshotHeader;
use crate::store::{Store, View};
use crate::summary::Summary;

/// A new, empty store, and a guard that must live until it is closed, such as its directory.
pub struct Opened {
    store: Arc<dyn Store>,
    _guard: Box<dyn Any>,
}

impl Opened {
    /// Wraps a store that needs no guard.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::with_guard(store, ())
    }

    /// Wraps a store that is closed before `guard` is dropped.
    pub fn with_guard(store: Arc<dyn Store>, guard: impl Any) -> Self {
        Self {
            store,
            _guard: Box::new(guard),
        }
    }
}

/// The result of a case. A case fails by panicking or with the error of the store.
pub type Outcome = Result<(), StoreError>;

/// Defines a module of tests, one per case, from a name and a function that opens an empty store. Paths in the
/// second argument are resolved inside that module.
#[macro_export]
macro_rules! conformance_suite {
    ($name:ident, $open:expr) => {
        $crate::conformance_suite!(@cases $name, $open,
            an_empty_store_holds_nothing
            register_replaces_uri_and_tags
            register_that_refuses_changes_nothing
            set_metadata_replaces_tags_and_keeps_the_uri
            remove_counts_what_it_removes
            remove_if_compares_the_uri
            remove_prefix_removes_each_name_once
            remove_regex_matches_at_the_start
            a_pattern_that_does_not_parse_is_refused
            any_text_can_be_a_name
            scans_are_in_the_order_of_code_points
            lists_are_in_the_order_of_creation
            entries_keep_the_revision_of_their_creation
            the_order_of_creation_follows_every_change
            remove_if_unchanged_compares_the_revision
            remove_listed_is_refused_when_names_came
            remove_listed_looks_through_so_many
            prefixes_end_where_they_should
            lists_by_pattern_match_at_the_start
            tags_find_their_entries
            any_text_can_be_a_tag
            the_tag_index_follows_every_change
            a_change_sees_what_it_has_done
            a_dropped_change_leaves_nothing
            an_overtaken_change_is_refused
            meta_and_extra_records_are_kept
            a_view_stands_still
            scans_start_where_they_are_told_and_stop
            cursors_seek_and_go_on
            the_summary_is_that_of_the_content
            a_snapshot_replaces_everything
            a_snapshot_describes_one_moment
            a_bad_snapshot_changes_nothing
        );
    };
    (@cases $name:ident, $open:expr, $($case:ident)*) => {
        mod $name {
            $(
                #[test]
                fn $case() -> $crate::conformance::Outcome {
                    $crate::conformance::$case(&$open)
                }
            )*
        }
    };
}

/// A function that opens an empty store.
pub type Opener<'a> = dyn Fn() -> Opened + 'a;

/// A registry in a new store, with shorthands for the operations of the cases.
struct Bench {
    registry: Registry,
    opened: Opened,
    revision: u64,
}

impl Bench {
    fn new(open: &Opener<'_>) -> Self {
        let opened = open();
        Self {
            registry: Registry::new(Arc::clone(&opened.store)),
            opened,
            revision: 0,
        }
    }

    /// Applies one command in its own change.
    fn apply(&mut self, command: Command) -> Result<Reply, StoreError> {
        self.revision += 1;
        let mut change = self.registry.begin()?;
        let reply = change.apply(at(self.revision), &command)?;
        self.registry.commit(change)?;
        Ok(reply)
    }

    fn register(&mut self, name: &str, tags: &[&str]) -> Outcome {
        let uri = format!("PYRO:{}@h:1", self.revision);
        assert_eq!(self.apply(register(name, &uri, tags))?, Reply::Done);
        Ok(())
    }

    fn lookup(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        match self.registry.answer(&Query::Lookup(name.to_owned()))? {
            Answer::Entry(entry) => Ok(entry),
            other => panic!("a look-up was answered with {other:?}"),
        }
    }

    fn count(&self) -> Result<u64, StoreError> {
        match self.registry.answer(&Query::Count)? {
            Answer::Count(count) => Ok(count),
            other => panic!("a count was answered with {other:?}"),
        }
    }

    fn list(&self, filter: Filter) -> Result<Vec<(Name, Entry)>, StoreError> {
        match self.registry.answer(&Query::List(filter))? {
            Answer::Entries(entries) => Ok(entries.into_iter().collect()),
            other => panic!("a list was answered with {other:?}"),
        }
    }

    /// Returns the names in a list, sorted.
    fn names(&self, filter: Filter) -> Result<Vec<Name>, StoreError> {
        let mut names = self.ordered(filter)?;
        names.sort_unstable();
        Ok(names)
    }

    /// Returns the names in a list, in its order.
    fn ordered(&self, filter: Filter) -> Result<Vec<Name>, StoreError> {
        let entries = self.list(filter)?;
        Ok(entries.into_iter().map(|(name, _)| name).collect())
    }

    /// Returns the names created after `as_of`, in the order in which the store gives them.
    fn created_since(&self, as_of: Revision) -> Result<Vec<Name>, StoreError> {
        let mut names = Vec::new();
        let view = self.opened.store.view()?;
        view.created_since(as_of, &mut |created, name| {
            let entry = view.entry(name)?;
            assert_eq!(entry.map(|entry| entry.created), Some(created), "{name:?}");
            names.push(name.to_owned());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(names)
    }
}

/// Returns the revision of the only command in a log entry.
fn at(index: u64) -> Revision {
    Revision::new(index, 0)
}

/// Returns the command that puts the latest rules in force.
fn use_rules() -> Command {
    Command::UseRules { rules: RULES }
}

fn register(name: &str, uri: &str, tags: &[&str]) -> Command {
    Command::Register {
        name: name.to_owned(),
        uri: uri.to_owned(),
        tags: set(tags),
        if_taken: IfTaken::Replace,
    }
}

fn remove(name: &str) -> Command {
    Command::Remove {
        name: name.to_owned(),
    }
}

fn remove_prefix(prefixes: &[&str]) -> Command {
    Command::RemovePrefix {
        prefixes: owned(prefixes),
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn set(texts: &[&str]) -> Tags {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn prefix(prefixes: &[&str]) -> Filter {
    Filter::Prefix(owned(prefixes))
}

fn all(tags: &[&str]) -> Filter {
    Filter::TagsAll(owned(tags))
}

fn any(tags: &[&str]) -> Filter {
    Filter::TagsAny(owned(tags))
}

fn pattern(text: &str) -> Pattern {
    match Pattern::parse(text) {
        Ok(pattern) => pattern,
        Err(error) => panic!("{text} does not parse: {error}"),
    }
}

/// An empty store has no entry, no record, and the default summary.
#[doc(hidden)]
pub fn an_empty_store_holds_nothing(open: &Opener<'_>) -> Outcome {
    let bench = Bench::new(open);
    assert_eq!(bench.count()?, 0);
    assert_eq!(bench.lookup("")?, None);
    assert_eq!(bench.lookup("a")?, None);
    for filter in [
        Filter::All,
        prefix(&[""]),
        all(&[]),
        all(&["t"]),
        any(&["t"]),
    ] {
        assert_eq!(bench.list(filter)?, []);
    }
    assert_eq!(bench.registry.meta(b"m")?, None);
    assert_eq!(bench.registry.extra(b"x")?, None);
    assert!(bench.registry.extras(b"")?.is_empty());
    assert_eq!(bench.registry.summary()?, Summary::default());
    Ok(())
}

/// The later registration replaces the earlier one as a whole.
#[doc(hidden)]
pub fn register_replaces_uri_and_tags(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    assert_eq!(
        bench.apply(register("n", "PYRO:a@h:1", &["x", "y"]))?,
        Reply::Done
    );
    assert_eq!(
        bench.apply(register("n", "pyro:b@h:01", &["z"]))?,
        Reply::Done
    );
    let entry = Entry {
        uri: "pyro:b@h:01".to_owned(),
        tags: set(&["z"]),
        revision: at(2),
        created: at(2),
    };
    assert_eq!(bench.lookup("n")?, Some(entry.clone()));
    assert_eq!(bench.list(Filter::All)?, [("n".to_owned(), entry)]);
    assert_eq!(bench.count()?, 1);
    Ok(())
}

/// `register(safe=True)` of an existing name is refused and changes nothing.
#[doc(hidden)]
pub fn register_that_refuses_changes_nothing(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    let safely = |uri: &str| Command::Register {
        name: "n".to_owned(),
        uri: uri.to_owned(),
        tags: set(&["t"]),
        if_taken: IfTaken::Refuse,
    };
    assert_eq!(bench.apply(safely("PYRO:a@h:1"))?, Reply::Done);
    let before = bench.registry.summary()?;
    let taken = Reply::Refused(Refusal::name_taken());
    assert_eq!(bench.apply(safely("PYRO:b@h:1"))?, taken);
    assert_eq!(bench.lookup("n")?.map(|entry| entry.revision), Some(at(1)));
    assert_eq!(bench.registry.summary()?, before);
    bench.apply(remove("n"))?;
    assert_eq!(bench.apply(safely("PYRO:b@h:1"))?, Reply::Done);
    Ok(())
}

/// The tags are replaced, the URI stays, and an unknown name is refused.
#[doc(hidden)]
pub fn set_metadata_replaces_tags_and_keeps_the_uri(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    let tag = |name: &str, tags: &[&str]| Command::SetMetadata {
        name: name.to_owned(),
        tags: set(tags),
    };
    let unknown = Reply::Refused(Refusal::UnknownName);
    assert_eq!(bench.apply(tag("n", &["x"]))?, unknown);
    assert_eq!(bench.count()?, 0);
    bench.apply(register("n", "PYRO:a@h:1", &["x"]))?;
    assert_eq!(bench.apply(tag("n", &["y", "z"]))?, Reply::Done);
    let entry = Entry {
        uri: "PYRO:a@h:1".to_owned(),
        tags: set(&["y", "z"]),
        revision: at(3),
        created: at(3),
    };
    assert_eq!(bench.lookup("n")?, Some(entry));
    assert_eq!(bench.apply(tag("n", &[]))?, Reply::Done);
    assert_eq!(bench.lookup("n")?.map(|entry| entry.tags), Some(set(&[])));
    Ok(())
}

/// A removal reports one removed entry, or none.
#[doc(hidden)]
pub fn remove_counts_what_it_removes(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    bench.register("n", &["t"])?;
    assert_eq!(bench.apply(remove("m"))?, Reply::Removed(0));
    assert_eq!(bench.apply(remove("n"))?, Reply::Removed(1));
    assert_eq!(bench.apply(remove("n"))?, Reply::Removed(0));
    assert_eq!(bench.lookup("n")?, None);
    assert_eq!(bench.registry.summary()?, Summary::default());
    Ok(())
}

/// An entry that has another URI by now stays.
#[doc(hidden)]
pub fn remove_if_compares_the_uri(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    let remove_if = |uri: &str| Command::RemoveIf {
        name: "n".to_owned(),
        uri: uri.to_owned(),
    };
    assert_eq!(bench.apply(remove_if("PYRO:a@h:1"))?, Reply::Removed(0));
    bench.apply(register("n", "PYRO:a@h:1", &[]))?;
    assert_eq!(bench.apply(remove_if("PYRO:a@h:01"))?, Reply::Removed(0));
    assert_eq!(bench.count()?, 1);
    assert_eq!(bench.apply(remove_if("PYRO:a@h:1"))?, Reply::Removed(1));
    assert_eq!(bench.count()?, 0);
    Ok(())
}

/// Prefixes may overlap, repeat or be empty, and there may be none.
#[doc(hidden)]
pub fn remove_prefix_removes_each_name_once(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    for name in ["", "a", "ab", "abc", "b", "ba", "c", "A", "a_b", "a%"] {
        bench.register(name, &["t"])?;
    }
    assert_eq!(bench.apply(remove_prefix(&[]))?, Reply::Removed(0));
    assert_eq!(bench.apply(remove_prefix(&["x"]))?, Reply::Removed(0));
    // `_` and `%` are plain characters, and case counts.
    assert_eq!(bench.apply(remove_prefix(&["a_"]))?, Reply::Removed(1));
    assert_eq!(bench.apply(remove_prefix(&["a%"]))?, Reply::Removed(1));
    let overlapping = remove_prefix(&["ab", "b", "abc", "ab", "ba"]);
    assert_eq!(bench.apply(overlapping)?, Reply::Removed(4));
    assert_eq!(bench.names(Filter::All)?, ["", "A", "a", "c"]);
    assert_eq!(bench.names(all(&["t"]))?, ["", "A", "a", "c"]);
    assert_eq!(bench.apply(remove_prefix(&[""]))?, Reply::Removed(4));
    assert_eq!(bench.registry.summary()?, Summary::default());
    assert_eq!(bench.names(any(&["t"]))?, owned(&[]));
    Ok(())
}

/// The pattern is anchored at the start and not at the end, like `re.match`.
#[doc(hidden)]
pub fn remove_regex_matches_at_the_start(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    for name in ["svc.a", "svc.b", "my.svc", "other"] {
        bench.register(name, &[])?;
    }
    let regex = |pattern: &str| Command::RemoveRegex {
        pattern: pattern.to_owned(),
    };
    assert_eq!(bench.apply(regex("nothing"))?, Reply::Removed(0));
    assert_eq!(bench.apply(regex("svc"))?, Reply::Removed(2));
    assert_eq!(bench.apply(regex("o|m.*svc"))?, Reply::Removed(2));
    assert_eq!(bench.count()?, 0);
    Ok(())
}

/// A pattern that does not parse gives a refusal, which is a reply and not an error.
#[doc(hidden)]
pub fn a_pattern_that_does_not_parse_is_refused(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    bench.register("n", &[])?;
    let bad = Command::RemoveRegex {
        pattern: "(".to_owned(),
    };
    let reply = bench.apply(bad)?;
    assert!(
        matches!(reply, Reply::Refused(Refusal::Pattern(_))),
        "{reply:?}"
    );
    assert_eq!(bench.count()?, 1);
    Ok(())
}

/// Any text is a name of its own: empty, NUL, newlines, all planes of Unicode, long.
#[doc(hidden)]
pub fn any_text_can_be_a_name(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    let long = "x".repeat(70_000);
    // The two forms of ü are two names: nothing is normalised.
    let names = [
        "",
        "\0",
        "\0\0",
        " ",
        "\n",
        "a",
        "a\0",
        "a\0b",
        "a b",
        "ü",
        "u\u{308}",
        "日本",
        "😀",
        "\u{ffff}",
        "\u{10000}",
        "\u{10ffff}",
        "\u{10ffff}\u{10ffff}",
        "generation",
        &long,
    ];
    for name in names {
        bench.register(name, &["t"])?;
    }
    assert_eq!(bench.count()?, names.len() as u64);
    for (position, name) in names.into_iter().enumerate() {
        let uri = bench.lookup(name)?.map(|entry| entry.uri);
        assert_eq!(uri, Some(format!("PYRO:{position}@h:1")), "{name:?}");
    }
    assert_eq!(bench.names(all(&["t"]))?.len(), names.len());
    for name in names {
        assert_eq!(bench.apply(remove(name))?, Reply::Removed(1), "{name:?}");
        assert_eq!(bench.lookup(name)?, None, "{name:?}");
    }
    assert_eq!(bench.registry.summary()?, Summary::default());
    Ok(())
}

/// Scans are ordered by code points, not by UTF-16 units and not by the rules of a language.
#[doc(hidden)]
pub fn scans_are_in_the_order_of_code_points(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    let ordered = [
        "",
        "\0",
        "A",
        "Z",
        "a",
        "a\0",
        "aa",
        "b",
        "\u{7f}",
        "\u{80}",
        "é",
        "\u{7ff}",
        "\u{800}",
        "\u{ffff}",
        "\u{10000}",
        "😀",
        "\u{10ffff}",
    ];
    for name in ordered.iter().rev() {
        bench.register(name, &["t"])?;
    }
    bench.register("a", &["t"])?;
    let view = bench.opened.store.view()?;
    let entries = content(&*view)?.entries;
    let names: Vec<_> = entries.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ordered);
    assert_eq!(tagged(&*view, "t")?, ordered);
    Ok(())
}

/// Every list is in the order of creation, which a later registration or other tags do not change.
#[doc(hidden)]
pub fn lists_are_in_the_order_of_creation(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    bench.apply(use_rules())?;
    for name in ["c", "a", "d", "b", "e"] {
        bench.register(name, &["t"])?;
    }
    bench.register("c", &["t", "u"])?;
    bench.apply(Command::SetMetadata {
        name: "a".to_owned(),
        tags: set(&["t", "v"]),
    })?;
    bench.apply(remove("d"))?;
    bench.register("d", &["t"])?;
    for filter in [
        Filter::All,
        prefix(&[""]),
        prefix(&["d", "a", "c", "b", "e"]),
        all(&["t"]),
        any(&["u", "t", "v"]),
        all(&[]),
        Filter::Regex(pattern("[a-e]")),
    ] {
        let names = bench.ordered(filter.clone())?;
        assert_eq!(names, ["c", "a", "b", "e", "d"], "{filter:?}");
    }
    // Entries of one log entry are ordered by position.
    let mut change = bench.registry.begin()?;
    for (position, name) in [(0, "z"), (1, "y"), (2, "x")] {
        let register = register(name, "PYRO:o@h:1", &["w"]);
        change.apply(Revision::new(50, position), &register)?;
    }
    bench.registry.commit(change)?;
    assert_eq!(bench.ordered(any(&["w"]))?, ["z", "y", "x"]);
    Ok(())
}

/// An entry has the revisions of its last change and of its creation, by the rules in force.
#[doc(hidden)]
pub fn entries_keep_the_revision_of_their_creation(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    let revisions = |bench: &Bench, name: &str| {
        let entry = bench.lookup(name)?;
        Ok::<_, StoreError>(entry.map(|entry| (entry.revision, entry.created)))
    };
    let mut change = bench.registry.begin()?;
    let mut apply = |index, position, command: &Command| {
        let reply = change.apply(Revision::new(index, position), command);
        reply.map(|reply| assert_eq!(reply, Reply::Done))
    };
    let [old, new] = ["old", "new"].map(|name| register(name, "PYRO:o@h:1", &["t"]));
    // There are no positions as long as a member may not know them.
    apply(10, 3, &old)?;
    apply(11, 1, &use_rules())?;
    apply(11, 2, &new)?;
    bench.registry.commit(change)?;
    assert_eq!(bench.registry.rules()?, RULES);
    assert_eq!(revisions(&bench, "old")?, Some((at(10), at(10))));
    let created = Revision::new(11, 2);
    assert_eq!(revisions(&bench, "new")?, Some((created, created)));

    bench.revision = 19;
    bench.apply(old)?;
    assert_eq!(revisions(&bench, "old")?, Some((at(20), at(10))));
    bench.apply(Command::SetMetadata {
        name: "new".to_owned(),
        tags: set(&["u"]),
    })?;
    assert_eq!(revisions(&bench, "new")?, Some((at(21), created)));
    bench.apply(remove("new"))?;
    bench.apply(new)?;
    assert_eq!(revisions(&bench, "new")?, Some((at(23), at(23))));
    // The rules never go back.
    bench.apply(Command::UseRules { rules: 1 })?;
    assert_eq!(bench.registry.rules()?, RULES);
    let later = bench.apply(Command::UseRules { rules: RULES + 1 });
    assert!(
        matches!(later, Err(StoreError::NewerRules { .. })),
        "{later:?}"
    );
    // A snapshot includes the rules.
    let target = Bench::new(open);
    assert_eq!(target.registry.rules()?, 1);
    let snapshot = bench.registry.snapshot()?;
    target
        .registry
        .install(snapshot.header().clone(), snapshot.chunks(10))?;
    assert_eq!(target.registry.rules()?, RULES);
    assert_eq!(revisions(&target, "old")?, Some((at(20), at(10))));
    Ok(())
}

/// The creation order follows every change, and snapshots include it.
#[doc(hidden)]
pub fn the_order_of_creation_follows_every_change(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    bench.apply(use_rules())?;
    for name in ["b", "a", "", "\0", "\u{10ffff}"] {
        bench.register(name, &[])?;
    }
    assert_eq!(
        bench.created_since(at(0))?,
        ["b", "a", "", "\0", "\u{10ffff}"]
    );
    assert_eq!(bench.created_since(at(3))?, ["", "\0", "\u{10ffff}"]);
    assert_eq!(bench.created_since(Revision::end_of(u64::MAX))?, owned(&[]));
    bench.register("b", &["t"])?;
    bench.apply(remove("a"))?;
    bench.apply(remove(""))?;
    bench.register("a", &[])?;
    bench.apply(remove_prefix(&["\0"]))?;
    assert_eq!(bench.created_since(at(0))?, ["b", "\u{10ffff}", "a"]);
    let mut one = Vec::new();
    let view = bench.opened.store.view()?;
    view.created_since(at(0), &mut |_, name| {
        one.push(name.to_owned());
        Ok(ControlFlow::Break(()))
    })?;
    assert_eq!(one, ["b"]);
    let snapshot = bench.registry.snapshot()?;
    bench.apply(remove_prefix(&[""]))?;
    assert_eq!(bench.created_since(at(0))?, owned(&[]));
    bench
        .registry
        .install(snapshot.header().clone(), snapshot.chunks(10))?;
    assert_eq!(bench.created_since(at(0))?, ["b", "\u{10ffff}", "a"]);
    Ok(())
}

/// An entry that was registered again in the meantime stays, even if its URI is the same.
#[doc(hidden)]
pub fn remove_if_unchanged_compares_the_revision(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    bench.apply(use_rules())?;
    let remove_if = |revision| Command::RemoveIfUnchanged {
        name: "n".to_owned(),
        revision,
    };
    bench.apply(register("n", "PYRO:a@h:1", &[]))?;
    bench.apply(register("n", "PYRO:a@h:1", &[]))?;
    assert_eq!(bench.apply(remove_if(at(2)))?, Reply::Removed(0));
    assert_eq!(bench.count()?, 1);
    assert_eq!(bench.apply(remove_if(at(3)))?, Reply::Removed(1));
    assert_eq!(bench.apply(remove_if(at(3)))?, Reply::Removed(0));
    assert_eq!(bench.count()?, 0);
    Ok(())
}

/// Either all listed names are removed or none. The removal is refused if a name was created since.
#[doc(hidden)]
pub fn remove_listed_is_refused_when_names_came(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    let remove = |names: &[&str], prefix: &str, as_of| Command::RemoveListed {
        names: owned(names),
        prefix: prefix.to_owned(),
        as_of: Revision::end_of(as_of),
    };
    let refused = Reply::Refused(Refusal::Changed);
    bench.register("s.1", &["t"])?;
    assert_eq!(bench.apply(remove(&["s.1"], "s.", 1))?, refused);
    bench.apply(use_rules())?;
    // The creation order was not kept before the rules.
    assert_eq!(bench.apply(remove(&["s.1"], "s.", 2))?, refused);
    bench.register("s.2", &["t"])?;
    bench.register("other", &[])?;
    bench.revision = 9;
    bench.register("s.3", &[])?;
    bench.register("s.1", &["u"])?;
    // s.3 was created after 9. After 10, s.1 was changed, which does not count as created.
    assert_eq!(bench.apply(remove(&["s.1", "s.2"], "s.", 9))?, refused);
    assert_eq!(bench.count()?, 4);
    assert_eq!(
        bench.apply(remove(&["s.1", "s.2", "gone", "s.2"], "s.", 10))?,
        Reply::Removed(2)
    );
    assert_eq!(bench.names(Filter::All)?, ["other", "s.3"]);
    // A name that was removed and registered again counts as created; one that was created and removed does
    // not.
    bench.apply(self::remove("s.3"))?;
    bench.register("s.3", &[])?;
    let now = bench.revision;
    assert_eq!(bench.apply(remove(&["s.3"], "s.", now - 1))?, refused);
    bench.register("s.4", &[])?;
    bench.apply(self::remove("s.4"))?;
    assert_eq!(bench.apply(remove(&["s.3"], "s.", now))?, Reply::Removed(1));
    Ok(())
}

/// The number of names that are examined is bounded, and names of the same change count.
#[doc(hidden)]
pub fn remove_listed_looks_through_so_many(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    bench.apply(use_rules())?;
    bench.register("s", &[])?;
    let remove = |index| Command::RemoveListed {
        names: owned(&["s"]),
        prefix: "s".to_owned(),
        as_of: Revision::end_of(index),
    };
    let mut revision = 10;
    for _ in 0..4 {
        let mut change = bench.registry.begin()?;
        for _ in 0..1024 {
            revision += 1;
            let register = register(&format!("n{revision}"), "PYRO:o@h:1", &[]);
            change.apply(at(revision), &register)?;
        }
        bench.registry.commit(change)?;
    }
    bench.revision = revision;
    // 4096 other names were created since. One more, in the same change, is too many.
    let mut change = bench.registry.begin()?;
    change.apply(at(revision + 1), &register("m", "PYRO:o@h:1", &[]))?;
    let reply = change.apply(at(revision + 2), &remove(10))?;
    assert_eq!(reply, Reply::Refused(Refusal::Changed));
    let gone = self::remove(&format!("n{revision}"));
    change.apply(at(revision + 3), &gone)?;
    change.apply(at(revision + 4), &register("s2", "PYRO:o@h:1", &[]))?;
    let reply = change.apply(at(revision + 5), &remove(11))?;
    assert_eq!(reply, Reply::Refused(Refusal::Changed));
    change.apply(at(revision + 6), &self::remove("s2"))?;
    assert_eq!(
        change.apply(at(revision + 7), &remove(10))?,
        Reply::Removed(1)
    );
    bench.registry.commit(change)?;
    assert_eq!(bench.lookup("s")?, None);
    Ok(())
}

/// A prefix covers what starts with it, at every length of UTF-8 and at the last code point.
#[doc(hidden)]
pub fn prefixes_end_where_they_should(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    let last_ones = [
        "\u{7f}",
        "\u{7ff}",
        "\u{d7ff}",
        "\u{ffff}",
        "\u{3ffff}",
        "\u{10ffff}",
    ];
    let mut names = Vec::new();
    for last in last_ones {
        for name in [
            last.to_owned(),
            format!("{last}\0"),
            format!("{last}{last}"),
            format!("a{last}"),
            format!("a{last}\u{10ffff}"),
        ] {
            names.push(name);
        }
    }
    names.extend(owned(&[
        "a",
        "b",
        "a\u{80}",
        "a\u{800}",
        "a\u{e000}",
        "a\u{10000}",
    ]));
    for name in &names {
        bench.register(name, &[])?;
    }
    names.sort_unstable();
    names.dedup();
    let mut prefixes = names.clone();
    prefixes.extend(owned(&[
        "",
        "c",
        "a\u{ff}",
        "\u{10ffff}\u{10ffff}\u{10ffff}",
    ]));
    for given in prefixes {
        let covered: Vec<&String> = names.iter().filter(|n| n.starts_with(&given)).collect();
        let found = bench.names(prefix(&[&given]))?;
        assert_eq!(
            found.iter().collect::<Vec<_>>(),
            covered,
            "prefix {given:?}"
        );
    }
    assert_eq!(bench.names(Filter::Prefix(Vec::new()))?, owned(&[]));
    Ok(())
}

/// Lists by pattern match at the start of names, as removals do.
#[doc(hidden)]
pub fn lists_by_pattern_match_at_the_start(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    for name in ["svc.b", "svc.a", "my.svc", "svd"] {
        bench.register(name, &[])?;
    }
    let names = |text: &str| bench.names(Filter::Regex(pattern(text)));
    assert_eq!(names("svc")?, ["svc.a", "svc.b"]);
    assert_eq!(names("sv[cd]$")?, ["svd"]);
    assert_eq!(names(".*svc")?, ["my.svc", "svc.a", "svc.b"]);
    assert_eq!(names("")?.len(), 4);
    assert_eq!(names("a")?, owned(&[]));
    Ok(())
}

/// Tags find the entries with all of them or with any of them, each entry once.
#[doc(hidden)]
pub fn tags_find_their_entries(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    for (name, tags) in [
        ("none", &[][..]),
        ("x", &["x"]),
        ("xy", &["x", "y"]),
        ("xyz", &["x", "y", "z"]),
        ("yz", &["y", "z"]),
        ("z1", &["z"]),
        ("z2", &["z"]),
    ] {
        bench.register(name, tags)?;
    }
    for (filter, names) in [
        (all(&["x"]), &["x", "xy", "xyz"][..]),
        (all(&["x", "y"]), &["xy", "xyz"]),
        (all(&["y", "x", "y"]), &["xy", "xyz"]),
        (all(&["z", "y", "x"]), &["xyz"]),
        (all(&["z", "x"]), &["xyz"]),
        (all(&["x", "no"]), &[]),
        (all(&["no"]), &[]),
        (any(&["x"]), &["x", "xy", "xyz"]),
        (any(&["z", "x", "z"]), &["x", "xy", "xyz", "yz", "z1", "z2"]),
        (any(&["no", "y"]), &["xy", "xyz", "yz"]),
        (any(&[]), &[]),
    ] {
        assert_eq!(bench.names(filter.clone())?, names, "{filter:?}");
    }
    assert_eq!(bench.names(all(&[]))?.len(), 7);
    let entries = bench.list(all(&["x", "z"]))?;
    let tags: Vec<_> = entries.into_iter().map(|(_, entry)| entry.tags).collect();
    assert_eq!(tags, [set(&["x", "y", "z"])]);
    Ok(())
}

/// Tags are distinguished from each other, and from the names behind them in an index.
#[doc(hidden)]
pub fn any_text_can_be_a_tag(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    let texts = [
        "",
        "\0",
        "a",
        "a\0",
        "a\0b",
        "b",
        "ab",
        "ÿ",
        "\u{ff}\u{10ffff}",
        "\u{10ffff}",
        "日本",
    ];
    for tag in texts {
        for name in texts {
            bench.register(&format!("{name}/{tag}"), &[tag])?;
            bench.register(name, &[])?;
        }
    }
    for tag in texts {
        let mut expected: Vec<String> = texts.iter().map(|n| format!("{n}/{tag}")).collect();
        expected.sort_unstable();
        assert_eq!(bench.names(all(&[tag]))?, expected, "tag {tag:?}");
    }
    bench.register("b", &["a\0"])?;
    bench.register("\0b", &["a"])?;
    assert_eq!(
        bench
            .names(all(&["a\0"]))?
            .iter()
            .filter(|n| *n == "b")
            .count(),
        1
    );
    assert!(bench.names(all(&["a"]))?.contains(&"\0b".to_owned()));
    assert!(!bench.names(all(&["a"]))?.contains(&"b".to_owned()));
    Ok(())
}

/// No command leaves a tag behind or omits one.
#[doc(hidden)]
pub fn the_tag_index_follows_every_change(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    bench.register("n", &["a", "b"])?;
    bench.register("m", &["b"])?;
    bench.register("n", &["b", "c"])?;
    assert_eq!(bench.names(any(&["a"]))?, owned(&[]));
    assert_eq!(bench.names(any(&["b"]))?, ["m", "n"]);
    assert_eq!(bench.names(any(&["c"]))?, ["n"]);
    bench.apply(Command::SetMetadata {
        name: "n".to_owned(),
        tags: set(&["a"]),
    })?;
    assert_eq!(bench.names(any(&["c", "b"]))?, ["m"]);
    assert_eq!(bench.names(any(&["a"]))?, ["n"]);
    bench.apply(remove("n"))?;
    bench.apply(remove_prefix(&["m"]))?;
    assert_eq!(bench.names(any(&["a", "b", "c"]))?, owned(&[]));
    bench.register("n", &[])?;
    assert_eq!(bench.names(any(&["a", "b", "c"]))?, owned(&[]));
    Ok(())
}

/// Commands in one change see each other's effects, and readers see none of them before the commit.
#[doc(hidden)]
pub fn a_change_sees_what_it_has_done(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    for name in ["old.1", "old.2", "stays"] {
        bench.register(name, &["t"])?;
    }
    let before = bench.registry.summary()?;
    let mut change = bench.registry.begin()?;
    let safely = Command::Register {
        name: "new".to_owned(),
        uri: "PYRO:n@h:1".to_owned(),
        tags: set(&["u"]),
        if_taken: IfTaken::Refuse,
    };
    assert_eq!(change.apply(at(10), &safely)?, Reply::Done);
    let taken = Reply::Refused(Refusal::name_taken());
    assert_eq!(change.apply(at(11), &safely)?, taken);
    change.apply(at(12), &register("old.3", "PYRO:o@h:1", &["t", "u"]))?;
    change.apply(at(13), &remove("old.1"))?;
    // old.2 comes from the store and old.3 from the change; old.1 is already removed.
    assert_eq!(
        change.apply(at(14), &remove_prefix(&["old."]))?,
        Reply::Removed(2)
    );
    assert_eq!(
        change.apply(at(15), &remove_prefix(&["old."]))?,
        Reply::Removed(0)
    );
    change.apply(at(16), &register("old.1", "PYRO:again@h:1", &["v"]))?;
    let metadata = Command::SetMetadata {
        name: "new".to_owned(),
        tags: set(&["w"]),
    };
    assert_eq!(change.apply(at(17), &metadata)?, Reply::Done);
    let again = change.entry("old.1")?.map(|entry| entry.revision);
    assert_eq!(again, Some(at(16)));
    change.apply(at(18), &register("fleeting", "PYRO:f@h:1", &["t"]))?;
    assert_eq!(
        change.apply(at(19), &remove("fleeting"))?,
        Reply::Removed(1)
    );

    assert_eq!(bench.registry.summary()?, before);
    assert_eq!(bench.names(Filter::All)?, ["old.1", "old.2", "stays"]);
    bench.registry.commit(change)?;
    assert_eq!(bench.names(Filter::All)?, ["new", "old.1", "stays"]);
    assert_eq!(bench.names(any(&["t"]))?, ["stays"]);
    assert_eq!(bench.names(any(&["u", "v", "w"]))?, ["new", "old.1"]);
    assert_eq!(
        bench.lookup("new")?.map(|entry| entry.revision),
        Some(at(17))
    );
    assert_eq!(bench.count()?, 3);
    Ok(())
}

/// A change that is not committed has no effect.
#[doc(hidden)]
pub fn a_dropped_change_leaves_nothing(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    bench.register("n", &["t"])?;
    let before = bench.registry.summary()?;
    let mut change = bench.registry.begin()?;
    change.apply(at(2), &remove_prefix(&[""]))?;
    change.put_extra(b"x", b"1".to_vec());
    change.put_meta(b"m", b"1".to_vec());
    drop(change);
    assert_eq!(bench.registry.summary()?, before);
    assert_eq!(bench.names(any(&["t"]))?, ["n"]);
    assert_eq!(bench.registry.meta(b"m")?, None);
    assert_eq!(bench.registry.extra(b"x")?, None);
    Ok(())
}

/// A change that was made on an outdated state is refused.
#[doc(hidden)]
pub fn an_overtaken_change_is_refused(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    let mut late = bench.registry.begin()?;
    late.apply(at(1), &register("late", "PYRO:l@h:1", &[]))?;
    bench.register("n", &[])?;
    let refused = bench.registry.commit(late);
    assert!(matches!(refused, Err(StoreError::Overtaken)), "{refused:?}");
    assert_eq!(bench.names(Filter::All)?, ["n"]);
    bench.register("m", &[])?;
    assert_eq!(bench.count()?, 2);
    Ok(())
}

/// Meta and extra records are kept beside the entries, written atomically with them, and distinguished from
/// them.
#[doc(hidden)]
pub fn meta_and_extra_records_are_kept(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    bench.register("n", &["x"])?;
    let mut change = bench.registry.begin()?;
    for (key, value) in [
        (&b"a/1"[..], &b"one"[..]),
        (b"a/2", b""),
        (b"a", b"\0"),
        (b"\xff", b"z"),
    ] {
        change.put_extra(key, value.to_vec());
    }
    change.put_extra(b"n", b"no entry".to_vec());
    change.put_meta(b"applied", b"7".to_vec());
    change.put_meta(b"", b"empty key".to_vec());
    assert_eq!(change.extra(b"a/1"), Some(&b"one"[..]));
    assert_eq!(bench.registry.extra(b"a/1")?, None);
    bench.registry.commit(change)?;

    let registry = &bench.registry;
    assert_eq!(registry.meta(b"applied")?, Some(b"7".to_vec()));
    assert_eq!(registry.meta(b"")?, Some(b"empty key".to_vec()));
    assert_eq!(registry.meta(b"a/1")?, None);
    assert_eq!(registry.extra(b"a/2")?, Some(Vec::new()));
    assert_eq!(registry.extra(b"applied")?, None);
    let keys: Vec<_> = registry.extras(b"a/")?.into_keys().collect();
    assert_eq!(keys, [&b"a/1"[..], b"a/2"]);
    assert_eq!(registry.extras(b"")?.len(), 5);
    assert_eq!(registry.extras(b"\xff")?.len(), 1);
    assert_eq!(registry.summary()?.extra_count, 5);
    assert_eq!(bench.count()?, 1);

    let mut change = registry.begin()?;
    change.remove_extra(b"a/1");
    change.remove_extra(b"never there");
    change.put_extra(b"a/2", b"two".to_vec());
    change.put_extra(b"a/3", b"three".to_vec());
    let overlaid: Vec<_> = change.extras(b"a/").into_iter().collect();
    let expected = [
        (b"a/2".to_vec(), b"two".to_vec()),
        (b"a/3".to_vec(), b"three".to_vec()),
    ];
    assert_eq!(overlaid, expected);
    registry.commit(change)?;
    assert_eq!(
        registry.extras(b"a/")?.into_iter().collect::<Vec<_>>(),
        expected
    );
    assert_eq!(registry.summary()?.extra_count, 5);
    Ok(())
}

/// Later batches and installs do not affect a view.
#[doc(hidden)]
pub fn a_view_stands_still(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    bench.register("a", &["t"])?;
    bench.register("b", &["t"])?;
    let store = Arc::clone(&bench.opened.store);
    let view = store.view()?;
    let before = content(&*view)?;
    bench.apply(remove("a"))?;
    bench.register("b", &["u"])?;
    bench.register("c", &["t"])?;
    assert_eq!(content(&*view)?, before);
    assert_eq!(tagged(&*view, "t")?, ["a", "b"]);
    assert_eq!(view.entry("c")?, None);
    bench.registry.install(SnapshotHeader::default(), [])?;
    assert_eq!(content(&*view)?, before);
    assert_eq!(view.summary()?, before.summary);
    assert_eq!(tagged(&*view, "t")?, ["a", "b"]);
    assert_eq!(bench.count()?, 0);
    Ok(())
}

/// `from` is inclusive, and a visitor that returns `Break` is not called again.
#[doc(hidden)]
pub fn scans_start_where_they_are_told_and_stop(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    for name in ["a", "ab", "ac", "b", "ba"] {
        bench.register(name, &[])?;
    }
    let mut change = bench.registry.begin()?;
    for key in [b"k1", b"k2", b"k3", b"l1"] {
        change.put_extra(key, Vec::new());
    }
    bench.registry.commit(change)?;
    let view = bench.opened.store.view()?;
    for (given, from, limit, expected) in [
        ("", "", 9, &["a", "ab", "ac", "b", "ba"][..]),
        ("", "ab", 9, &["ab", "ac", "b", "ba"]),
        ("", "ab\0", 2, &["ac", "b"]),
        ("a", "", 9, &["a", "ab", "ac"]),
        ("a", "ac", 9, &["ac"]),
        ("a", "b", 9, &[]),
        ("b", "a", 1, &["b"]),
        ("", "c", 9, &[]),
    ] {
        let mut names = Vec::new();
        view.entries(given, from, &mut |name, _| {
            names.push(name.to_owned());
            Ok(stop_if(names.len() == limit))
        })?;
        assert_eq!(names, expected, "prefix {given:?} from {from:?}");
    }
    let mut keys = Vec::new();
    view.extras(b"k", b"k2", &mut |key, _| {
        keys.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    assert_eq!(keys, [b"k2", b"k3"]);
    let error = view.entries("", "", &mut |_, _| Err(StoreError::snapshot("enough")));
    assert!(
        matches!(error, Err(StoreError::Snapshot { .. })),
        "{error:?}"
    );
    Ok(())
}

/// A cursor can continue from anywhere, and stays at the end.
#[doc(hidden)]
pub fn cursors_seek_and_go_on(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    for name in ["a", "c", "e"] {
        bench.register(name, &["t"])?;
    }
    bench.register("d", &["s", "u"])?;
    let view = bench.opened.store.view()?;
    let mut cursor = view.tagged("t")?;
    assert_eq!(cursor.next()?.as_deref(), Some("a"));
    assert_eq!(cursor.next()?.as_deref(), Some("c"));
    assert_eq!(cursor.seek("c")?.as_deref(), Some("c"));
    assert_eq!(cursor.seek("d")?.as_deref(), Some("e"));
    assert_eq!(cursor.next()?, None);
    assert_eq!(cursor.next()?, None);
    assert_eq!(cursor.seek("")?.as_deref(), Some("a"));
    assert_eq!(cursor.seek("f")?, None);
    assert_eq!(view.tagged("no")?.next()?, None);
    assert_eq!(view.tagged("no")?.seek("")?, None);
    Ok(())
}

/// However a state came about, its counts and hash match its content.
#[doc(hidden)]
pub fn the_summary_is_that_of_the_content(open: &Opener<'_>) -> Outcome {
    let mut bench = Bench::new(open);
    for round in 0..3 {
        for name in ["a", "b", "c", "d"] {
            bench.register(name, &["t", &round.to_string()])?;
        }
        bench.apply(remove("b"))?;
        let mut change = bench.registry.begin()?;
        change.put_extra(b"x", vec![round]);
        change.put_extra(&[round], b"y".to_vec());
        change.apply(at(50), &register("b", "PYRO:b@h:1", &[]))?;
        change.apply(at(51), &remove("b"))?;
        change.remove_extra(&[1]);
        bench.registry.commit(change)?;
        let view = bench.opened.store.view()?;
        let mut recounted = Summary::default();
        view.entries("", "", &mut |name, entry| {
            recounted.add_entry(name, &entry.read()?);
            Ok(ControlFlow::Continue(()))
        })?;
        view.extras(b"", b"", &mut |key, value| {
            recounted.add_extra(key, value);
            Ok(ControlFlow::Continue(()))
        })?;
        assert_eq!(bench.registry.summary()?, recounted, "round {round}");
        assert_eq!(view.summary()?, recounted, "round {round}");
    }
    Ok(())
}

/// All entries, tags, extra and meta records are replaced by those of the snapshot, with its revisions.
#[doc(hidden)]
pub fn a_snapshot_replaces_everything(open: &Opener<'_>) -> Outcome {
    let source = filled(open)?;
    for chunk_len in [0, 1, 100, 1 << 20] {
        let mut target = Bench::new(open);
        target.register("old", &["even"])?;
        target.register("name 3", &["old"])?;
        let mut change = target.registry.begin()?;
        change.put_meta(b"old", b"1".to_vec());
        change.put_extra(b"old", b"1".to_vec());
        target.registry.commit(change)?;

        let snapshot = source.registry.snapshot()?;
        let header = SnapshotHeader::decode(&snapshot.header().encode())?;
        target
            .registry
            .install(header, snapshot.chunks(chunk_len))?;

        let expected = content(&*source.opened.store.view()?)?;
        assert_eq!(content(&*target.opened.store.view()?)?, expected);
        assert_eq!(target.registry.meta(b"old")?, None);
        assert_eq!(target.names(any(&["old"]))?, owned(&[]));
        assert_eq!(target.names(all(&["even"]))?, source.names(all(&["even"]))?);
        assert_eq!(target.lookup("old")?, None);
        // The new state accepts changes.
        target.register("later", &["even"])?;
        target.apply(remove("name 4"))?;
        assert_eq!(target.count()?, source.count()?);
        assert_eq!(target.names(all(&["even", "all"]))?.len(), 3);
        assert_eq!(target.names(all(&["even"]))?.len(), 4);
    }
    Ok(())
}

/// Changes after the snapshot was taken are in neither its header nor its chunks.
#[doc(hidden)]
pub fn a_snapshot_describes_one_moment(open: &Opener<'_>) -> Outcome {
    let mut source = filled(open)?;
    let expected = content(&*source.opened.store.view()?)?;
    let snapshot = source.registry.snapshot()?;
    let mut chunks = snapshot.chunks(60);
    let mut sent = vec![chunks.next().expect("a state with entries has a chunk")];
    source.apply(remove_prefix(&["name 3", "name 7"]))?;
    source.register("name 55", &["even"])?;
    let mut change = source.registry.begin()?;
    change.put_meta(b"applied", b"later".to_vec());
    change.remove_extra(b"session 1");
    source.registry.commit(change)?;
    sent.extend(chunks);
    assert!(sent.len() > 3, "the test should send several chunks");
    let target = Bench::new(open);
    target.registry.install(snapshot.header().clone(), sent)?;
    assert_eq!(content(&*target.opened.store.view()?)?, expected);
    Ok(())
}

/// Whatever is wrong with a snapshot, the state is unchanged, and the next good one is installed.
#[doc(hidden)]
pub fn a_bad_snapshot_changes_nothing(open: &Opener<'_>) -> Outcome {
    let source = filled(open)?;
    let snapshot = source.registry.snapshot()?;
    let header = snapshot.header().clone();
    let chunks: Vec<Vec<u8>> = snapshot.chunks(60).collect::<Result<_, _>>()?;
    let mut target = Bench::new(open);
    target.register("old", &["t"])?;
    let before = content(&*target.opened.store.view()?)?;

    let mut altered = chunks.clone();
    if let Some(byte) = altered.last_mut().and_then(|chunk| chunk.last_mut()) {
        *byte ^= 1;
    }
    let mut doubled = chunks.clone();
    doubled.insert(1, chunks.first().cloned().unwrap_or_default());
    let mut swapped = chunks.clone();
    swapped.swap(0, 1);
    let mut truncated = chunks.clone();
    truncated.pop();
    let mut cut = chunks.clone();
    if let Some(chunk) = cut.last_mut() {
        chunk.pop();
    }
    let empty = vec![Vec::new()];
    for bad in [altered, doubled, swapped, truncated, cut, empty, Vec::new()] {
        let result = target
            .registry
            .install(header.clone(), bad.into_iter().map(Ok));
        assert!(
            matches!(result, Err(StoreError::Snapshot { .. })),
            "{result:?}"
        );
        assert_eq!(content(&*target.opened.store.view()?)?, before);
        assert_eq!(target.names(any(&["t"]))?, ["old"]);
    }
    let mut half = target.registry.begin_install(header.clone())?;
    half.chunk(chunks.first().expect("a state with entries has a chunk"))?;
    drop(half);
    assert_eq!(content(&*target.opened.store.view()?)?, before);
    target
        .registry
        .install(header, chunks.into_iter().map(Ok))?;
    assert_eq!(
        content(&*target.opened.store.view()?)?,
        content(&*source.opened.store.view()?)?
    );
    Ok(())
}

/// Returns a registry with eight entries, two extra records and a meta record.
fn filled(open: &Opener<'_>) -> Result<Bench, StoreError> {
    let mut bench = Bench::new(open);
    for number in 0..8 {
        let parity = if number % 2 == 0 { "even" } else { "odd" };
        bench.register(&format!("name {number}"), &[parity, "all"])?;
    }
    let mut change = bench.registry.begin()?;
    change.put_extra(b"session 1", b"replies".to_vec());
    change.put_extra(b"session 2", Vec::new());
    change.put_meta(b"applied", b"8".to_vec());
    bench.registry.commit(change)?;
    Ok(bench)
}

#[derive(Debug, PartialEq)]
struct Content {
    entries: Vec<(Name, Entry)>,
    extras: BTreeMap<Vec<u8>, Vec<u8>>,
    meta: BTreeMap<Vec<u8>, Vec<u8>>,
    summary: Summary,
}

fn content(view: &dyn View) -> Result<Content, StoreError> {
    let mut content = Content {
        entries: Vec::new(),
        extras: BTreeMap::new(),
        meta: BTreeMap::new(),
        summary: view.summary()?,
    };
    view.entries("", "", &mut |name, entry| {
        content.entries.push((name.to_owned(), entry.read()?));
        Ok(ControlFlow::Continue(()))
    })?;
    view.extras(b"", b"", &mut |key, value| {
        content.extras.insert(key.to_vec(), value.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    view.metas(&mut |key, value| {
        content.meta.insert(key.to_vec(), value.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(content)
}

fn tagged(view: &dyn View, tag: &str) -> Result<Vec<Name>, StoreError> {
    let mut cursor = view.tagged(tag)?;
    let mut names = Vec::new();
    while let Some(name) = cursor.next()? {
        names.push(name);
    }
    Ok(names)
}

fn stop_if(enough: bool) -> ControlFlow<()> {
    if enough {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
