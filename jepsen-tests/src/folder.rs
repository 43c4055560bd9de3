//! The folder that a run leaves behind: all that is known about it, as files that other programs can read.
//!
//! ```text
//! run.json       what was run: seed, options, version, when                       RunInfo
//! history.jsonl  one line for each completed operation, in the order of their ends Line
//! faults.jsonl   one line for each fault that was injected or healed               FaultLine
//! verdict.json   what the checkers say                                            Verdict
//! states.jsonl   state hashes of the nodes over time                               campaign::states::State
//! footprints.jsonl  memory and logs of the nodes over time            campaign::footprint::Footprint
//! node<N>.log    the log of each node, over all its lives
//! report.html    the report, made from the files above
//! ```
//!
//! Times that end in `_ns` are nanoseconds of one monotonic clock since the run began. The lines are written
//! as things happen, so a run that was killed leaves them too; it has no `verdict.json` then.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Result, RigError};
use crate::history::{Action, Answer, Nanos, Operation, Outcome};

/// The version of these files; a reader refuses another one.
pub const FORMAT: u32 = 1;

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// [`FORMAT`].
    pub format: u32,
    /// What all random choices were made from. The same seed makes the same choices; what the nodes make of
    /// them depends on the machine as well.
    pub seed: u64,
    /// Version of this program.
    pub version: String,
    /// The `hearthd` under test.
    pub hearthd: PathBuf,
    /// What it says its version is.
    pub hearthd_version: String,
    /// The options of this program, as given.
    pub arguments: Vec<String>,
    /// Options with which every node was started, besides those that say who it is.
    pub node_options: Vec<String>,
    /// How many nodes there were at the beginning.
    pub nodes: u64,
    /// How long the faults and the workloads were to last.
    pub seconds: u64,
    /// Operations a second that all workloads together aim at; none when they go as fast as they can.
    pub rate: Option<u64>,
    /// Clients of each workload.
    pub clients: u32,
    /// Names that were there before anything else.
    #[serde(default)]
    pub names: u64,
    /// `namespaces` or `loopback`.
    pub network: Network,
    /// Workloads that were chosen.
    pub workloads: Vec<String>,
    /// Nemeses that were chosen.
    pub nemeses: Vec<String>,
    /// When it began, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// When it ended; none while it runs, or when it was killed.
    pub ended_unix_ms: Option<u64>,
    /// Phases after the beginning: `faults` (until everything was healed), `liveness`, `final reads`,
    /// `end`.
    #[serde(default)]
    pub phases: Vec<Phase>,
}

/// A part of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What it is.
    pub name: String,
    /// When it began.
    pub begin_ns: Nanos,
    /// When it ended.
    pub end_ns: Nanos,
}

/// What the nodes were connected by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network namespace for each node, and a bridge.
    Namespaces,
    /// Addresses of the loopback network.
    Loopback,
}

/// A line of `history.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Who asked; it has one operation under way at a time. No two workloads share one.
    pub process: u32,
    /// The node that was asked.
    pub node: u64,
    /// The workload that it belongs to.
    pub workload: String,
    /// A word for what was asked ([`Action::kind`]).
    pub kind: String,
    /// What was asked.
    pub arguments: Action,
    /// What became of it.
    pub outcome: OutcomeKind,
    /// What was answered, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Answer>,
    /// Why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Before it was sent.
    pub begin_ns: Nanos,
    /// After it was answered or given up.
    pub end_ns: Nanos,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutcomeKind {
    /// It was answered.
    Ok,
    /// It certainly did nothing.
    Failed,
    /// It may have happened, or may still.
    Unknown,
}

