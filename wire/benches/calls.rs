//! The cost of a lookup and of a registration in each serializer: nanoseconds to read the request and to write
//! the reply. Run it with `cargo bench -p hearth-wire`; words after that select the lines that contain all of
//! them.

#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock that the crate itself never reads"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use hearth_wire::{Call, Dialect, Exception, Family, Limits, Serializer, Uri, Value};

/// Duration of the measurement of each line, after a warm-up of the same duration.
const MEASURED: Duration = Duration::from_millis(200);

/// Number of runs between two readings of the clock.
const BATCH: u32 = 100;

fn main() {
    // `cargo test --all-targets` runs this file too, and must not wait for the measurements.
    if !std::env::args().any(|word| word == "--bench") {
        return;
    }
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let limits = Limits::default();
    for serializer in [
        Serializer::Serpent,
        Serializer::Json,
        Serializer::Marshal,
        Serializer::Msgpack,
    ] {
        let dialect = Dialect::new(Family::Pyro5, serializer);
        let measure = |name: &str, run: &mut dyn FnMut()| {
            let line = format!("{:8} {name}", serializer.name());
            if words.iter().all(|word| line.contains(word.as_str())) {
                println!("{line:40} {:8.0} ns", nanoseconds(run));
            }
        };
        for (name, call) in calls() {
            let mut payload = Vec::new();
            call.encode(dialect, &mut payload)
                .expect("every serializer carries names and tags");
            measure(&format!("read {name}"), &mut || {
                let read = Call::decode(dialect, black_box(&payload), &limits);
                black_box(read).expect("what was written is read");
            });
        }
        for (name, value) in replies() {
            let mut out = Vec::new();
            measure(&format!("write {name}"), &mut || {
                out.clear();
                dialect
                    .encode(black_box(&value), &mut out)
                    .expect("every serializer carries replies");
                black_box(&out);
            });
        }
    }
}

/// Mean duration of one run in nanoseconds.
fn nanoseconds(run: &mut dyn FnMut()) -> f64 {
    let mut batches = |duration: Duration| {
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < duration {
            for _ in 0..BATCH {
                run();
            }
            count += BATCH;
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
    };
    batches(MEASURED);
    batches(MEASURED)
}

fn calls() -> [(&'static str, Call); 2] {
    let name = || Value::from("house.kitchen.sensor-17");
    let mut register = Call::new(
        "Pyro.NameServer",
        "register",
        vec![
            name(),
            "PYRO:obj_0123456789abcdef@192.168.1.17:40123".into(),
        ],
    );
    let tags = ["room:kitchen", "class:sensor", "unit:celsius"];
    register.kwargs = Value::Dict(vec![
        ("safe".into(), Value::Bool(true)),
        ("metadata".into(), Value::List(tags.map(Value::from).into())),
    ]);
    let lookup = Call::new("Pyro.NameServer", "lookup", vec![name()]);
    [("lookup", lookup), ("register", register)]
}

fn replies() -> [(&'static str, Value); 4] {
    let uri = "PYRO:obj_0123456789abcdef@192.168.1.17:40123";
    let parsed = Uri::parse(uri, 9090).expect("a valid URI");
    let list = (0..100).map(|n| (Value::Str(format!("sensor-{n}")), uri.into()));
    [
        ("a URI", Value::Uri(Box::new(parsed))),
        ("None", Value::None),
        ("a list of 100", Value::Dict(list.collect())),
        (
            "an error",
            Value::Exception(Box::new(Exception::naming("unknown name: sensor"))),
        ),
    ]
}
