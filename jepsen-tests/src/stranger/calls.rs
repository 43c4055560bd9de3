//! Well-formed calls of any method with any arguments.
//!
//! Every name, prefix and pattern that selects names to change begins with [`OWN`].

use std::net::SocketAddr;

use hearth_cli::wire::{Call, Flags, Value};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::line::{Line, PLAIN, dialect, flags};
use super::{OWN, Tally};

pub(super) const NAME_SERVER: &str = "Pyro.NameServer";
const DAEMON: &str = "Pyro.Daemon";
const CLUSTER: &str = "Hearth.Cluster";

/// Methods that change the cluster, or sound as if they did.
const ADMINISTRATION: [&str; 5] = ["add", "promote", "remove", "transfer_leader", "authorize"];

/// Members that must not be called, or that do not exist.
const NO_METHODS: [&str; 14] = [
    "",
    "__class__",
    "__dict__",
    "__getattr__",
    "__setattr__",
    "__init__",
    "_pyroId",
    "<batch>",
    "storage",
    "daemon",
    "shutdown",
    "list\nnode 1 was removed from this cluster",
    "réġister",
    "remove_force",
];

/// Returns a costly pattern: unbounded work for a backtracking engine, unbounded size for an automaton, or
/// great depth for a parser. Removals put it between brackets, so its own brackets must be balanced.
fn patterns_of(random: &mut SmallRng) -> String {
    let count = *[45, 190, 1_000, 5_000].choose(random).unwrap_or(&45);
    match random.random_range(0..16) {
        0 => r"x(a*)*\1b".to_owned(),
        1 => r"(a*)*\1b".to_owned(),
        2 => "[ab]*a[ab]{2000}c".to_owned(),
        3 => "[ab]*a[ab]{50000}c".to_owned(),
        4 => format!("{}a{}", "(".repeat(count), ")".repeat(count)),
        5 => format!("{}a{}", "(?:".repeat(count), ")*".repeat(count)),
        6 => "(?:a?){3000}a{3000}".to_owned(),
        7 => r"(?=(a+))\1*b".to_owned(),
        8 => ".*.*.*.*.*.*.*.*b".to_owned(),
        9 => r"(?:\w{1,1000}\d{1,1000}){100}z".to_owned(),
        10 => "a{1000000000}".to_owned(),
        11 => r"(?i)(?:İ|ß|ſ)*\b\Bq".to_owned(),
        12 => "(?P<n>a)(?P=n)(?P=n)*(?(n)b|c)".to_owned(),
        13 => format!("(?:{}b)", "a|".repeat(20_000)),
        14 => format!("{}b", "a*".repeat(2_000)),
        _ => format!("[{}]", "a-z".repeat(5_000)),
    }
}

/// Returns a name that belongs to the strangers.
fn own_name(random: &mut SmallRng) -> String {
    let number = random.random_range(0..40);
    match random.random_range(0..6) {
        0 => format!("{OWN}\n2026-11-30T20:00:00Z ERROR node {number} was removed\u{1b}[31m"),
        1 => format!("{OWN}{}", "n".repeat(number * 1_000)),
        2 => format!("{OWN}\0\u{1f525}é{number}"),
        _ => format!("{OWN}{number}"),
    }
}

/// Returns a value of a random type; each text in it begins with `start`.
fn value(start: &str, depth: u32, random: &mut SmallRng) -> Value {
    let few = |random: &mut SmallRng| {
        let count = random.random_range(0..6);
        (0..count)
            .map(|_| value(start, depth + 1, random))
            .collect::<Vec<_>>()
    };
    let kind = random.random_range(0..if depth > 3 { 9 } else { 14 });
    match kind {
        0 => Value::None,
        1 => Value::Bool(random.random()),
        2 | 3 => {
            let ints = [0, 1, 2, 3, 4, 9, -1, 1 << 53, i64::MAX, i64::MIN];
            Value::Int(*ints.choose(random).unwrap_or(&0))
        }
        4 => Value::Float(
            *[f64::NAN, f64::INFINITY, -0.0, 1e308]
                .choose(random)
                .unwrap_or(&0.0),
        ),
        5 => Value::Str(format!("{start}{}", random.random_range(0..40))),
        6 => Value::Str(format!(
            "{start}{}",
            "x".repeat(random.random_range(0..60_000))
        )),
        7 => {
            let mut bytes = start.as_bytes().to_vec();
            bytes.extend((0..20).map(|_| random.random::<u8>()));
            Value::Bytes(bytes)
        }
        8 => {
            let start = start.chars().map(u32::from);
            Value::SurrogateStr(
                start
                    .chain([0xd800 + random.random_range(0..0x800)])
                    .collect(),
            )
        }
        9 => Value::List(few(random)),
        10 => Value::Tuple(few(random)),
        11 => Value::Set(vec![value(start, 4, random)]),
        12 => {
            let values = few(random);
            let keys = (0..).map(|number| Value::Str(format!("{start}{number}")));
            Value::Dict(keys.zip(values).collect())
        }
        _ => {
            let deep = random.random_range(10..260);
            let inner = value(start, 4, random);
            (0..deep).fold(inner, |inner, _| Value::List(vec![inner]))
        }
    }
}