impl Line {
    /// An operation as a line.
    pub fn new(workload: &str, operation: &Operation) -> Self {
        let (outcome, value, reason) = match &operation.outcome {
            Outcome::Ok(answer) => (OutcomeKind::Ok, Some(answer.clone()), None),
            Outcome::Failed(reason) => (OutcomeKind::Failed, None, Some(reason.clone())),
            Outcome::Unknown(reason) => (OutcomeKind::Unknown, None, Some(reason.clone())),
        };
        Self {
            process: operation.client,
            node: operation.node,
            workload: workload.to_owned(),
            kind: operation.action.kind().to_owned(),
            arguments: operation.action.clone(),
            outcome,
            value,
            reason,
            begin_ns: operation.call,
            end_ns: operation.end,
        }
    }

    /// The operation that it tells of. An answered one without an answer is taken for unknown.
    pub fn into_operation(self) -> Operation {
        let reason = self.reason.unwrap_or_default();
        let outcome = match (self.outcome, self.value) {
            (OutcomeKind::Ok, Some(answer)) => Outcome::Ok(answer),
            (OutcomeKind::Failed, _) => Outcome::Failed(reason),
            (OutcomeKind::Ok | OutcomeKind::Unknown, _) => Outcome::Unknown(reason),
        };
        Operation {
            client: self.process,
            node: self.node,
            call: self.begin_ns,
            end: self.end_ns,
            action: self.arguments,
            outcome,
        }
    }
}

/// A line of `faults.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultLine {
    /// The number of the fault; its injection and its healing have the same one.
    pub number: u64,
    /// The nemesis.
    pub name: String,
    /// Whether it was injected or healed.
    pub phase: FaultPhase,
    /// What became of that.
    pub outcome: FaultOutcome,
    /// What exactly was done, or the reason why not.
    pub what: String,
    /// Nodes that it was done to; none where it was done to the network between them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<u64>,
    /// Before it was tried.
    pub begin_ns: Nanos,
    /// After that.
    pub end_ns: Nanos,
}

/// The two ends of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultPhase {
    /// It begins.
    Inject,
    /// It ends.
    Heal,
}

/// What became of a fault, or of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultOutcome {
    /// It is in place, or it is healed.
    Installed,
    /// This machine cannot have it, or there was nothing to do it to.
    Skipped,
    /// Nobody knows.
    Indeterminate,
    /// It was in place, and a node did not do what is promised for it.
    Broken,
}

/// How often a nemesis was tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCounts {
    /// In place, and healed afterwards.
    pub installed: u64,
    /// Not possible here.
    pub skipped: u64,
    /// Installed or healed, but nobody knows whether it was.
    pub indeterminate: u64,
}

/// Counts the faults by the name of their nemesis. One whose healing is indeterminate is so as a whole, and
/// so is one that was never healed.
pub fn count_faults(lines: &[FaultLine]) -> BTreeMap<String, FaultCounts> {
    let mut counts: BTreeMap<String, FaultCounts> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.phase == FaultPhase::Inject) {
        let heals =
            |other: &&FaultLine| other.phase == FaultPhase::Heal && other.number == line.number;
        let healed = lines.iter().find(heals).map(|other| other.outcome);
        let of_this = counts.entry(line.name.clone()).or_default();
        match (line.outcome, healed) {
            (FaultOutcome::Skipped, _) => of_this.skipped += 1,
            (
                FaultOutcome::Installed | FaultOutcome::Broken,
                Some(FaultOutcome::Installed | FaultOutcome::Skipped | FaultOutcome::Broken),
            ) => of_this.installed += 1,
            _ => of_this.indeterminate += 1,
        }
    }
    counts
}

/// Whether something is so: JSON's `true` and `false`, or `"unknown"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Valid {
    /// It is.
    True,
    /// It was not found out.
    Unknown,
    /// It is not.
    False,
}

impl Valid {
    /// What two are together: false if one is, else unknown if one is.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }
}

impl std::fmt::Display for Valid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::True => "true",
            Self::Unknown => "unknown",
            Self::False => "false",
        })
    }
}

impl Serialize for Valid {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::True => serializer.serialize_bool(true),
            Self::False => serializer.serialize_bool(false),
            Self::Unknown => serializer.serialize_str("unknown"),
        }
    }
}

