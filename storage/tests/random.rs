//! Random commands and questions, against the rules written down a second time over plain maps.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_storage::{
    Answer, Command, Entry, Filter, IfTaken, Location, Name, Pattern, Query, Refusal, Registry,
    Reply, RocksOptions, RocksStore, Summary, Tags,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

/// The rules, as simply as they can be said.
#[derive(Default)]
struct Rules(BTreeMap<Name, Entry>);

impl Rules {
    fn apply(&mut self, revision: u64, command: &Command) -> Reply {
        match command.clone() {
            Command::Register {
                name,
                uri,
                tags,
                if_taken,
            } => {
                if let (IfTaken::Refuse, Some(taken)) = (if_taken, self.0.get(&name)) {
                    let uri = taken.uri.clone();
                    return Reply::Refused(Refusal::NameTaken { uri });
                }
                let entry = Entry {
                    uri,
                    tags,
                    revision,
                };
                self.0.insert(name, entry);
                Reply::Done
            }
            Command::SetMetadata { name, tags } => match self.0.get_mut(&name) {
                Some(entry) => {
                    entry.tags = tags;
                    entry.revision = revision;
                    Reply::Done
                }
                None => Reply::Refused(Refusal::UnknownName),
            },
            Command::Remove { name } => self.remove(|n, _| *n == name),
            Command::RemoveIf { name, uri } => self.remove(|n, e| *n == name && e.uri == uri),
            Command::RemovePrefix { prefixes } => {
                self.remove(|n, _| prefixes.iter().any(|p| n.starts_with(p)))
            }
            Command::RemoveRegex { pattern } => self.remove(|n, _| matches(&pattern, n)),
        }
    }

    fn remove(&mut self, condition: impl Fn(&Name, &Entry) -> bool) -> Reply {
        let before = self.0.len();
        self.0.retain(|name, entry| !condition(name, entry));
        Reply::Removed((before - self.0.len()) as u64)
    }

    fn list(&self, condition: impl Fn(&Name, &Entry) -> bool) -> Answer {
        let all = self.0.iter();
        let some = all.filter(|(name, entry)| condition(name, entry));
        Answer::Entries(some.map(|(n, e)| (n.clone(), e.clone())).collect())
    }

    fn answer(&self, query: &Query) -> Answer {
        match query {
            Query::Count => Answer::Count(self.0.len() as u64),
            Query::Lookup(name) => Answer::Entry(self.0.get(name).cloned()),
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
        for (name, entry) in self.0.iter().rev() {
            summary.add_entry(name, entry);
        }
        for (key, value) in extras {
            summary.add_extra(key, value);
        }
        summary
    }
}

/// The patterns that are used, and what they mean.
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

/// Few letters, so that names, prefixes and tags meet often. No newline: `.` does not match one.
fn text() -> impl Strategy<Value = String> {
    "[ab\0\u{e9}\u{10ffff}]{0,4}"
}

fn tags() -> impl Strategy<Value = Tags> {
    btree_set(prop_oneof!["[xyz]", text()], 0..4)
}

fn uri() -> impl Strategy<Value = String> {
    "PYRO:[ab]@h:[1-3]"
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
    ]
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
    /// A snapshot of the registry is installed in its own place.
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
    let store = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
    Registry::new(Arc::new(store))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_registry_follows_the_rules(steps in vec(step(), 1..25)) {
        let registry = memory();
        let mut rules = Rules::default();
        let mut extras = BTreeMap::new();
        let mut revision = 0;
        for step in steps {
            match step {
                Step::Batch(commands, records) => {
                    let mut change = registry.begin().unwrap();
                    for command in commands {
                        revision += 1;
                        let reply = change.apply(revision, &command).unwrap();
                        prop_assert_eq!(reply, rules.apply(revision, &command), "{:?}", command);
                    }
                    for (key, value) in records {
                        match value {
                            Some(value) => {
                                change.put_extra(&[key], vec![value]).unwrap();
                                extras.insert(vec![key], vec![value]);
                            }
                            None => {
                                change.remove_extra(&[key]).unwrap();
                                extras.remove(&vec![key]);
                            }
                        }
                    }
                    prop_assert_eq!(&change.extras(b"").unwrap(), &extras);
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
            prop_assert_eq!(registry.summary().unwrap(), rules.summary(&extras));
            prop_assert_eq!(&registry.extras(b"").unwrap(), &extras);
        }
        let all = Query::List(Filter::All);
        prop_assert_eq!(registry.answer(&all).unwrap(), rules.answer(&all));
    }

    /// However the log is cut into batches, and from wherever in its past a node replays it, the
    /// replies and the state are the same.
    #[test]
    fn batches_and_replays_make_no_difference(
        commands in vec(command(), 1..60),
        cuts in vec(1..6usize, 60),
        restart in 0..60usize,
    ) {
        let one_by_one = memory();
        let mut replies = Vec::new();
        let mut states = vec![one_by_one.snapshot().unwrap()];
        for (index, command) in commands.iter().enumerate() {
            let mut change = one_by_one.begin().unwrap();
            replies.push(change.apply(index as u64, command).unwrap());
            one_by_one.commit(change).unwrap();
            states.push(one_by_one.snapshot().unwrap());
        }
        // A node that starts with the state at `restart` and applies the rest, in batches.
        let restart = restart.min(commands.len());
        let replayed = memory();
        let start = &states[restart];
        replayed.install(start.header().clone(), start.chunks(100)).unwrap();
        let mut at = restart;
        for len in cuts {
            let mut change = replayed.begin().unwrap();
            for _ in 0..len {
                let Some(command) = commands.get(at) else { break };
                prop_assert_eq!(&change.apply(at as u64, command).unwrap(), &replies[at]);
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
