//! Large and numerous requests: registrations around the limits, long or numerous answers, and thousands of
//! calls.

use std::net::SocketAddr;
use std::time::Duration;

use hearth_cli::wire::{Call, Flags, Value};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::calls::NAME_SERVER;
use super::line::{Line, PLAIN, dialect, invoke, payload};
use super::{OWN, Tally};

/// The default limit on the name, URI and tags of a registration, in bytes.
const REGISTRATION_LEN_MAX: usize = 1 << 20;

/// The number of names for attempts at the limits; each holds a registration of at most the limit.
const SIZED_NAME_COUNT: u32 = 6;

fn name_server(method: &str, args: Vec<Value>) -> Call {
    Call::new(NAME_SERVER, method, args)
}

/// Returns a URI of `len` bytes, at least 9.
fn uri(len: usize) -> String {
    format!("PYRO:o@{}:1", "h".repeat(len.saturating_sub(9)))
}

/// Registers, sets tags, looks up and lists with texts just below, just above and far above the limits.
pub(super) async fn sizes(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    let told = async {
        let mut line = Line::greeted(at, PLAIN, NAME_SERVER.into()).await?;
        let sizes = [
            REGISTRATION_LEN_MAX - 1,
            REGISTRATION_LEN_MAX,
            REGISTRATION_LEN_MAX + 1,
            7 << 20,
            // This exceeds the usual limit on a message.
            65 << 20,
        ];
        let size = *sizes.choose(random).unwrap_or(&REGISTRATION_LEN_MAX);
        let name = format!("{OWN}size.{}", random.random_range(0..SIZED_NAME_COUNT));
        let rest = size - name.len();
        let call = match random.random_range(0..6) {
            0 => name_server("register", vec![name.into(), uri(rest).into()]),
            1 => {
                let long = format!("{name}{}", "n".repeat(rest.saturating_sub(10)));
                name_server("register", vec![long.into(), uri(10).into()])
            }
            2 => {
                let tag = "t".repeat(rest.saturating_sub(10));
                let tags = Value::List(vec![tag.into()]);
                let args = vec![name.into(), uri(10).into(), Value::Bool(false), tags];
                name_server("register", args)
            }
            3 => {
                // Short tags, as many as fit into a message of that size, up to 2 MiB.
                let count = rest.min(2 << 20) / 8;
                let tags = (0..count).map(|number| format!("{number:08}").into());
                let args = vec![name.into(), Value::List(tags.collect())];
                name_server("set_metadata", args)
            }
            4 => name_server("lookup", vec!["n".repeat(rest).into()]),
            _ => name_server("list", vec!["p".repeat(rest).into()]),
        };
        line.call(&call, Flags::default(), &mut tally).await?;
        // The occasional removal keeps the registrations from taking up space.
        let remove = vec![Value::None, format!("{OWN}size.").into()];
        if random.random_ratio(1, 3) {
            line.call(&name_server("remove", remove), Flags::default(), &mut tally)
                .await?;
        }
        std::io::Result::Ok(())
    };
    if let Err(error) = told.await {
        tally.failed(&error);
    }
    tally
}

/// Registers a name with about as many bytes as are allowed, or with more, and has a safe registration of it
/// refused many times in one batch of messages.
pub(super) async fn taken(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    let told = async {
        let mut line = Line::greeted(at, PLAIN, NAME_SERVER.into()).await?;
        let name = format!("{OWN}taken.{}", random.random_range(0..3));
        let sizes = [REGISTRATION_LEN_MAX - 100, 7 << 20];
        let size = *sizes.choose(random).unwrap_or(&1);
        let args = vec![Value::Str(name.clone()), uri(size).into()];
        let call = name_server("register", args);
        line.call(&call, Flags::default(), &mut tally).await?;
        let args = vec![name.into(), "PYRO:a@h:1".into(), Value::Bool(true)];
        let again = name_server("register", args);
        let count = *[60, 150, 400].choose(random).unwrap_or(&60);
        let Some(one) = invoke(line.dialect(), &again, Flags::default(), 2) else {
            return Ok(());
        };
        line.send(&one.repeat(count)).await?;
        line.replies(count, one.len(), &mut tally).await;
        std::io::Result::Ok(())
    };
    if let Err(error) = told.await {
        tally.failed(&error);
    }
    tally
}

/// Lists everything, and reads the answers.
pub(super) async fn lists(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    let told = async {
        let mut line = Line::greeted(at, dialect(random), NAME_SERVER.into()).await?;
        for _ in 0..2 {
            let args = match random.random_range(0..3) {
                0 => Vec::new(),
                1 => vec!["".into()],
                _ => vec![Value::None, ".*".into()],
            };
            let mut call = name_server("list", args);
            if random.random() {
                call.kwargs = Value::Dict(vec![("return_metadata".into(), Value::Bool(true))]);
            }
            line.call(&call, Flags::default(), &mut tally).await?;
        }
        std::io::Result::Ok(())
    };
    if let Err(error) = told.await {
        tally.failed(&error);
    }
    tally
}

/// Sends the same large request many times, and reads almost nothing of the answers.
pub(super) async fn unread(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    let told = async {
        let mut line = Line::greeted(at, PLAIN, NAME_SERVER.into()).await?;
        let call = match random.random() {
            true => name_server("list", Vec::new()),
            false => name_server("lookup", vec![format!("{OWN}taken.0").into()]),
        };
        let count = *[3, 60, 2_000].choose(random).unwrap_or(&3);
        if let Some(one) = invoke(line.dialect(), &call, Flags::default(), 1) {
            line.send(&one.repeat(count)).await?;
        }
        line.sip(40, Duration::from_millis(200)).await?;
        if random.random() {
            line.reset();
        }
        std::io::Result::Ok(())
    };
    if let Err(error) = told.await {
        tally.failed(&error);
    }
    tally
}

/// Sends one batch message with thousands of calls.
pub(super) async fn batches(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    let told = async {
        let mut line = Line::greeted(at, PLAIN, NAME_SERVER.into()).await?;
        let count = *[300, 3_000, 40_000].choose(random).unwrap_or(&300);
        let calls: String = match random.random_range(0..5) {
            0 => "('ping',(),{}),".repeat(count),
            1 => (0..count.min(5_000))
                .map(|number| format!("('register',('{OWN}batch.{number}','PYRO:o@h:1'),{{}}),"))
                .collect(),
            2 => "('list',(),{}),".repeat(count.min(1_000)),
            3 => format!("('lookup',('{OWN}taken.0',),{{}}),").repeat(count),
            _ => format!("('remove',(None,'{OWN}batch.'),{{}}),").repeat(count.min(3_000)),
        };
        let batch = format!("('{NAME_SERVER}','<batch>',[{calls}],None)");
        let flags = Flags {
            batch: true,
            oneway: random.random_ratio(1, 4),
            ..Flags::default()
        };
        let bytes = payload(line.dialect(), batch.into_bytes(), flags);
        line.send(&bytes).await?;
        if !flags.oneway {
            line.replies(1, bytes.len(), &mut tally).await;
        }
        std::io::Result::Ok(())
    };
    if let Err(error) = told.await {
        tally.failed(&error);
    }
    tally
}