impl<'de> Deserialize<'de> for Valid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Bool(true) => Ok(Self::True),
            serde_json::Value::Bool(false) => Ok(Self::False),
            serde_json::Value::String(text) if text == "unknown" => Ok(Self::Unknown),
            other => Err(serde::de::Error::custom(format!(
                "{other} is none of true, false and \"unknown\""
            ))),
        }
    }
}

/// What one checker says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckerVerdict {
    /// The checker, such as `linearizable per name`.
    pub name: String,
    /// The workload whose history it read; none when it read all of them, or the nodes.
    #[serde(default)]
    pub workload: Option<String>,
    /// Whether what it checks holds.
    pub valid: Valid,
    /// In words: what it looked at, with figures, or what is wrong.
    pub text: String,
    /// The operations that contradict each other, in the order of their calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counterexample: Vec<Line>,
}

impl CheckerVerdict {
    /// One without a counterexample.
    pub fn new(name: &str, valid: Valid, text: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            workload: None,
            valid,
            text: text.into(),
            counterexample: Vec::new(),
        }
    }
}

/// `verdict.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Of all checkers together; unknown also when the run could not be carried out.
    pub valid: Valid,
    /// Why the run says nothing about Hearth, or less than was asked of it.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Each checker.
    pub checkers: Vec<CheckerVerdict>,
    /// Each nemesis.
    pub faults: BTreeMap<String, FaultCounts>,
    /// Operations of each workload by how they ended.
    pub operations: BTreeMap<String, BTreeMap<OutcomeKind, u64>>,
    /// What there was of the service over the whole run.
    #[serde(default)]
    pub overall: Availability,
    /// What was left of it during the faults of each nemesis.
    #[serde(default)]
    pub availability: BTreeMap<String, Availability>,
    /// The longest time without an acknowledged write that no fault explains, in milliseconds.
    #[serde(default)]
    pub calm_gap_ms: u64,
    /// What each node took of its machine, by place.
    #[serde(default)]
    pub nodes: BTreeMap<u64, NodeFigures>,
}

/// What a node took of its machine, over all its lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFigures {
    /// The most memory that one of its processes held, in bytes.
    pub resident_max: u64,
    /// What the last one held when it was last looked at.
    pub resident_end: u64,
    /// Bytes of its log.
    pub log_len: u64,
    /// How often it was started.
    pub starts: u64,
    /// How long it took to serve after each start at the end of the run, in milliseconds.
    pub restarts_ms: Vec<u64>,
}

/// Figures of the time in which the faults of one nemesis were in place, or of the whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Availability {
    /// Faults that were in place.
    pub faults: u64,
    /// Operations that were begun meanwhile.
    pub operations: u64,
    /// Those of them that were answered.
    pub ok: u64,
    /// Those that certainly did nothing.
    pub failed: u64,
    /// Those that may have happened, or may still.
    pub unknown: u64,
    /// The longest time without any acknowledged write that began in such a fault, in milliseconds.
    pub longest_gap_ms: u64,
    /// The longest time without any answered read that began in such a fault.
    pub longest_read_gap_ms: u64,
    /// Of the operations, those at nodes that the fault did not hit. A connection that a client keeps to a
    /// node that was hit is not counted here.
    pub spared_operations: u64,
    /// Those of them that were answered.
    pub spared_ok: u64,
    /// The longest that one of them took, answered or not.
    pub spared_longest_ms: u64,
}

/// How long a line may wait for others before it is written.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// Writes lines of JSON to a file, from several tasks. What was added more than a second before another
/// line is in the file, also when the program is killed.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    output: Mutex<Output>,
}

#[derive(Debug)]
struct Output {
    file: BufWriter<File>,
    flushed: Instant,
    /// The first error; it is told when somebody asks.
    error: Option<std::io::Error>,
}

