//! From a call to what it came to: which object, which member, which arguments.
//!
//! The order of checks is the original's: object, member, arguments, method. A batch is many calls of one
//! object that stop at the first exception.

use hearth_storage::Command;
use hearth_wire::uri::{Location, Target};
use hearth_wire::{Call, Exception, Family, Uri, Value};

use super::arguments::Arguments;
use super::budget::Share;
use super::caller::Caller;
use super::listing::{Listing, Made, list_refusal};
use super::nameserver::{NameServer, Outcome, Plan, Then};
use super::object::{Method, Object};
use super::presence::Presence;
use super::{Front, cluster, daemon, python};

/// Calls of a batch after which other connections get a turn.
const BATCH_TURN_CALL_COUNT: usize = 64;
/// Maximum number of consecutive changes of a batch that are proposed together.
const PIPELINED_COUNT_MAX: usize = 512;
/// A batch whose results hold more than this ends: each call may ask for everything there is.
const BATCH_RESULT_LEN_MAX: usize = 16 << 20;
/// A result of about so many bytes is encoded where it was made; larger ones away from the reactor.
const INLINE_RESULT_LEN_MAX: usize = 64 << 10;

/// What a call came to.
#[derive(Debug)]
pub(super) enum Answer {
    /// Known now, and small.
    Now(Value),
    /// So large that encoding it belongs away from the reactor; and the memory that it has taken.
    Large(Value, Share),
    /// Still to be made, away from the reactor.
    Later(Listing),
}

/// Runs one call, or a batch of them.
///
/// # Errors
/// The exception that the original raises.
pub(super) async fn invoke(
    front: &Front,
    caller: &mut Caller,
    family: Family,
    call: Call,
    is_batch: bool,
) -> Result<Answer, Exception> {
    let object = Object::by_id(&call.object)?;
    if is_batch {
        return Box::pin(batch(front, caller, family, object, call.args)).await;
    }
    if let Some(access @ ("__getattr__" | "__setattr__")) = call.method.as_str() {
        let name = python::item(&call.args, 0)?;
        if access == "__setattr__" {
            python::item(&call.args, 1)?;
        }
        return Err(object.attribute_refusal(family, &name));
    }
    let method = object.method(family, &call.method)?;
    let outcome = run(
        front,
        caller,
        family,
        object,
        method,
        call.args,
        call.kwargs,
    );
    match outcome.await? {
        Outcome::Value(value) => Ok(Answer::Now(value)),
        Outcome::Later(listing) => Ok(Answer::Later(listing)),
    }
}

async fn run(
    front: &Front,
    caller: &mut Caller,
    family: Family,
    object: Object,
    method: Method,
    args: Value,
    kwargs: Value,
) -> Result<Outcome, Exception> {
    let signature = method.signature(family);
    let mut arguments: Arguments = signature.bind(object.class(family), args, kwargs)?;
    match object {
        Object::NameServer => {
            let name_server = name_server(front, caller, family);
            name_server.call(method, &mut arguments).await
        }
        Object::Daemon => daemon::call(
            method,
            family,
            &front.config,
            front.connection_count(),
            &mut arguments,
        )
        .map(Outcome::Value),
        Object::Cluster => Box::pin(cluster::call(front, caller, method, &mut arguments))
            .await
            .map(Outcome::Value),
    }
}

fn name_server<'a>(front: &'a Front, caller: &'a Caller, family: Family) -> NameServer<'a> {
    NameServer {
        family,
        config: &front.config,
        replica: &front.replica,
        reads: &front.reads,
        patterns: &front.patterns,
        presence: caller.presence(),
    }
}