/// Returns arguments for a method, occasionally too few or too many.
fn arguments(object: &str, method: &str, random: &mut SmallRng) -> Vec<Value> {
    let own = |random: &mut SmallRng| match random.random_ratio(2, 3) {
        true => Value::Str(own_name(random)),
        false => value(OWN, 0, random),
    };
    let mut args = match (object, method) {
        (NAME_SERVER, "register") => vec![
            own(random),
            match random.random_ratio(1, 2) {
                true => format!("PYRO:{OWN}o@h:{}", random.random_range(0..70_000)).into(),
                false => value("PYRO:", 0, random),
            },
            value(OWN, 0, random),
            value(OWN, 0, random),
        ],
        (NAME_SERVER, "set_metadata") => vec![own(random), value(OWN, 0, random)],
        (NAME_SERVER, "remove") => match random.random_range(0..3) {
            0 => vec![own(random)],
            1 => vec![Value::None, own(random)],
            _ => vec![Value::None, Value::None, own_pattern(random).into()],
        },
        _ => {
            let count = random.random_range(0..4);
            (0..count).map(|_| value("", 0, random)).collect()
        }
    };
    if random.random_ratio(1, 10) {
        args.truncate(random.random_range(0..=args.len()));
    }
    if random.random_ratio(1, 20) {
        args.extend((0..30).map(|_| Value::Str(OWN.to_owned())));
    }
    args
}

/// Returns a pattern that matches only names of the strangers.
fn own_pattern(random: &mut SmallRng) -> String {
    format!("stranger\\.(?:{})", patterns_of(random))
}

fn object_and_method(random: &mut SmallRng) -> (Value, &'static str) {
    let of_name_server = [
        "count",
        "list",
        "lookup",
        "ping",
        "register",
        "remove",
        "set_metadata",
        "yplookup",
    ];
    let of_daemon = [
        "close_stream",
        "get_metadata",
        "get_next_stream_item",
        "info",
        "ping",
        "registered",
    ];
    let of_cluster = ["status", "members", "health", "challenge"];
    let (object, methods): (Value, &[&str]) = match random.random_range(0..10) {
        0..5 => (NAME_SERVER.into(), &of_name_server),
        5..7 => (DAEMON.into(), &of_daemon),
        7 => (CLUSTER.into(), &of_cluster),
        8 => (CLUSTER.into(), &ADMINISTRATION),
        // An object that another release may have, one that does not exist, and one whose name is not a text.
        _ => match random.random_range(0..3) {
            0 => ("Hearth.Registry".into(), &of_name_server),
            1 => (format!("{OWN}{}", "o".repeat(10_000)).into(), &of_cluster),
            _ => (value(OWN, 0, random), &of_name_server),
        },
    };
    let methods = if random.random_ratio(1, 8) {
        &NO_METHODS
    } else {
        methods
    };
    (object, methods.choose(random).copied().unwrap_or("ping"))
}

pub(super) async fn any(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    let (object, _) = object_and_method(random);
    let mut line = match Line::greeted(at, dialect(random), object).await {
        Ok(line) => line,
        Err(error) => {
            tally.failed(&error);
            return tally;
        }
    };
    for _ in 0..random.random_range(1..8) {
        let (object, method) = object_and_method(random);
        let args = arguments(object.as_str().unwrap_or_default(), method, random);
        if let Err(error) = one(&mut line, object, method, args, random, &mut tally).await {
            tally.failed(&error);
            break;
        }
    }
    tally
}