impl Lines {
    /// Begins a file, or empties one.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(RigError::system(path.display().to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            output: Mutex::new(Output {
                file: BufWriter::with_capacity(1 << 16, file),
                flushed: Instant::now(),
                error: None,
            }),
        })
    }

    /// Adds a line. The first error is kept for [`Lines::flush`], because nobody could do anything
    /// about it here.
    pub fn add(&self, line: &impl Serialize) {
        // Outside of the lock: this is most of the work.
        let text = serde_json::to_vec(line);
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let written = text.map_err(std::io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            output.file.write_all(&text)?;
            if output.flushed.elapsed() < FLUSH_AFTER {
                return Ok(());
            }
            output.flushed = Instant::now();
            output.file.flush()
        });
        if let Err(error) = written {
            output.error.get_or_insert(error);
        }
    }

    /// Gives all lines to the system.
    ///
    /// # Errors
    /// The first one since the file was begun.
    pub fn flush(&self) -> Result<()> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = output.file.flush();
        output
            .error
            .take()
            .map_or(flushed, Err)
            .map_err(RigError::system(self.path.display().to_string()))
    }
}

/// The folder of a run.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes one; it must be empty or not exist.
    ///
    /// # Errors
    /// The system's, and when something is in it.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(RigError::system(path.display().to_string()))?;
        if !crate::node::is_empty(path) {
            return Err(RigError::Refused {
                what: format!("--folder {}", path.display()),
                reason: "there are files in it; name one that is empty or not there yet".into(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// One that a run has left.
    ///
    /// # Errors
    /// When it has no `run.json` that this program can read.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = Self {
            path: path.to_owned(),
        };
        folder.run_info()?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `history.jsonl`.
    pub fn history_path(&self) -> PathBuf {
        self.path.join("history.jsonl")
    }

    /// `faults.jsonl`.
    pub fn faults_path(&self) -> PathBuf {
        self.path.join("faults.jsonl")
    }

    /// `report.html`.
    pub fn report_path(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// `node<N>.log`.
    pub fn log_path(&self, node: u64) -> PathBuf {
        self.path.join(format!("node{node}.log"))
    }

    /// Reads `run.json`.
    ///
    /// # Errors
    /// The system's, and when it cannot be read or has another format.
    pub fn run_info(&self) -> Result<RunInfo> {
        let info: RunInfo = self.read("run.json")?;
        if info.format != FORMAT {
            return Err(RigError::Unreadable {
                command: self.path.join("run.json").display().to_string(),
                reason: format!("this program reads format {FORMAT}"),
                text: format!("format {}", info.format),
            });
        }
        Ok(info)
    }

    /// Writes `run.json`.
    ///
    /// # Errors
    /// The system's.
    pub fn write_run_info(&self, info: &RunInfo) -> Result<()> {
        self.write("run.json", info)
    }

    /// Reads `verdict.json`; none when the run did not come so far.
    ///
    /// # Errors
    /// The system's, and when it cannot be read.
    pub fn verdict(&self) -> Result<Option<Verdict>> {
        if !self.path.join("verdict.json").exists() {
            return Ok(None);
        }
        self.read("verdict.json").map(Some)
    }

    /// Writes `verdict.json`.
    ///
    /// # Errors
    /// The system's.
    pub fn write_verdict(&self, verdict: &Verdict) -> Result<()> {
        self.write("verdict.json", verdict)
    }

    /// Reads `history.jsonl`.
    ///
    /// # Errors
    /// The system's, and a line that cannot be read.
    pub fn history(&self) -> Result<Vec<Line>> {
        read_lines(&self.history_path())
    }

    /// Reads `faults.jsonl`.
    ///
    /// # Errors
    /// The system's, and a line that cannot be read.
    pub fn faults(&self) -> Result<Vec<FaultLine>> {
        read_lines(&self.faults_path())
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.path.join(name);
        let text =
            fs::read_to_string(&path).map_err(RigError::system(path.display().to_string()))?;
        serde_json::from_str(&text).map_err(|error| unreadable(&path, &error, &text))
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.path.join(name);
        let what = || RigError::system(path.display().to_string());
        let mut text = serde_json::to_vec_pretty(value)
            .map_err(std::io::Error::from)
            .map_err(what())?;
        text.push(b'\n');
        fs::write(&path, text).map_err(what())
    }
}

/// Reads a file of lines. A last line that is not whole is left out: the run was killed while it wrote.
fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let what = || RigError::system(path.display().to_string());
    let mut reader = BufReader::new(File::open(path).map_err(what())?);
    let mut found = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).map_err(what())? == 0 || !line.ends_with('\n') {
            return Ok(found);
        }
        found.push(serde_json::from_str(&line).map_err(|error| unreadable(path, &error, &line))?);
    }
}