/// Runs the calls of a batch in order. A call that raises ends the batch with its exception in its slot; a
/// member that may not be called fails the whole batch. The calls before it stay done.
async fn batch(
    front: &Front,
    caller: &mut Caller,
    family: Family,
    object: Object,
    calls: Value,
) -> Result<Answer, Exception> {
    let calls = python::iterate(calls).map_err(|value| python::not_iterable(&value))?;
    let call_count_max = front.config.call_item_count_max;
    if calls.len() > call_count_max {
        return Err(Exception::value_error(format!(
            "too many calls in one batch ({}, max={call_count_max})",
            calls.len()
        )));
    }
    let mut batch = Batch {
        results: Vec::with_capacity(calls.len()),
        results_len: 0,
        memory: front.answers.share(),
        is_too_large: false,
        commands: Vec::new(),
        meanings: Vec::new(),
    };
    for (index, call) in calls.into_iter().enumerate() {
        if index % BATCH_TURN_CALL_COUNT == BATCH_TURN_CALL_COUNT - 1 {
            tokio::task::yield_now().await;
        }
        let call = python::unpack_three(call)
            .and_then(|[method, args, kwargs]| Ok((object.method(family, &method)?, args, kwargs)));
        let goes_on = match call {
            Ok((method, args, kwargs)) if batch.may_wait(object, method) => {
                let signature = method.signature(family);
                let bound = signature.bind(object.class(family), args, kwargs);
                let plan = bound.and_then(|mut arguments| {
                    name_server(front, caller, family).plan(method, &mut arguments)
                });
                batch.take(&name_server(front, caller, family), plan).await
            }
            call => {
                let goes_on = batch.catch_up(&name_server(front, caller, family)).await;
                goes_on && {
                    let (method, args, kwargs) = call?;
                    let result = batch
                        .run(front, caller, family, object, method, args, kwargs)
                        .await;
                    batch.push(result)
                }
            }
        };
        if !goes_on {
            return Ok(batch.answer());
        }
    }
    batch.catch_up(&name_server(front, caller, family)).await;
    Ok(batch.answer())
}

/// A batch under way.
///
/// Consecutive calls that change the registry are pipelined: their commands are proposed together and applied in order.
/// A command that the registry may refuse is the last one of its group, because its exception would end the batch.
struct Batch {
    results: Vec<Value>,
    results_len: usize,
    memory: Share,
    is_too_large: bool,
    /// The commands that are not proposed yet; their results come after `results`.
    commands: Vec<Command>,
    /// The meanings of their replies.
    meanings: Vec<Then>,
}

impl Batch {
    /// Returns true if this call can be proposed together with others.
    fn may_wait(&self, object: Object, method: Method) -> bool {
        object == Object::NameServer
            && matches!(
                method,
                Method::Register | Method::SetMetadata | Method::Remove
            )
            && !self.is_too_large
    }

    /// Takes over a call that changes the registry. Returns false if the batch has ended.
    async fn take(&mut self, name_server: &NameServer<'_>, plan: Result<Plan, Exception>) -> bool {
        match plan {
            Ok(Plan::Change(command, then)) => {
                let is_last =
                    then.may_be_refused() || self.commands.len() + 1 == PIPELINED_COUNT_MAX;
                self.commands.push(command);
                self.meanings.push(then);
                !is_last || self.catch_up(name_server).await
            }
            Ok(plan) => {
                self.catch_up(name_server).await && {
                    let result = name_server.carry_out(plan).await;
                    self.push(result)
                }
            }
            Err(exception) => self.catch_up(name_server).await && self.push(Err(exception)),
        }
    }

    /// Proposes the commands that wait and takes their results. Returns false if the batch has ended.
    async fn catch_up(&mut self, name_server: &NameServer<'_>) -> bool {
        if self.commands.is_empty() {
            return true;
        }
        let commands = std::mem::take(&mut self.commands);
        let (replies, failure) = Box::pin(name_server.write_all(commands)).await;
        for (then, reply) in std::mem::take(&mut self.meanings).into_iter().zip(replies) {
            if !self.push(then.finish(reply)) {
                return false;
            }
        }
        match failure {
            Some(exception) => self.push(Err(exception)),
            None => true,
        }
    }

