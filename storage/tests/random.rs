//! Random commands and queries, compared with a second implementation of the rules over plain maps.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_storage::{
    Answer, Command, Entry, Filter, IfTaken, Location, Name, Pattern, Query, RULES, Refusal,
    Registry, Reply, Revision, RocksOptions, RocksStore, Summary, Tags,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

/// The rules, implemented as simply as possible.
#[derive(Default)]
struct Rules {
    entries: BTreeMap<Name, Entry>,
    /// Index of the log entry that put [`RULES`] in force.
    since: Option<u64>,
}

impl Rules {
    fn apply(&mut self, revision: Revision, command: &Command) -> Reply {
        let old = Revision::new(revision.index, 0);
        let stamp = |before: Option<&Entry>| match (self.since, before) {
            (None, _) => (old, old),
            (Some(_), Some(entry)) => (revision, entry.created),
            (Some(_), None) => (revision, revision),
        };
        match command.clone() {
            Command::Register {
                name,
                uri,
                tags,
                if_taken,
            } => {
                if if_taken == IfTaken::Refuse && self.entries.contains_key(&name) {
                    return Reply::Refused(Refusal::name_taken());
                }
                let (revision, created) = stamp(self.entries.get(&name));
                let entry = Entry {
                    uri,
                    tags,
                    revision,
                    created,
                };
                self.entries.insert(name, entry);
                Reply::Done
            }
            Command::SetMetadata { name, tags } => {
                let (revision, created) = stamp(self.entries.get(&name));
                let Some(entry) = self.entries.get_mut(&name) else {
                    return Reply::Refused(Refusal::UnknownName);
                };
                entry.tags = tags;
                (entry.revision, entry.created) = (revision, created);
                Reply::Done
            }
            Command::Remove { name } => self.remove(|n, _| *n == name),
            Command::RemoveIf { name, uri } => self.remove(|n, e| *n == name && e.uri == uri),
            Command::RemovePrefix { prefixes } => {
                self.remove(|n, _| prefixes.iter().any(|p| n.starts_with(p)))
            }
            Command::RemoveRegex { pattern } => self.remove(|n, _| matches(&pattern, n)),
            Command::UseRules { .. } => {
                self.since.get_or_insert(revision.index);
                Reply::Done
            }
            Command::RemoveIfUnchanged { name, revision } => {
                self.remove(|n, e| *n == name && e.revision == revision)
            }
            Command::RemoveListed {
                names,
                prefix,
                as_of,
            } => {
                let is_known = self.since.is_some_and(|since| as_of.index >= since);
                let came = |(name, entry): (&Name, &Entry)| {
                    name.starts_with(&prefix) && entry.created > as_of
                };
                if !is_known || self.entries.iter().any(came) {
                    return Reply::Refused(Refusal::Changed);
                }
                self.remove(|n, _| names.contains(n))
            }
        }
    }

    fn remove(&mut self, condition: impl Fn(&Name, &Entry) -> bool) -> Reply {
        let before = self.entries.len();
        self.entries.retain(|name, entry| !condition(name, entry));
        Reply::Removed((before - self.entries.len()) as u64)
    }

    fn list(&self, condition: impl Fn(&Name, &Entry) -> bool) -> Answer {
        let all = self.entries.iter();
        let some = all.filter(|(name, entry)| condition(name, entry));
        let mut some: Vec<_> = some.map(|(n, e)| (n.clone(), e.clone())).collect();
        some.sort_by_key(|(_, entry)| entry.created);
        Answer::Entries(some.into_iter().collect())
    }

    fn answer(&self, query: &Query) -> Answer {
        match query {
            Query::Count => Answer::Count(self.entries.len() as u64),
            Query::Lookup(name) => Answer::Entry(self.entries.get(name).cloned()),
            Query::List(filter) => match filter {
                Filter::All => self.list(|_, _| true),
                Filter::Prefix(prefixes) => {
                    self.list(|name, _| prefixes.iter().any(|p| name.starts_with(p)))
                }
                Filter::Regex(pattern) => self.list(|name, _| matches(pattern.source(), name)),
                Filter::TagsAll(tags) => {
                    self.list(|_, entry| tags.iter().all(|tag| entry.tags.contains(tag)))
                }
                Filter::TagsAny(tags) => {
                    self.list(|_, entry| tags.iter().any(|tag| entry.tags.contains(tag)))
                }
            },
        }
    }