fn unreadable(path: &Path, error: &serde_json::Error, text: &str) -> RigError {
    RigError::Unreadable {
        command: path.display().to_string(),
        reason: error.to_string(),
        text: text.chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(outcome: Outcome) -> Operation {
        Operation {
            client: 3,
            node: 2,
            call: 10,
            end: 20,
            action: Action::Lookup { name: "n".into() },
            outcome,
        }
    }

    fn fault(number: u64, phase: FaultPhase, outcome: FaultOutcome) -> FaultLine {
        FaultLine {
            number,
            name: "kill one".into(),
            phase,
            outcome,
            what: String::new(),
            nodes: Vec::new(),
            begin_ns: 0,
            end_ns: 1,
        }
    }

    #[test]
    fn an_operation_survives_its_line() {
        for outcome in [
            Outcome::Ok(Answer::Entry(None)),
            Outcome::Failed("no quorum".into()),
            Outcome::Unknown("reset".into()),
        ] {
            let operation = operation(outcome);
            let text = serde_json::to_string(&Line::new("names", &operation)).unwrap();
            let line: Line = serde_json::from_str(&text).unwrap();
            assert_eq!(line.workload, "names");
            assert_eq!(line.into_operation(), operation);
        }
    }

    #[test]
    fn a_line_that_was_cut_short_is_left_out_and_a_broken_one_is_not() {
        let path = std::env::temp_dir().join(format!("hearth-lines-{}", std::process::id()));
        let whole = serde_json::to_string(&fault(1, FaultPhase::Inject, FaultOutcome::Installed));
        let whole = whole.unwrap();
        fs::write(&path, format!("{whole}\n{}", &whole[..20])).unwrap();
        assert_eq!(read_lines::<FaultLine>(&path).unwrap().len(), 1);
        fs::write(&path, format!("{}\n{whole}\n", &whole[..20])).unwrap();
        assert!(read_lines::<FaultLine>(&path).is_err());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn only_a_fault_that_was_installed_and_healed_counts() {
        use {FaultOutcome as O, FaultPhase as P};
        let counts = count_faults(&[
            fault(1, P::Inject, O::Installed),
            fault(1, P::Heal, O::Installed),
            fault(2, P::Inject, O::Installed),
            fault(2, P::Heal, O::Indeterminate),
            fault(3, P::Inject, O::Skipped),
            fault(4, P::Inject, O::Installed),
            fault(5, P::Inject, O::Indeterminate),
            fault(5, P::Heal, O::Installed),
            fault(6, P::Inject, O::Broken),
            fault(6, P::Heal, O::Installed),
        ]);
        let expected = FaultCounts {
            installed: 2,
            skipped: 1,
            indeterminate: 3,
        };
        assert_eq!(counts["kill one"], expected);
    }

    #[test]
    fn what_is_valid_is_plain_json() {
        for (valid, text) in [
            (Valid::True, "true"),
            (Valid::False, "false"),
            (Valid::Unknown, "\"unknown\""),
        ] {
            assert_eq!(serde_json::to_string(&valid).unwrap(), text);
            assert_eq!(serde_json::from_str::<Valid>(text).unwrap(), valid);
        }
        assert!(serde_json::from_str::<Valid>("1").is_err());
        assert_eq!(Valid::Unknown.and(Valid::False), Valid::False);
        assert_eq!(Valid::True.and(Valid::Unknown), Valid::Unknown);
    }
}
