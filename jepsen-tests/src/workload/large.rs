//! The workload `large`: registrations of up to 1 MiB, hundreds of registrations in one message, and lists of
//! both.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::slots::Slots;
use super::{Stage, Work, Workload, at_once, by_family, judged};
use crate::check::{self, name};
use crate::client::{Client, long, plain};
use crate::folder::CheckerVerdict;
use crate::history::{Action, Operation, Outcome};

/// The workload.
#[derive(Debug)]
pub struct LargeValues;

const NAME: &str = "large";

/// The length of the longest URI, in bytes: with its name, a registration is just below the default limit.
const URI_LEN_MAX: usize = (1 << 20) - 100;

/// The number of registrations in one message. Each is durable before the next one is made.
const BATCH: std::ops::Range<usize> = 50..250;

/// The longest time that a client waits for the answer to a message.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of names per family that hold large values.
const VALUE_COUNT: u32 = 4;

/// Maximum number of families that a client has used and not yet removed. Other clients may still use a recent
/// one.
const LEFT_COUNT_MAX: usize = 4;

/// Maximum number of families that are listed at the end.
const LISTED_COUNT_MAX: usize = 40;

impl Workload for LargeValues {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "registrations of up to 1 MiB, hundreds of registrations in one message, and lists of both; each name \
         is linearizable, and comes back byte for byte"
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let families = Arc::new(Slots::new(2, 40, 3));
            let clients = (0..stage.clients)
                .map(|number| work(number, Arc::clone(&stage), Arc::clone(&families)));
            at_once(clients).await
        })
    }

    fn final_reads(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let history = stage.recorder.operations();
            let mut families: Vec<&str> = by_family(&history).into_keys().collect();
            let number = |family: &&str| family.rsplit('.').next()?.parse::<u64>().ok();
            families.sort_by_key(|family| std::cmp::Reverse(number(family)));
            families.truncate(LISTED_COUNT_MAX);
            let lists: Vec<Action> = families.into_iter().map(list_of).collect();
            stage.insist_everywhere(&lists).await
        })
    }

    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict> {
        let families = by_family(history);
        let text = format!(
            "{} operations on {} families",
            history.len(),
            families.len()
        );
        let verdict = check::worst(families.values().map(|operations| name::check(operations)));
        vec![judged(
            "large values, linearizable per name",
            NAME,
            verdict,
            text,
        )]
    }
}

fn list_of(family: &str) -> Action {
    Action::List {
        prefix: format!("{family}."),
    }
}

/// Draws the length of a URI: mostly short, sometimes the longest that is allowed.
fn len(random: &mut SmallRng) -> usize {
    match random.random_range(0..10) {
        0..5 => random.random_range(100..8_000),
        5..8 => random.random_range(8_000..200_000),
        8 => random.random_range(200_000..URI_LEN_MAX),
        _ => URI_LEN_MAX,
    }
}

async fn work(number: u32, stage: Arc<Stage>, families: Arc<Slots>) -> crate::Result<()> {
    let mut client = stage.client(number).with_timeout(PATIENCE);
    let mut random = stage.random(number);
    let mut left: VecDeque<u64> = VecDeque::new();
    for round in 0_u64.. {
        if stage.is_over() {
            break;
        }
        stage.wander(&mut client, &mut random);
        let family = families.take(&mut random);
        if !left.contains(&family) {
            left.push_back(family);
        }
        if left.len() > LEFT_COUNT_MAX
            && let Some(last) = left.pop_front()
        {
            // Removals keep the data of the nodes from growing during a long run.
            let remove = Action::RemovePrefix {
                prefix: format!("{NAME}.{last}."),
                by_regex: false,
            };
            client.perform(remove).await;
        }
        let id = format!("{number}-{round}");
        if random.random_ratio(1, 8) {
            let count = many(&mut client, &families, family, &id, &mut random).await;
            // The pause after a batch is an eighth of the pauses after as many single operations.
            let rest = stage.interval * u32::try_from(count / 8).unwrap_or(0);
            tokio::time::sleep(rest).await;
            continue;
        }
        let name = format!("{NAME}.{family}.{}", random.random_range(0..VALUE_COUNT));
        let action = match random.random_range(0..10) {
            0..4 => Action::Register {
                name,
                entry: long(len(&mut random), &id),
                safe: random.random_ratio(1, 3),
            },
            4..7 => Action::Lookup { name },
            7 => Action::Remove { name },
            _ => list_of(&format!("{NAME}.{family}")),
        };
        let told = client.perform(action).await;
        if told.action.is_write() && matches!(told.outcome, Outcome::Unknown(_)) {
            families.lost(family);
        }
        stage.rest_after(&told, &mut random).await;
    }
    Ok(())
}

/// Registers 50 to 249 names in one message and lists them. Returns their number.
async fn many(
    client: &mut Client,
    families: &Slots,
    family: u64,
    id: &str,
    random: &mut SmallRng,
) -> usize {
    let prefix = format!("{NAME}.{family}.{id}-");
    let count = random.random_range(BATCH);
    let entries = (0..count).map(|n| (format!("{prefix}{n}"), plain(format!("PYRO:o{n}@h:1"))));
    if client.register_all(entries.collect()).await > 0 {
        families.lost(family);
    }
    client.perform(Action::List { prefix }).await;
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::ok;
    use crate::folder::Valid;
    use crate::history::{Answer, Entry};

    #[test]
    fn a_value_that_comes_back_damaged_is_found() {
        let name = || "large.7.1".to_owned();
        let register = Action::Register {
            name: name(),
            entry: long(5_000, "1-1"),
            safe: false,
        };
        let lookup = Action::Lookup { name: name() };
        let read = |entry: Entry| ok(2, 4, 5, lookup.clone(), Answer::Entry(Some(entry)));
        let mut history = vec![
            ok(1, 0, 1, register, Answer::Done),
            read(long(5_000, "1-1")),
        ];
        assert_eq!(LargeValues.check(&history)[0].valid, Valid::True);
        history.push(read(plain("damaged, of 4999 bytes: PYRO:long_5000_1-1")));
        assert_eq!(LargeValues.check(&history)[0].valid, Valid::False);
    }
}
