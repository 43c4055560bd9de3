//! Tests against payloads that real Pyro programs sent: each must decode to the value that Pyro reads, and
//! encode to the bytes that Pyro writes. `captures/README.md` describes their origin.

use std::fs;
use std::path::Path;

use hearth_wire::{Call, Dialect, Exception, Family, Limits, Serializer, Value, repr};

/// One line of a capture file.
struct Record {
    id: String,
    dialect: Dialect,
    /// `call`, `connect`, `connect-ok`, `connect-fail` or `result`.
    kind: String,
    /// The writer: `python3`, `python2`, `server`, or `hand` for payloads that no program writes.
    from: String,
    payload: Vec<u8>,
    /// The `repr()` of the value that Pyro reads, or class and arguments of the exception that it raises.
    expected: Result<String, (String, String)>,
    /// True if it holds an exception whose traceback was cut to its first and last line.
    has_traceback: bool,
}

impl Record {
    fn decode(&self) -> Result<Value, Exception> {
        let limits = Limits::default();
        if self.kind != "call" {
            return self.dialect.decode(&self.payload, &limits);
        }
        Call::decode(self.dialect, &self.payload, &limits).map(|(call, _)| four(&call))
    }

    fn encode(&self, value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        match (self.kind.as_str(), value) {
            ("call", Value::Tuple(parts)) => {
                let [object, method, args, kwargs] = parts
                    .clone()
                    .try_into()
                    .expect("a call is shown as its four parts");
                let call = Call {
                    object,
                    method,
                    args,
                    kwargs,
                };
                call.encode(self.dialect, &mut out)
            }
            _ => self.dialect.encode(value, &mut out),
        }
        .unwrap_or_else(|error| panic!("{}: {error}", self.id));
        out
    }

    /// Returns true if the recorded bytes are the only ones that Pyro writes for this value.
    fn has_one_form(&self) -> bool {
        let is_text = matches!(
            self.dialect.serializer,
            Serializer::Serpent | Serializer::Json
        );
        // Bytes are decoded to a dict, which is then written without spaces, in Pyro as well. An exception that
        // was never raised has no traceback in Pyro; Hearth always adds one.
        let payload = String::from_utf8_lossy(&self.payload);
        let changes = payload.contains("'encoding': 'base64'")
            || payload.contains("'attributes':{}")
            || payload.contains("\"attributes\": {}")
            // Tracebacks of Hearth hold no lone surrogates.
            || self.kind == "result" && payload.contains("\\ud800");
        is_text && !changes && matches!(self.from.as_str(), "python3" | "server")
    }
}

fn four(call: &Call) -> Value {
    let Call {
        object,
        method,
        args,
        kwargs,
    } = call.clone();
    Value::Tuple(vec![object, method, args, kwargs])
}

fn records() -> Vec<Record> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut records = Vec::new();
    for (family, family_name) in [(Family::Pyro4, "pyro4"), (Family::Pyro5, "pyro5")] {
        for serializer in [
            Serializer::Serpent,
            Serializer::Json,
            Serializer::Marshal,
            Serializer::Msgpack,
        ] {
            let name = format!("payloads-{family_name}-{}.jsonl", serializer.name());
            let lines =
                fs::read_to_string(folder.join(&name)).expect("the captures are in the repository");
            let dialect = Dialect::new(family, serializer);
            records.extend(lines.lines().map(|line| record(dialect, line)));
        }
    }
    records
}

fn record(dialect: Dialect, line: &str) -> Record {
    let json: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    Record {
        id: format!("{} ({})", text("id"), text("kind")),
        dialect,
        kind: text("kind"),
        from: text("from"),
        payload: unhex(&text("payload")),
        expected: match json["raises"].as_str() {
            Some(class) => Err((class.to_owned(), text("args"))),
            None => Ok(text("means")),
        },
        has_traceback: json.get("traceback").is_some(),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("payloads are hexadecimal"))
        .collect()
}

