//! A real Pyro4 or Pyro5 program as a client (`programs/pyro_client.py`). It receives one request per line and
//! answers each with one line. An answer becomes an operation under the same rules as in the rig's own client:
//! answered, certainly not done, or unknown.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use hearth_cli::Address;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::CALL_PATIENCE;
use crate::client::{Recorder, judge_refusal};
use crate::error::{Result, RigError};
use crate::history::{Action, Answer, Entry, Operation, Outcome};
use crate::node::clear_environment;
use crate::programs;
use crate::run::Run;

const SOURCE: &str = include_str!("../../programs/pyro_client.py");

/// The longest time for one answer of the program. It covers the program's own timeouts for connecting and for
/// the call, the broadcasts that Pyro repeats, and the delays of a busy machine.
const PROGRAM_PATIENCE: Duration = Duration::from_secs(90);

/// The generations of Pyro.
pub const FAMILIES: [&str; 2] = ["Pyro4", "Pyro5"];

/// The way in which a program finds its name server.
#[derive(Debug, Clone)]
pub enum Finds {
    /// The program is told the host and port of one of these nodes, and moves on to the next one if that fails.
    Told(Vec<(u64, Address)>),
    /// The program searches as Pyro itself does, without an address. Its operations are recorded for this node.
    Itself(u64),
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    process: u32,
    family: &'static str,
    finds: Finds,
    /// The position of the current node in [`Finds::Told`].
    at: usize,
    is_connected: bool,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    recorder: Arc<Recorder>,
    run: Arc<Run>,
}

/// A line of the program's output.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Told {
    Ok(Value),
    Raised(String),
    Unsent(String),
    Lost(String),
}