    fn summary(&self, extras: &BTreeMap<Vec<u8>, Vec<u8>>) -> Summary {
        let mut summary = Summary::default();
        for (name, entry) in self.entries.iter().rev() {
            summary.add_entry(name, entry);
        }
        for (key, value) in extras {
            summary.add_extra(key, value);
        }
        summary
    }
}

/// The patterns that are used; `matches` defines their meaning.
const PATTERNS: [&str; 5] = ["", "a", "a.*b$", "[ab]{2}", "\u{e9}|b"];

fn matches(pattern: &str, name: &str) -> bool {
    let two = name.chars().take(2).collect::<String>();
    match pattern {
        "" => true,
        "a" => name.starts_with('a'),
        "a.*b$" => name.len() > 1 && name.starts_with('a') && name.ends_with('b'),
        "[ab]{2}" => ["aa", "ab", "ba", "bb"].contains(&two.as_str()),
        "\u{e9}|b" => name.starts_with(['\u{e9}', 'b']),
        other => panic!("{other} has no meaning here"),
    }
}

/// Generates texts of few letters, so that names, prefixes and tags often meet. There is no
/// newline: `.` does not match one.
fn text() -> impl Strategy<Value = String> {
    "[ab\0\u{e9}\u{10ffff}]{0,4}"
}

fn tags() -> impl Strategy<Value = Tags> {
    btree_set(prop_oneof!["[xyz]", text()], 0..4)
}

/// Generates URIs, sometimes one so long that three of them make a large removal.
fn uri() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "PYRO:[ab]@h:[1-3]",
        1 => "PYRO:[ab]@".prop_map(|uri| uri + &"h".repeat(25_000) + ":1"),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let if_taken = prop_oneof![Just(IfTaken::Replace), Just(IfTaken::Refuse)];
    let register = (text(), uri(), tags(), if_taken);
    prop_oneof![
        6 => register.prop_map(|(name, uri, tags, if_taken)| Command::Register {
            name,
            uri,
            tags,
            if_taken,
        }),
        2 => (text(), tags()).prop_map(|(name, tags)| Command::SetMetadata { name, tags }),
        2 => text().prop_map(|name| Command::Remove { name }),
        1 => (text(), uri()).prop_map(|(name, uri)| Command::RemoveIf { name, uri }),
        1 => vec("[ab\0\u{e9}\u{10ffff}]{1,2}", 0..3)
            .prop_map(|prefixes| Command::RemovePrefix { prefixes }),
        1 => prop::sample::select(&PATTERNS[1..]).prop_map(|pattern| Command::RemoveRegex {
            pattern: pattern.to_owned(),
        }),
        1 => Just(Command::UseRules { rules: RULES }),
        1 => (text(), revision()).prop_map(|(name, revision)| Command::RemoveIfUnchanged {
            name,
            revision,
        }),
        2 => (vec(text(), 0..4), "[ab\0]{0,1}", revision()).prop_map(|(names, prefix, as_of)| {
            Command::RemoveListed {
                names: names.into_iter().map(|name| format!("{prefix}{name}")).collect(),
                prefix,
                as_of: Revision::end_of(as_of.index),
            }
        }),
    ]
}

/// Generates a revision that a command of the test may well have, or nearly.
fn revision() -> impl Strategy<Value = Revision> {
    (0..40u64, 0..3u32).prop_map(|(index, position)| Revision::new(index, position))
}

/// Returns the revision of command `number`: there are three commands to a log entry.
fn nth(number: usize) -> Revision {
    Revision::new(number as u64 / 3, (number % 3) as u32)
}

