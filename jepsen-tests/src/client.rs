//! Clients that are honest about what became of their calls, and the recorder of what they saw.
//!
//! A call that was answered is [`Outcome::Ok`], with the answer, also when that is a refusal that the name
//! server is there to give. One that certainly did nothing is [`Outcome::Failed`]: no connection came about,
//! or the server said that nothing was changed. Everything else may have happened, or may still:
//! [`Outcome::Unknown`]. Nothing is ever sent twice.
//!
//! A URI that begins with `PYRO:long_` and a number stands for one of so many bytes: that is what the nodes
//! are sent and must give back, and a history stays readable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_cli::wire::NamingErrorKind;
use hearth_cli::{
    Address, BatchCall, ClientError, ConnectOptions, Filter, IfTaken, Listing, NAME_SERVER,
    NameServer, Removal,
};

use crate::error::{Result, RigError};
use crate::folder::{Line, Lines};
use crate::history::{Action, Answer, Entry, Nanos, Operation, Outcome};

/// Takes down all operations of a run, or of one of its workloads, with times of one monotonic clock.
#[derive(Debug)]
pub struct Recorder {
    begin: Instant,
    workload: String,
    operations: Mutex<Vec<Operation>>,
    /// Where they are written to as they end.
    lines: Option<Arc<Lines>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            workload: String::new(),
            operations: Mutex::new(Vec::new()),
            lines: None,
        }
    }
}

