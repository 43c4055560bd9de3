//! The cost of answers depends on what they hold, not on the size of the registry. It is counted in comparisons
//! of keys, which every step of RocksDB makes, so that a slow machine changes nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use hearth_storage::{
    Answer, Command, Filter, IfTaken, Location, Pattern, Query, Registry, Revision, RocksOptions,
    RocksStore,
};
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

const NAME_COUNT: u64 = 20_000;

/// Returns the tags of a name: every name has `common`, every second `half`, every thousandth `rare`, ten
/// others `few`.
fn tags(number: u64) -> Vec<String> {
    let mut tags = vec!["common".to_owned()];
    for (tag, every, rest) in [("half", 2, 0), ("rare", 1000, 0), ("few", 2000, 1)] {
        if number % every == rest {
            tags.push(tag.to_owned());
        }
    }
    tags
}

fn filled() -> Registry {
    let store = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
    let registry = Registry::new(Arc::new(store));
    for hundred in 0..NAME_COUNT / 100 {
        let mut change = registry.begin().unwrap();
        for number in hundred * 100..hundred * 100 + 100 {
            let command = Command::Register {
                name: format!("group{:03}.object{number:05}", number / 20),
                uri: format!("PYRO:obj_{number}@host:4000"),
                tags: tags(number).into_iter().collect(),
                if_taken: IfTaken::Replace,
            };
            change.apply(Revision::new(number, 0), &command).unwrap();
        }
        registry.commit(change).unwrap();
    }
    registry
}

/// Returns the number of key comparisons that `work` makes on this thread, and its result.
fn comparisons<T>(work: impl FnOnce() -> T) -> (u64, T) {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    let result = work();
    let count = context.metric(PerfMetric::UserKeyComparisonCount);
    set_perf_stats(PerfStatsLevel::Disable);
    (count, result)
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[test]
fn lists_cost_what_they_return() {
    let registry = filled();
    // A full list touches everything, which shows that the measure works.
    let all = Query::List(Filter::All);
    let (cost, answer) = comparisons(|| registry.answer(&all).unwrap());
    assert!(matches!(answer, Answer::Entries(entries) if entries.len() as u64 == NAME_COUNT));
    assert!(cost >= NAME_COUNT, "a full list cost {cost}");

    // A seek costs some tens of comparisons, a step a few.
    let seek = 200;
    let step = 10;
    for (filter, found, steps) in [
        (Filter::Prefix(owned(&["group007."])), 20, 20),
        (
            Filter::Prefix(owned(&["group007.", "group9", "group00"])),
            2_200,
            2_200,
        ),
        (Filter::Prefix(owned(&["no such"])), 0, 0),
        (
            Filter::Regex(Pattern::parse("group007[.].*5$").unwrap()),
            2,
            20,
        ),
        (Filter::TagsAll(owned(&["rare"])), 20, 20),
        (Filter::TagsAll(owned(&["no such"])), 0, 0),
        // The rarest tag bounds the work, whatever its position in the filter.
        (Filter::TagsAll(owned(&["common", "half", "rare"])), 20, 60),
        (Filter::TagsAll(owned(&["rare", "common"])), 20, 40),
        (Filter::TagsAll(owned(&["few", "half"])), 0, 20),
        (Filter::TagsAll(owned(&["common", "no such"])), 0, 2),
        (Filter::TagsAny(owned(&["rare", "few", "no such"])), 30, 30),
    ] {
        let query = Query::List(filter.clone());
        let (cost, answer) = comparisons(|| registry.answer(&query).unwrap());
        let Answer::Entries(entries) = answer else {
            panic!("a list was answered with {answer:?}");
        };
        assert_eq!(entries.len(), found, "{filter:?}");
        // Lists by tag and leapfrogging seek once for each name they visit.
        let by_tag = matches!(filter, Filter::TagsAll(_) | Filter::TagsAny(_));
        let seeks = 3 + if by_tag { 2 * steps } else { 0 };
        let limit = seeks * seek + steps * step;
        assert!(cost < limit, "{filter:?} cost {cost}, the limit is {limit}");
        assert!(
            limit < NAME_COUNT * 2,
            "the limit {limit} would allow a full scan"
        );
    }
}

#[test]
fn look_ups_and_counts_cost_the_same_at_any_size() {
    let registry = filled();
    for name in ["group007.object00149", "absent"] {
        let query = Query::Lookup(name.to_owned());
        let (cost, _) = comparisons(|| registry.answer(&query).unwrap());
        assert!(cost < 100, "looking {name} up cost {cost}");
    }
    let (cost, answer) = comparisons(|| registry.answer(&Query::Count).unwrap());
    assert_eq!(answer, Answer::Count(NAME_COUNT));
    assert!(cost < 100, "a count cost {cost}");
}

#[test]
fn removal_by_prefix_costs_what_it_removes() {
    let registry = filled();
    let mut change = registry.begin().unwrap();
    let command = Command::RemovePrefix {
        prefixes: owned(&["group007."]),
    };
    let (cost, _) = comparisons(|| {
        change
            .apply(Revision::new(NAME_COUNT, 0), &command)
            .unwrap()
    });
    assert!(cost < 22 * 200, "removing 20 names cost {cost}");
}
