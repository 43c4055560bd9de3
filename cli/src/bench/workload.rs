//! The calls of a load, and the checks of their replies.

use hearth_wire::{Frame, Limits, Uri, Value};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::connection::{Endpoint, RawConnection, encode_call};
use super::{BenchError, Operation, Plan};

/// Prefix of every name of a load, by which the names are removed.
const PREFIX: &str = "hearth.bench.";

/// Number of names in the reply to a `list`.
const LIST_LEN: usize = 100;

/// Number of names that each connection registers in turn.
const OWN_NAME_COUNT: usize = 100;

fn shared_name(index: usize) -> String {
    format!("{PREFIX}shared.{index:08}")
}

fn shared_uri(index: usize) -> String {
    format!("PYRO:obj_{index:032x}@localhost:{}", 1_024 + index % 60_000)
}

fn list_name(index: usize) -> String {
    format!("{PREFIX}list.{index:03}")
}

/// Registers the names that the load looks up. Names of an earlier load are removed first.
pub(super) async fn prepare(endpoints: &[Endpoint], plan: &Plan) -> Result<(), BenchError> {
    clean(endpoints, plan).await?;
    let names: Vec<(String, String)> = match plan.operation {
        Operation::Lookup | Operation::Mixed { .. } => (0..plan.name_count)
            .map(|index| (shared_name(index), shared_uri(index)))
            .collect(),
        Operation::List => (0..LIST_LEN)
            .map(|index| (list_name(index), shared_uri(index)))
            .collect(),
        Operation::Register | Operation::Echo => Vec::new(),
    };
    // Several connections, because a server that syncs each registration can do many at once.
    const CONNECTION_COUNT: usize = 64;
    let share = names.len().div_ceil(CONNECTION_COUNT).max(1);
    let mut tasks = tokio::task::JoinSet::new();
    for (number, part) in names.chunks(share).enumerate() {
        let (endpoints, plan, part) = (endpoints.to_vec(), plan.clone(), part.to_vec());
        tasks.spawn(async move {
            let (mut connection, _) = connect(&endpoints, number, &plan).await?;
            for (name, uri) in part {
                if let Err(exception) = connection
                    .call("register", vec![name.into(), uri.into()])
                    .await?
                {
                    return Err(connection.wrong(format!("register: {exception:?}")));
                }
            }
            Ok(())
        });
    }
    while let Some(joined) = tasks.join_next().await {
        joined.map_err(|error| BenchError::Plan(format!("a preparing task ended: {error}")))??;
    }
    Ok(())
}

/// Removes every name of a load.
pub(super) async fn clean(endpoints: &[Endpoint], plan: &Plan) -> Result<(), BenchError> {
    let (mut connection, _) = connect(endpoints, 0, plan).await?;
    match connection
        .call("remove", vec![Value::None, PREFIX.into()])
        .await?
    {
        Ok(_) => Ok(()),
        Err(exception) => Err(connection.wrong(format!("remove: {exception:?}"))),
    }
}

/// Connects to the server at index `number`, modulo the number of servers. A load that reconnects tries the
/// next servers if that fails. Returns the connection and the index of its server.
pub(super) async fn connect(
    endpoints: &[Endpoint],
    number: usize,
    plan: &Plan,
) -> Result<(RawConnection, usize), BenchError> {
    let mut failure = None;
    let attempt_count = match plan.reconnect {
        true => endpoints.len(),
        false => 1,
    };
    for number in number..number + attempt_count {
        let number = number % endpoints.len().max(1);
        let Some(endpoint) = endpoints.get(number) else {
            break;
        };
        let connection = match plan.operation {
            Operation::Echo => RawConnection::open(endpoint, plan).await,
            _ => RawConnection::connect(endpoint, plan).await,
        };
        match connection {
            Ok(connection) => return Ok((connection, number)),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| BenchError::Plan("a load needs at least one server".into())))
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The text by which faults are counted.
    pub(super) kind: String,
    /// The whole text.
    pub(super) text: String,
}

impl Fault {
    fn wrong(text: String) -> Self {
        let kind = "wrong answer".to_owned();
        Self { kind, text }
    }
}

impl From<&BenchError> for Fault {
    fn from(error: &BenchError) -> Self {
        let kind = match error {
            BenchError::Io { source, .. } => source.kind().to_string(),
            BenchError::Refused { .. } => "refused".to_owned(),
            BenchError::Answer { .. } | BenchError::Plan(_) => "wrong answer".to_owned(),
        };
        let text = error.to_string();
        Self { kind, text }
    }
}

/// One connection and its calls.
pub(super) struct Worker {
    number: usize,
    connection: RawConnection,
    plan: Plan,
    rng: SmallRng,
    right_lookup: Vec<u8>,
    list_request: Vec<u8>,
    right_list: Vec<u8>,
    register_count: usize,
    right_none: Vec<u8>,
}