impl Program {
    /// Starts a program. `process` is the client's number in the history, `environment` holds variables for
    /// Pyro, and `command` makes the command that runs an executable at the place where the program is to run.
    ///
    /// # Errors
    /// [`RigError::Refused`] if there is no Python with Pyro, [`RigError::System`] if the program cannot be
    /// started, or an error of the run if it cannot note the process.
    pub fn start(
        run: &Arc<Run>,
        process: u32,
        family: &'static str,
        finds: Finds,
        environment: &[(&str, String)],
        recorder: &Arc<Recorder>,
        command: impl FnOnce(&Path) -> std::process::Command,
    ) -> Result<Self> {
        let python = programs::python().map_err(|reason| RigError::Refused {
            what: "a Python with Pyro4 and Pyro5".into(),
            reason,
        })?;
        let mut command = command(python);
        clear_environment(&mut command);
        command.envs(environment.iter().cloned());
        command
            .args(["-c", SOURCE, family])
            .arg(CALL_PATIENCE.as_secs().to_string());
        let text = format!("a {family} program");
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(RigError::system(text.as_str()))?;
        if let Some(id) = child.id() {
            run.note_process(id, &text)?;
        }
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            let error = std::io::Error::other("it has no standard input or output");
            return Err(RigError::system(text)(error));
        };
        Ok(Self {
            process,
            family,
            finds,
            at: 0,
            is_connected: false,
            child,
            input,
            output: BufReader::new(output).lines(),
            recorder: Arc::clone(recorder),
            run: Arc::clone(run),
        })
    }

    /// Returns the number of its current node.
    pub fn node(&self) -> u64 {
        match &self.finds {
            Finds::Told(nodes) => nodes.get(self.at).map_or(0, |&(node, _)| node),
            Finds::Itself(node) => *node,
        }
    }

    /// Moves to another of its nodes. Does nothing if `node` is not one of them.
    pub fn go_to(&mut self, node: u64) {
        if let Finds::Told(nodes) = &self.finds
            && let Some(at) = nodes.iter().position(|&(other, _)| other == node)
            && at != self.at
        {
            self.at = at;
            self.is_connected = false;
        }
    }

    /// Performs an operation and records it.
    ///
    /// # Errors
    /// A failure of the program itself, which says nothing about Hearth.
    pub async fn perform(&mut self, action: Action) -> Result<Operation> {
        let call = self.recorder.now();
        let mut outcome = self.connected().await?;
        if outcome.is_none() {
            let told = self.ask(&request(&action)).await?;
            self.is_connected = !matches!(told, Told::Unsent(_) | Told::Lost(_));
            outcome = Some(
                outcome_of(&action, told).map_err(|value| RigError::Unreadable {
                    command: format!("the {} program", self.family),
                    reason: format!("no answer to {}", action.kind()),
                    text: value.to_string(),
                })?,
            );
        }
        let operation = Operation {
            client: self.process,
            node: self.node(),
            call,
            end: self.recorder.now(),
            action,
            outcome: outcome.unwrap_or(Outcome::Unknown(String::new())),
        };
        if !self.is_connected {
            self.next();
        }
        self.recorder.add(operation.clone());
        Ok(operation)
    }

    /// Makes the program look for a name server as Pyro does, and connect to it. Returns the URI that it found,
    /// or the text of its error.
    ///
    /// # Errors
    /// A failure of the program itself.
    pub async fn locate(&mut self) -> Result<std::result::Result<String, String>> {
        Ok(match self.ask(&json!({"do": "locate"})).await? {
            Told::Ok(uri) => Ok(uri.as_str().unwrap_or_default().to_owned()),
            Told::Raised(text) | Told::Unsent(text) | Told::Lost(text) => Err(text),
        })
    }

    /// Kills the program and waits for its end.
    pub async fn stop(mut self) {
        // This fails if the program has ended already.
        let _ = self.child.kill().await;
    }

    /// Connects to the current node, or to the first one after it that accepts a connection. Returns the
    /// outcome of the operation if there is none.
    async fn connected(&mut self) -> Result<Option<Outcome>> {
        let tries = match &self.finds {
            Finds::Told(nodes) => nodes.len(),
            Finds::Itself(_) => 1,
        };
        let mut seen = "there is no node".to_owned();
        for _ in 0..tries {
            if self.is_connected {
                break;
            }
            let request = match &self.finds {
                Finds::Told(nodes) => match nodes.get(self.at) {
                    Some((_, Address::Tcp { host, port })) => {
                        json!({"do": "locate", "host": host, "port": port})
                    }
                    _ => continue,
                },
                Finds::Itself(_) => json!({"do": "locate"}),
            };
            match self.ask(&request).await? {
                Told::Ok(_) => self.is_connected = true,
                Told::Raised(text) | Told::Unsent(text) | Told::Lost(text) => {
                    seen = text;
                    self.next();
                }
            }
        }
        Ok((!self.is_connected).then(|| Outcome::Failed(format!("not sent: {seen}"))))
    }

    fn next(&mut self) {
        if let Finds::Told(nodes) = &self.finds {
            self.at = (self.at + 1) % nodes.len().max(1);
        }
    }

    async fn ask(&mut self, request: &Value) -> Result<Told> {
        let what = format!("the {} program", self.family);
        let mut line = request.to_string();
        line.push('\n');
        self.input
            .write_all(line.as_bytes())
            .await
            .map_err(RigError::system(what.as_str()))?;
        let answer = tokio::time::timeout(PROGRAM_PATIENCE, self.output.next_line())
            .await
            .map_err(|_| RigError::NotInTime {
                what: format!("an answer of {what} to {request}"),
                waited: PROGRAM_PATIENCE,
                seen: "nothing".into(),
            })?
            .map_err(RigError::system(what.as_str()))?
            .ok_or_else(|| RigError::Panicked {
                what: what.clone(),
                reason: "it ended; what it wrote to standard error says why".into(),
            })?;
        serde_json::from_str(&answer).map_err(|error| RigError::Unreadable {
            command: what,
            reason: error.to_string(),
            text: answer,
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(id) = self.child.id() {
            // The runtime kills the process; its note must not outlive it.
            self.run.forget_process(id);
        }
    }
}

fn request(action: &Action) -> Value {
    match action {
        Action::Register { name, entry, safe } => json!({
            "do": "register", "name": name, "uri": entry.uri, "tags": entry.tags, "safe": safe
        }),
        Action::SetMetadata { name, tags } => {
            json!({"do": "set_metadata", "name": name, "tags": tags})
        }
        Action::Lookup { name } => json!({"do": "lookup", "name": name}),
        Action::Remove { name } => json!({"do": "remove", "name": name}),
        Action::List { prefix } => json!({"do": "list", "prefix": prefix}),
        // These programs do not support other operations: the program reports an error, and the run ends.
        other => json!({"do": other.kind()}),
    }
}

/// Converts an answer of the program to an outcome.
///
/// # Errors
/// The answered value if it is not a valid answer to the operation.
fn outcome_of(action: &Action, told: Told) -> std::result::Result<Outcome, Value> {
    Ok(match told {
        Told::Ok(value) => Outcome::Ok(answer(action, value)?),
        Told::Raised(text) => judge_refusal(action, text),
        Told::Unsent(text) => Outcome::Failed(format!("not sent: {text}")),
        Told::Lost(text) => Outcome::Unknown(text),
    })
}

fn answer(action: &Action, value: Value) -> std::result::Result<Answer, Value> {
    let read = match action {
        Action::Lookup { .. } => entry(&value).map(|entry| Answer::Entry(Some(entry))),
        Action::Remove { .. } => value.as_u64().map(Answer::Removed),
        Action::List { .. } => value.as_object().and_then(|entries| {
            entries
                .iter()
                .map(|(name, value)| Some((name.clone(), entry(value)?)))
                .collect::<Option<_>>()
                .map(Answer::Entries)
        }),
        _ => Some(Answer::Done),
    };
    read.ok_or(value)
}

/// Reads an entry, which is encoded as `[uri, [tags]]`.
fn entry(value: &Value) -> Option<Entry> {
    let uri = value.get(0)?.as_str()?.to_owned();
    let tags = value.get(1)?.as_array()?;
    let tags: Option<BTreeSet<String>> = tags
        .iter()
        .map(|tag| tag.as_str().map(str::to_owned))
        .collect();
    Some(Entry { uri, tags: tags? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup() -> Action {
        Action::Lookup { name: "n".into() }
    }

    fn remove() -> Action {
        Action::Remove { name: "n".into() }
    }

    fn outcome(action: &Action, line: &str) -> std::result::Result<Outcome, Value> {
        outcome_of(action, serde_json::from_str(line).unwrap())
    }

    #[test]
    fn what_a_program_tells_is_taken_for_no_more_than_it_is() {
        let found = Answer::Entry(Some(Entry {
            uri: "PYRO:o@h:1".into(),
            tags: BTreeSet::from(["t".into()]),
        }));
        let is = |answer| Ok(Outcome::Ok(answer));
        assert_eq!(
            outcome(&lookup(), r#"{"ok": ["PYRO:o@h:1", ["t"]]}"#),
            is(found)
        );
        assert_eq!(
            outcome(&lookup(), r#"{"raised": "unknown name: n"}"#),
            is(Answer::Entry(None))
        );
        assert_eq!(outcome(&remove(), r#"{"ok": 1}"#), is(Answer::Removed(1)));
        assert!(outcome(&remove(), r#"{"ok": "one"}"#).is_err());
        assert!(outcome(&lookup(), r#"{"ok": null}"#).is_err());
        let is_unknown = |line| matches!(outcome(&remove(), line), Ok(Outcome::Unknown(_)));
        let is_failed = |line| matches!(outcome(&remove(), line), Ok(Outcome::Failed(_)));
        assert!(is_unknown(
            r#"{"lost": "TimeoutError: receiving: timeout"}"#
        ));
        assert!(is_unknown(r#"{"raised": "outcome unknown: no leader"}"#));
        assert!(is_failed(r#"{"unsent": "CommunicationError: refused"}"#));
        assert!(is_failed(r#"{"raised": "no quorum: 1 of 3"}"#));
    }
}