    /// Runs one call to its end.
    #[expect(
        clippy::too_many_arguments,
        reason = "a call, and who calls what where"
    )]
    async fn run(
        &self,
        front: &Front,
        caller: &mut Caller,
        family: Family,
        object: Object,
        method: Method,
        args: Value,
        kwargs: Value,
    ) -> Result<Value, Exception> {
        if self.is_too_large {
            return Err(Exception::value_error(
                "the results of this batch are too large",
            ));
        }
        match run(front, caller, family, object, method, args, kwargs).await? {
            Outcome::Value(value) => Ok(value),
            Outcome::Later(listing) => {
                let turns = front.turns_for(&listing);
                // A longer list ends the batch anyway.
                let len_max = listing.len_max.min(BATCH_RESULT_LEN_MAX);
                let make = move |presence: &Presence| {
                    let made = listing.make_within(len_max, presence)?;
                    Ok(made.map(Made::into_value))
                };
                let list = turns.run_for(caller.presence(), make).await;
                list.and_then(|list| list.map_err(list_refusal))
            }
        }
    }

    /// Appends the result of the next call. Returns false if it ends the batch.
    fn push(&mut self, result: Result<Value, Exception>) -> bool {
        match result {
            Ok(value) => {
                let value_len = memory_len(&value);
                self.results_len += value_len;
                self.is_too_large =
                    !self.memory.grow(value_len) || self.results_len > BATCH_RESULT_LEN_MAX;
                self.results.push(value);
                true
            }
            Err(exception) => {
                self.results
                    .push(Value::ExceptionWrapper(Box::new(exception)));
                false
            }
        }
    }

    fn answer(self) -> Answer {
        let results = Value::List(self.results);
        if self.results_len > INLINE_RESULT_LEN_MAX {
            Answer::Large(results, self.memory)
        } else {
            Answer::Now(results)
        }
    }
}

/// About how many bytes a result holds.
fn memory_len(value: &Value) -> usize {
    let all = |items: &[Value]| items.iter().map(memory_len).sum();
    let content_len: usize = match value {
        Value::Str(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::SurrogateStr(points) => size_of_val(&**points),
        Value::BigInt(number) => usize::try_from(number.bits() / 8).unwrap_or(usize::MAX),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            all(items)
        }
        Value::Dict(items) => items
            .iter()
            .map(|(key, value)| memory_len(key) + memory_len(value))
            .sum(),
        Value::Uri(uri) => uri_len(uri),
        Value::Exception(exception) | Value::ExceptionWrapper(exception) => {
            let traceback: usize = exception.traceback.iter().map(String::len).sum();
            all(&exception.args) + traceback
        }
        Value::Object(object) => object.type_name.len() + memory_len(&object.state),
        Value::None
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Complex(..)
        | Value::Ellipsis => 0,
    };
    size_of::<Value>() + content_len
}

fn uri_len(uri: &Uri) -> usize {
    let target = match &uri.target {
        Target::Object(text) | Target::Name(text) => text.len(),
        Target::Meta(tags) => tags.iter().map(|tag| size_of::<String>() + tag.len()).sum(),
    };
    let location = match &uri.location {
        Some(Location::Tcp { host, .. }) => host.len(),
        Some(Location::Unix(path)) => path.len(),
        None => 0,
    };
    size_of::<Uri>() + target + location
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_result_grows_with_its_content() {
        let entry = |len: usize| (Value::from("n"), Value::from("u".repeat(len)));
        let small = Value::Dict(vec![entry(10)]);
        let large = Value::List(vec![Value::Dict(vec![entry(10), entry(1000)])]);
        assert!(memory_len(&small) > 10);
        assert!(memory_len(&large) > memory_len(&small) + 1000);
        let long = "h".repeat(1000);
        let uri = |text: String| Value::Uri(Box::new(Uri::parse(&text, 9090).unwrap()));
        for value in [
            uri(format!("PYRO:o@{long}:1")),
            uri(format!("PYRO:{long}@h:1")),
            uri(format!("PYROMETA:{long},b")),
            uri(format!("PYRO:o@./u:{long}")),
            Value::Exception(Box::new(Exception::naming(long.clone()))),
            Value::ExceptionWrapper(Box::new(Exception::naming(long.clone()))),
            Value::FrozenSet(vec![long.clone().into()]),
            Value::Bytes(vec![0; 1000]),
        ] {
            assert!(memory_len(&value) > 1000, "{value:?}");
        }
    }
}