impl Worker {
    pub(super) fn new(
        number: usize,
        connection: RawConnection,
        plan: &Plan,
    ) -> Result<Self, BenchError> {
        let list_prefix = format!("{PREFIX}list.");
        Ok(Self {
            number,
            connection,
            plan: plan.clone(),
            rng: SmallRng::seed_from_u64(number as u64),
            right_lookup: Vec::new(),
            list_request: encode_call(plan, "list", vec![list_prefix.into()])?,
            right_list: Vec::new(),
            register_count: 0,
            right_none: Vec::new(),
        })
    }

    /// Continues on another connection.
    pub(super) fn take(&mut self, connection: RawConnection) {
        self.connection = connection;
    }

    /// Makes one call. The inner result says if its reply was correct.
    pub(super) async fn step(&mut self) -> Result<Result<(), Fault>, BenchError> {
        match self.plan.operation {
            Operation::Lookup => self.lookup().await,
            Operation::Register => self.register().await,
            Operation::Mixed { write_percent } if self.rng.random_range(0..100) < write_percent => {
                self.register().await
            }
            Operation::Mixed { .. } => self.lookup().await,
            Operation::List => self.list().await,
            Operation::Echo => {
                let payload = encode_call(&self.plan, "lookup", vec![shared_name(0).into()])?;
                Ok(self.connection.echo(&payload).await?.map_err(Fault::wrong))
            }
        }
    }

    async fn lookup(&mut self) -> Result<Result<(), Fault>, BenchError> {
        let index = self.rng.random_range(0..self.plan.name_count);
        let payload = encode_call(&self.plan, "lookup", vec![shared_name(index).into()])?;
        let uri = shared_uri(index);
        // Most servers answer with the same bytes that Hearth's serializer writes.
        self.right_lookup.clear();
        if let Ok(parsed) = Uri::parse(&uri, 9090) {
            let written = Value::Uri(Box::new(parsed));
            let _ = self.plan.dialect().encode(&written, &mut self.right_lookup);
        }
        let reply = self.connection.invoke(&payload).await?;
        let right = |value: &Value| matches!(value, Value::Uri(found) if found.to_string() == uri);
        Ok(check(&self.plan, &reply, &self.right_lookup, right))
    }

    async fn register(&mut self) -> Result<Result<(), Fault>, BenchError> {
        let count = self.register_count;
        self.register_count += 1;
        let name = format!("{PREFIX}own.{}.{}", self.number, count % OWN_NAME_COUNT);
        let uri = format!("PYRO:obj_{count:032x}@localhost:{}", 1_024 + self.number);
        let payload = encode_call(&self.plan, "register", vec![name.into(), uri.into()])?;
        let reply = self.connection.invoke(&payload).await?;
        let checked = check(&self.plan, &reply, &self.right_none, |value| {
            *value == Value::None
        });
        Ok(checked.map(|()| self.right_none = reply.payload))
    }

    async fn list(&mut self) -> Result<Result<(), Fault>, BenchError> {
        let reply = self.connection.invoke(&self.list_request).await?;
        let right = |value: &Value| match value {
            Value::Dict(items) => {
                let is_right = |(name, uri): &(Value, Value)| {
                    let index = name
                        .as_str()
                        .and_then(|name| name.rsplit('.').next()?.parse().ok());
                    index.is_some_and(|index: usize| {
                        name.as_str() == Some(&list_name(index))
                            && uri.as_str() == Some(&shared_uri(index))
                    })
                };
                items.len() == LIST_LEN && items.iter().all(is_right)
            }
            _ => false,
        };
        let checked = check(&self.plan, &reply, &self.right_list, right);
        Ok(checked.map(|()| self.right_list = reply.payload))
    }
}

/// Checks a reply. If its bytes are not those of a correct reply, its value is compared.
fn check(
    plan: &Plan,
    reply: &Frame,
    right_reply: &[u8],
    right: impl Fn(&Value) -> bool,
) -> Result<(), Fault> {
    if !reply.flags.exception && reply.payload == right_reply {
        return Ok(());
    }
    match plan.dialect().decode(&reply.payload, &Limits::default()) {
        Ok(value) if !reply.flags.exception && right(&value) => Ok(()),
        Ok(Value::Exception(exception)) => {
            let text = format!("{}: {}", exception.class.name(), exception.text());
            // Class and first words. The rest differs from call to call.
            let kind = text.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ");
            Err(Fault { kind, text })
        }
        Ok(value) => Err(Fault::wrong(format!("{value:?}"))),
        Err(exception) => Err(Fault::wrong(format!("undecodable: {exception:?}"))),
    }
}