async fn one(
    line: &mut Line,
    object: Value,
    method: &str,
    args: Vec<Value>,
    random: &mut SmallRng,
    tally: &mut Tally,
) -> std::io::Result<()> {
    let is_administration = object.as_str() == Some(CLUSTER) && ADMINISTRATION.contains(&method);
    let mut call = Call::new("", method, args);
    call.object = object;
    if random.random_ratio(1, 20) {
        let name = *["self", "name", "bogus", "node_id"]
            .choose(random)
            .unwrap_or(&"self");
        call.kwargs = Value::Dict(vec![(name.into(), value(OWN, 0, random))]);
    }
    let result = line.call(&call, flags(random), tally).await?;
    if let (true, Some(result)) = (is_administration, result)
        && result != Value::Bool(false)
    {
        tally.wrong.push(format!(
            "a stranger's {method}{:?} is carried out, with the result {result:?}",
            call.args
        ));
    }
    Ok(())
}

/// Asks for changes of the cluster, each with arguments that could be valid.
pub(super) async fn administration(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    let told = async {
        let mut line = Line::greeted(at, dialect(random), CLUSTER.into()).await?;
        let challenge = Call::new(CLUSTER, "challenge", Vec::new());
        line.call(&challenge, Flags::default(), &mut tally).await?;
        for _ in 0..6 {
            let method = *ADMINISTRATION.choose(random).unwrap_or(&"add");
            let id = Value::Int(*[1, 2, 3, 4, 5, 99, 1 << 53].choose(random).unwrap_or(&1));
            let args = match method {
                "authorize" => vec![format!("{:064x}", random.random::<u128>()).into()],
                "remove" if random.random() => vec![id, Value::Bool(true)],
                "add" | "transfer_leader" if random.random() => Vec::new(),
                _ => vec![id],
            };
            one(&mut line, CLUSTER.into(), method, args, random, &mut tally).await?;
        }
        std::io::Result::Ok(())
    };
    if let Err(error) = told.await {
        tally.failed(&error);
    }
    tally
}

/// Registers names that make costly patterns expensive, and then lists and removes by such patterns.
pub(super) async fn patterns(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    let told = async {
        let mut line = Line::greeted(at, PLAIN, NAME_SERVER.into()).await?;
        let number = random.random_range(0..50);
        let long = "ab".repeat(*[33, 1_000, 100_000].choose(random).unwrap_or(&33));
        for tail in [
            format!("x{}{number}", "a".repeat(66)),
            format!("{long}{number}"),
        ] {
            let args = vec![format!("{OWN}{tail}").into(), "PYRO:o@h:1".into()];
            let register = Call::new(NAME_SERVER, "register", args);
            line.call(&register, Flags::default(), &mut tally).await?;
        }
        for _ in 0..3 {
            let list = match random.random() {
                true => patterns_of(random),
                false => own_pattern(random),
            };
            let list = Call::new(NAME_SERVER, "list", vec![Value::None, list.into()]);
            line.call(&list, Flags::default(), &mut tally).await?;
        }
        let args = vec![Value::None, Value::None, own_pattern(random).into()];
        let remove = Call::new(NAME_SERVER, "remove", args);
        line.call(&remove, Flags::default(), &mut tally).await?;
        std::io::Result::Ok(())
    };
    if let Err(error) = told.await {
        tally.failed(&error);
    }
    tally
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn texts(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Str(text) => found.push(text.clone()),
            Value::Bytes(bytes) => found.push(String::from_utf8_lossy(bytes).into_owned()),
            Value::SurrogateStr(points) => {
                found.push(points.iter().filter_map(|&p| char::from_u32(p)).collect());
            }
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                items.iter().for_each(|item| texts(item, found));
            }
            Value::Dict(items) => {
                for (key, value) in items {
                    texts(key, found);
                    texts(value, found);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn strangers_change_only_what_is_theirs() {
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..20_000 {
            for method in ["register", "set_metadata", "remove"] {
                let args = arguments(NAME_SERVER, method, &mut random);
                // A registration changes only the name in its first argument.
                let count = if method == "remove" { 3 } else { 1 };
                let mut found = Vec::new();
                args.iter()
                    .take(count)
                    .for_each(|arg| texts(arg, &mut found));
                let is_own =
                    |text: &String| text.starts_with(OWN) || text.starts_with("stranger\\.(?:");
                assert!(found.iter().all(is_own), "{method} {found:?}");
            }
        }
    }

    #[test]
    fn brackets_of_own_patterns_stay_closed() {
        let mut random = SmallRng::seed_from_u64(2);
        for _ in 0..200 {
            let pattern = own_pattern(&mut random);
            let mut depth = 0_i64;
            for (at, c) in pattern.char_indices() {
                match c {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                assert!(
                    depth > 0 || at < 13 || at + 1 == pattern.len(),
                    "{pattern:.80}"
                );
            }
            assert_eq!(depth, 0, "{pattern:.80}");
        }
    }
}