fn query() -> impl Strategy<Value = Query> {
    let some = || vec(prop_oneof!["[xyz]", text()], 0..4);
    let filter = prop_oneof![
        Just(Filter::All),
        vec(text(), 0..4).prop_map(Filter::Prefix),
        prop::sample::select(&PATTERNS[..])
            .prop_map(|pattern| Filter::Regex(Pattern::parse(pattern).unwrap())),
        some().prop_map(Filter::TagsAll),
        some().prop_map(Filter::TagsAny),
    ];
    prop_oneof![
        1 => Just(Query::Count),
        2 => text().prop_map(Query::Lookup),
        4 => filter.prop_map(Query::List),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    /// Commands, and extra records that are put or removed with them.
    Batch(Vec<Command>, Vec<(u8, Option<u8>)>),
    /// Installs a snapshot of the registry in the registry itself.
    Reinstall,
    Ask(Query),
}

fn step() -> impl Strategy<Value = Step> {
    let extras = vec((0..4u8, prop::option::of(any::<u8>())), 0..3);
    prop_oneof![
        6 => (vec(command(), 0..8), extras).prop_map(|(commands, extras)| Step::Batch(commands, extras)),
        5 => query().prop_map(Step::Ask),
        1 => Just(Step::Reinstall),
    ]
}

fn memory() -> Registry {
    memory_that_erases(Duration::ZERO)
}

/// Returns a registry that erases removed entries in batches, each after a pause of `erase_pause`.
fn memory_that_erases(erase_pause: Duration) -> Registry {
    let options = RocksOptions {
        erase_pause,
        ..RocksOptions::default()
    };
    let store = RocksStore::open(&Location::Memory, &options).unwrap();
    Registry::new(Arc::new(store))
}

/// A pause longer than any test.
const LATE: Duration = Duration::from_secs(3600);

/// Returns the extra records that the test has put: they have keys of one byte, unlike the
/// registry's own.
fn own_extras(mut extras: BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    extras.retain(|key, _| key.len() == 1);
    extras
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_registry_follows_the_rules(steps in vec(step(), 1..25), late in any::<bool>()) {
        let registry = memory_that_erases(if late { LATE } else { Duration::ZERO });
        let mut rules = Rules::default();
        let mut extras = BTreeMap::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Batch(commands, records) => {
                    let mut change = registry.begin().unwrap();
                    for command in commands {
                        number += 1;
                        let revision = nth(number);
                        let reply = change.apply(revision, &command).unwrap();
                        prop_assert_eq!(reply, rules.apply(revision, &command), "{:?}", command);
                    }
                    for (key, value) in records {
                        match value {
                            Some(value) => {
                                change.put_extra(&[key], vec![value]);
                                extras.insert(vec![key], vec![value]);
                            }
                            None => {
                                change.remove_extra(&[key]);
                                extras.remove(&vec![key]);
                            }
                        }
                    }
                    prop_assert_eq!(&own_extras(change.extras(b"")), &extras);
                    registry.commit(change).unwrap();
                }
                Step::Reinstall => {
                    let snapshot = registry.snapshot().unwrap();
                    let header = snapshot.header().clone();
                    registry.install(header, snapshot.chunks(64)).unwrap();
                }
                Step::Ask(query) => {
                    let answer = registry.answer(&query).unwrap();
                    prop_assert_eq!(answer, rules.answer(&query), "{:?}", query);
                }
            }
            let all = registry.extras(b"").unwrap();
            prop_assert_eq!(registry.summary().unwrap(), rules.summary(&all));
            prop_assert_eq!(&own_extras(all), &extras);
            prop_assert_eq!(registry.rules().unwrap(), if rules.since.is_some() { RULES } else { 1 });
        }
        let all = Query::List(Filter::All);
        prop_assert_eq!(registry.answer(&all).unwrap(), rules.answer(&all));
    }

    /// Replies and state do not depend on how the log is cut into batches, nor on the point in its
    /// past from which a node replays it.
    #[test]
    fn batches_and_replays_make_no_difference(
        commands in vec(command(), 1..60),
        cuts in vec(1..6usize, 60),
        restart in 0..60usize,
    ) {
        let one_by_one = memory_that_erases(LATE);
        let mut replies = Vec::new();
        let mut states = vec![one_by_one.snapshot().unwrap()];
        for (index, command) in commands.iter().enumerate() {
            let mut change = one_by_one.begin().unwrap();
            replies.push(change.apply(nth(index), command).unwrap());
            one_by_one.commit(change).unwrap();
            states.push(one_by_one.snapshot().unwrap());
        }
        // This node starts with the state at `restart` and applies the rest, in batches.
        let restart = restart.min(commands.len());
        let replayed = memory();
        let start = &states[restart];
        replayed.install(start.header().clone(), start.chunks(100)).unwrap();
        let mut at = restart;
        for len in cuts {
            let mut change = replayed.begin().unwrap();
            for _ in 0..len {
                let Some(command) = commands.get(at) else { break };
                prop_assert_eq!(&change.apply(nth(at), command).unwrap(), &replies[at]);
                at += 1;
            }
            replayed.commit(change).unwrap();
            prop_assert_eq!(replayed.summary().unwrap(), states[at].header().summary);
        }
        prop_assert_eq!(at, commands.len());
        let all = Query::List(Filter::All);
        prop_assert_eq!(replayed.answer(&all).unwrap(), one_by_one.answer(&all).unwrap());
    }
}