/// Returns the same value with the elements of its sets in the order of their `repr()`, as in the captures.
fn in_order(value: &Value) -> Value {
    let all = |items: &[Value]| items.iter().map(in_order).collect::<Vec<_>>();
    let sorted = |items: &[Value]| {
        let mut items = all(items);
        items.sort_by_key(repr::repr);
        items
    };
    match value {
        Value::List(items) => Value::List(all(items)),
        Value::Tuple(items) => Value::Tuple(all(items)),
        Value::Set(items) => Value::Set(sorted(items)),
        Value::FrozenSet(items) => Value::FrozenSet(sorted(items)),
        Value::Dict(items) => Value::Dict(
            items
                .iter()
                .map(|(key, value)| (in_order(key), in_order(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// Returns `value` without the tracebacks of its exceptions.
fn without_tracebacks(value: Value) -> Value {
    let all = |items: Vec<Value>| items.into_iter().map(without_tracebacks).collect();
    match value {
        Value::List(items) => Value::List(all(items)),
        Value::Tuple(items) => Value::Tuple(all(items)),
        Value::Exception(mut exception) => {
            exception.traceback.clear();
            Value::Exception(exception)
        }
        Value::ExceptionWrapper(mut exception) => {
            exception.traceback.clear();
            Value::ExceptionWrapper(exception)
        }
        other => other,
    }
}

/// Returns true for values that are read, so that calls with them can be refused, but never written. Bytes in
/// marshal count as well, because they might be the text of a Python 2 peer.
fn is_only_received(record: &Record, shown: &str) -> bool {
    let objects = shown.replace("<_ExceptionWrapper object>", "");
    let is_marshal = record.dialect.serializer == Serializer::Marshal;
    objects.contains(" object>") || record.from == "hand" || is_marshal && shown.contains("b'")
}

#[test]
fn every_payload_means_what_pyro_reads() {
    let mut wrong = Vec::new();
    for record in records() {
        // A Python 3 server takes the names that Python 2 sends for bytes and does not find the object; Hearth
        // takes them as text.
        if record.id.contains("marshal-bytes-names") {
            continue;
        }
        let found = record.decode();
        let matches = match (&found, &record.expected) {
            (Ok(found), Ok(means)) => repr::repr(&in_order(found)) == *means,
            (Err(found), Err((class, args))) => {
                found.class.wire_name(record.dialect.family) == *class
                    && repr::repr(&Value::Tuple(found.args.clone())) == *args
            }
            _ => false,
        };
        if !matches {
            let found = found.map(|value| repr::repr(&in_order(&value)));
            wrong.push(format!(
                "{}\n  {found:?}\n  {:?}",
                record.id, record.expected
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_value_is_written_as_pyro_writes_it() {
    let mut wrong = Vec::new();
    let mut identical_count = 0;
    for record in records() {
        let Ok(value) = record.decode() else { continue };
        let shown = repr::repr(&value);
        if is_only_received(&record, &shown) {
            continue;
        }
        let written = record.encode(&value);
        if record.has_one_form() {
            identical_count += 1;
            if written != record.payload {
                wrong.push(format!(
                    "{}\n  {}\n  {}",
                    record.id,
                    String::from_utf8_lossy(&written),
                    String::from_utf8_lossy(&record.payload)
                ));
            }
        }
        let again = Record {
            payload: written,
            ..record
        };
        let same = again.decode().is_ok_and(|again| {
            // Not-a-number is not equal to itself, but its `repr()` is the same.
            again == value || repr::repr(&again) == shown
        });
        if !same {
            wrong.push(again.id);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        identical_count > 1000,
        "only {identical_count} were compared"
    );
}

#[test]
fn exceptions_without_a_traceback_get_the_lines_that_python_begins_and_ends_with() {
    let mut compared_count = 0;
    for record in records() {
        // If an exception could not be serialized, the exception that reports this has the traceback of the
        // first one.
        let is_lent =
            String::from_utf8_lossy(&record.payload).contains("Error serializing exception");
        if !record.has_traceback || !record.has_one_form() || is_lent {
            continue;
        }
        let Ok(value) = record.decode() else { continue };
        let value = without_tracebacks(value);
        let written = record.encode(&value);
        assert_eq!(
            String::from_utf8_lossy(&written),
            String::from_utf8_lossy(&record.payload),
            "{}",
            record.id
        );
        compared_count += 1;
    }
    assert!(compared_count > 100, "only {compared_count} were compared");
}

#[test]
fn python2_is_noticed_in_serpent() {
    for record in records() {
        let is_call = record.kind == "call" && record.expected.is_ok();
        if !is_call || record.dialect.serializer != Serializer::Serpent || record.from == "hand" {
            continue;
        }
        let (_, reply) = Call::decode(record.dialect, &record.payload, &Limits::default()).unwrap();
        assert_eq!(reply.python2, record.from == "python2", "{}", record.id);
    }
}