impl Recorder {
    /// One for a workload of a run that began at `begin`. Each operation is written to `lines` too.
    pub fn of_workload(begin: Instant, workload: &str, lines: Arc<Lines>) -> Self {
        Self {
            begin,
            workload: workload.to_owned(),
            operations: Mutex::new(Vec::new()),
            lines: Some(lines),
        }
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> Nanos {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    /// Takes down one operation.
    pub fn add(&self, operation: Operation) {
        if let Some(lines) = &self.lines {
            lines.add(&Line::new(&self.workload, &operation));
        }
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(operation);
    }

    /// All so far, in the order of their ends.
    pub fn operations(&self) -> Vec<Operation> {
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many there are so far.
    pub fn count(&self) -> usize {
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Writes all of them to a file, one JSON object on each line.
    ///
    /// # Errors
    /// The system's.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        let what = || RigError::system(path.display().to_string());
        let mut file = BufWriter::new(File::create(path).map_err(what())?);
        for operation in self.operations() {
            serde_json::to_writer(&mut file, &operation)
                .map_err(std::io::Error::from)
                .and_then(|()| file.write_all(b"\n"))
                .map_err(what())?;
        }
        file.flush().map_err(what())
    }
}

/// One client with a list of nodes. It stays with one as long as that answers.
#[derive(Debug)]
pub struct Client {
    id: u32,
    endpoints: Vec<(u64, Address)>,
    /// Which of them it talks to.
    at: usize,
    options: ConnectOptions,
    connection: Option<NameServer>,
    recorder: Arc<Recorder>,
}

impl Client {
    /// A client of the first of these nodes, which goes on to the next ones when that is gone.
    pub fn new(id: u32, endpoints: Vec<(u64, Address)>, recorder: &Arc<Recorder>) -> Self {
        let options = ConnectOptions {
            timeout: Some(Duration::from_secs(30)),
            ..ConnectOptions::default()
        };
        Self {
            id,
            endpoints,
            at: 0,
            options,
            connection: None,
            recorder: Arc::clone(recorder),
        }
    }

    /// Changes how long it waits for an answer (30 s at first).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// The node that it talks to.
    pub fn node(&self) -> u64 {
        self.endpoints.get(self.at).map_or(0, |&(node, _)| node)
    }

    /// Talks to another node from now on.
    pub fn go_to(&mut self, node: u64) {
        if self.node() != node
            && let Some(at) = self.endpoints.iter().position(|&(other, _)| other == node)
        {
            self.at = at;
            self.connection = None;
        }
    }

    /// Calls, and takes down what became of it.
    pub async fn perform(&mut self, action: Action) -> Operation {
        let call = self.recorder.now();
        let outcome = match self.connected().await {
            Ok(connection) => match ask(connection, &action).await {
                Ok(answer) => Outcome::Ok(answer),
                Err(error) => {
                    let lost = error.is_communication();
                    let outcome = judge(&action, &error);
                    if lost {
                        self.connection = None;
                    }
                    outcome
                }
            },
            Err(error) => Outcome::Failed(format!("not sent: {error}")),
        };
        let operation = self.note(call, action, outcome);
        if self.connection.is_none() {
            self.at = (self.at + 1) % self.endpoints.len().max(1);
        }
        operation
    }

    fn note(&self, call: Nanos, action: Action, outcome: Outcome) -> Operation {
        let operation = Operation {
            client: self.id,
            node: self.node(),
            call,
            end: self.recorder.now(),
            action,
            outcome,
        };
        self.recorder.add(operation.clone());
        operation
    }

    /// Registers names in one message, and takes down what became of each. Returns how many may have been
    /// registered without an answer.
    pub async fn register_all(&mut self, entries: Vec<(String, Entry)>) -> usize {
        let call = self.recorder.now();
        let calls = entries.iter().map(|(name, entry)| BatchCall {
            method: "register".into(),
            args: vec![name.as_str().into(), expanded(&entry.uri).as_str().into()],
            kwargs: Vec::new(),
        });
        let calls = calls.collect();
        let told = match self.connected().await {
            Ok(server) => {
                let told = async { server.connection().await?.batch(NAME_SERVER, calls).await };
                told.await
                    .map_err(|error| (error.is_communication(), error))
            }
            Err(error) => {
                for (name, entry) in entries {
                    let outcome = Outcome::Failed(format!("not sent: {error}"));
                    self.note(call, registration(name, entry), outcome);
                }
                return 0;
            }
        };
        let mut unknown = 0;
        let (mut replies, failed) = match told {
            Ok(replies) => (replies.into_iter(), None),
            Err((lost, error)) => {
                if lost {
                    self.connection = None;
                }
                (Vec::new().into_iter(), Some(error.to_string()))
            }
        };
        for (name, entry) in entries {
            let action = registration(name, entry);
            let outcome = match (replies.next(), &failed) {
                (Some(Ok(_)), _) => Outcome::Ok(Answer::Done),
                (Some(Err(exception)), _) => judge_refusal(&action, exception.text()),
                // Some of them may have been made.
                (None, Some(error)) => Outcome::Unknown(error.clone()),
                (None, None) => Outcome::Failed("a call before it was refused".into()),
            };
            unknown += usize::from(matches!(outcome, Outcome::Unknown(_)));
            self.note(call, action, outcome);
        }
        if self.connection.is_none() {
            self.at = (self.at + 1) % self.endpoints.len().max(1);
        }
        unknown
    }

    /// A connection to the node that it talks to, or else to the first after it that takes one.
    async fn connected(&mut self) -> std::result::Result<&mut NameServer, ClientError> {
        if let Some(mut connection) = self.connection.take() {
            if !connection.connection().await?.has_ended() {
                return Ok(self.connection.insert(connection));
            }
            self.at = (self.at + 1) % self.endpoints.len();
        }
        let mut tries = 0;
        loop {
            let Some((_, address)) = self.endpoints.get(self.at) else {
                return Err(ClientError::NotLocated {
                    attempts: Vec::new(),
                });
            };
            match NameServer::connect(address, &self.options).await {
                Ok(connection) => return Ok(self.connection.insert(connection)),
                Err(error) => {
                    tries += 1;
                    if tries >= self.endpoints.len() {
                        return Err(error);
                    }
                    self.at = (self.at + 1) % self.endpoints.len();
                }
            }
        }
    }
}

/// What a failed call means for the operation.
fn judge(action: &Action, error: &ClientError) -> Outcome {
    let text = error.to_string();
    let Some(_) = error.exception() else {
        return Outcome::Unknown(text);
    };
    judge_refusal(action, text)
}

/// What it means that the name server raised an exception with this text.
pub(crate) fn judge_refusal(action: &Action, text: String) -> Outcome {
    match NamingErrorKind::of_text(&text) {
        Some(NamingErrorKind::UnknownName) => Outcome::Ok(match action {
            Action::Lookup { .. } => Answer::Entry(None),
            _ => Answer::UnknownName,
        }),
        Some(NamingErrorKind::NameTaken) => Outcome::Ok(Answer::Taken),
        Some(kind) if kind.is_unserved() => Outcome::Failed(text),
        _ if !action.is_write() => Outcome::Failed(text),
        _ => Outcome::Unknown(text),
    }
}

async fn ask(
    name_server: &mut NameServer,
    action: &Action,
) -> std::result::Result<Answer, ClientError> {
    Ok(match action {
        Action::Register { name, entry, safe } => {
            let if_taken = if *safe {
                IfTaken::Refuse
            } else {
                IfTaken::Replace
            };
            name_server
                .register(name, &expanded(&entry.uri), if_taken, Some(&entry.tags))
                .await?;
            Answer::Done
        }
        Action::SetMetadata { name, tags } => {
            name_server.set_metadata(name, tags).await?;
            Answer::Done
        }
        Action::Lookup { name } => {
            let (uri, tags) = name_server.lookup_with_metadata(name).await?;
            Answer::Entry(Some(Entry {
                uri: contracted(uri.to_string()),
                tags,
            }))
        }
        Action::Remove { name } => Answer::Removed(name_server.remove(Removal::Name(name)).await?),
        Action::RemovePrefix { prefix, by_regex } => {
            let regex = format!("{}.*", escaped(prefix));
            let removal = if *by_regex {
                Removal::Regex(&regex)
            } else {
                Removal::Prefix(prefix)
            };
            Answer::Removed(name_server.remove(removal).await?)
        }
        Action::List { prefix } => entries(name_server.list(Filter::Prefix(prefix)).await?),
        Action::Tagged { tag } => {
            let tags = BTreeSet::from([tag.clone()]);
            entries(name_server.yplookup_all(&tags).await?)
        }
        // Nothing that a name server has a method for; whoever does it takes it down itself.
        Action::Other { .. } => {
            name_server.ping().await?;
            Answer::Done
        }
    })
}

fn entries(listing: Listing) -> Answer {
    let entries: BTreeMap<_, _> = listing
        .into_iter()
        .map(|(name, found)| {
            let entry = Entry {
                uri: contracted(found.uri),
                tags: found.metadata,
            };
            (name, entry)
        })
        .collect();
    Answer::Entries(entries)
}

fn registration(name: String, entry: Entry) -> Action {
    Action::Register {
        name,
        entry,
        safe: false,
    }
}

/// How a URI begins that stands for a long one.
const LONG: &str = "PYRO:long_";

/// The short form of a URI of `len` bytes, which differs for each `id`.
pub fn long(len: usize, id: &str) -> Entry {
    plain(format!("{LONG}{len}_{id}@h:1"))
}

/// The URI that another one stands for.
fn expanded(uri: &str) -> String {
    let len = uri
        .strip_prefix(LONG)
        .and_then(|rest| rest.split('_').next());
    let (Some(Ok(len)), Some(object)) = (len.map(str::parse::<usize>), uri.strip_suffix("@h:1"))
    else {
        return uri.to_owned();
    };
    // Not the same everywhere, so that a part that is in the wrong place shows.
    let part = format!("{:016x}", crate::workload::seed_of(0, &object));
    let fill = len.saturating_sub(object.len() + 3);
    let mut host = part.repeat(fill / part.len() + 1);
    host.truncate(fill);
    format!("{object}@{host}:1")
}

/// The URI that stands for another one, or a word for one that is not as it was sent.
fn contracted(uri: String) -> String {
    let Some((object, _)) = uri.split_once('@').filter(|_| uri.starts_with(LONG)) else {
        return uri;
    };
    let short = format!("{object}@h:1");
    if expanded(&short) == uri {
        return short;
    }
    format!("damaged, of {} bytes: {object}", uri.len())
}

/// A regular expression for exactly this text.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_alphanumeric() && c != '_' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// An entry without tags, for tests that only count writes.
pub fn plain(uri: impl Into<String>) -> Entry {
    Entry {
        uri: uri.into(),
        tags: BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_uri_comes_back_short_unless_it_was_changed() {
        let short = long(70_000, "3-4").uri;
        let mut sent = expanded(&short);
        assert_eq!(sent.len(), 70_000);
        assert_eq!(contracted(sent.clone()), short);
        assert_ne!(expanded(&long(70_000, "3-5").uri), sent);
        sent.replace_range(40_000..40_001, "!");
        assert!(contracted(sent).starts_with("damaged"));
        for uri in ["PYRO:o@h:1", "PYRO:long_x@h:1", ""] {
            assert_eq!(contracted(expanded(uri)), uri);
        }
    }
}
