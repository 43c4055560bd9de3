//! Detection of nodes whose states differ although they have applied the same log. That must never happen, and
//! no client could notice it, because each of these nodes answers as if all were well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The state of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held<'a> {
    pub(crate) node_id: u64,
    /// The version of the program and of the peer protocol. Nodes with different ones may hold different
    /// states.
    pub(crate) program: (&'a str, u32),
    /// Index of the last applied log entry.
    pub(crate) index: u64,
    /// Hash of the state at that index.
    pub(crate) hash: &'a str,
}

/// Returns a sentence for each index at which nodes with the same program hold different states.
pub(crate) fn divergences<'a>(held: impl IntoIterator<Item = Held<'a>>) -> Vec<String> {
    type Holders<'a> = BTreeMap<&'a str, Vec<u64>>;
    let mut by_index: BTreeMap<(u64, (&str, u32)), Holders<'_>> = BTreeMap::new();
    for held in held {
        let holders = by_index.entry((held.index, held.program)).or_default();
        holders.entry(held.hash).or_default().push(held.node_id);
    }
    let differ = by_index.iter().filter(|(_, holders)| holders.len() > 1);
    differ
        .map(|((index, _), holders)| sentence(*index, holders))
        .collect()
}

fn sentence(index: u64, holders: &BTreeMap<&str, Vec<u64>>) -> String {
    let groups: Vec<String> = holders
        .iter()
        .map(|(hash, nodes)| {
            let ids: Vec<String> = nodes.iter().map(u64::to_string).collect();
            let nodes = if ids.len() == 1 { "node" } else { "nodes" };
            format!("{nodes} {} the state {hash}", ids.join(" and "))
        })
        .collect();
    format!(
        "at log index {index} {}: one of them is wrong, and its clients are; remove the node that differs from most \
         (nsctl cluster remove ID) and add it again with an empty data directory",
        groups.join(", ")
    )
}

/// The differences found by the last comparison. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found(Arc<Mutex<Vec<String>>>);

impl Found {
    /// Returns the differences as sentences for operators.
    pub(crate) fn alarms(&self) -> Vec<String> {
        self.lock().clone()
    }

    pub(crate) fn set(&self, alarms: Vec<String>) {
        *self.lock() = alarms;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(node_id: u64, index: u64, hash: &str) -> Held<'_> {
        Held {
            node_id,
            program: ("1.0", 3),
            index,
            hash,
        }
    }

    #[test]
    fn states_that_differ_at_one_index_are_told() {
        let found = divergences([held(1, 10, "aa"), held(2, 10, "bb"), held(3, 10, "aa")]);
        assert_eq!(found.len(), 1, "{found:?}");
        let start = "at log index 10 nodes 1 and 3 the state aa, node 2 the state bb: ";
        assert!(found[0].starts_with(start), "{found:?}");
    }

    #[test]
    fn nothing_is_compared_that_may_differ() {
        for states in [
            vec![held(1, 10, "aa"), held(2, 10, "aa")],
            // One node is behind.
            vec![held(1, 10, "aa"), held(2, 9, "bb")],
            // One node runs another program.
            vec![
                held(1, 10, "aa"),
                Held {
                    program: ("1.0", 2),
                    ..held(2, 10, "bb")
                },
            ],
            vec![held(1, 10, "aa")],
        ] {
            assert_eq!(
                divergences(states.clone()),
                Vec::<String>::new(),
                "{states:?}"
            );
        }
    }
}
