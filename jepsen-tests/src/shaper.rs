//! A bad network between nodes: packets that come late, never, twice or out of order.
//!
//! The kernel's own means for that (`netem`) are not in every kernel. So a small program
//! (`programs/shaper.py`) takes the packets between nodes through devices of its own, and passes them on as
//! it is told. It is in nobody's way while it does not run, and its devices and routes end with it.

use std::fmt;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Result, RigError};
use crate::net::Net;
use crate::process::Process;
use crate::programs;
use crate::run::Run;

const SOURCE: &str = include_str!("../programs/shaper.py");

/// How long it may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What happens to packets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shape {
    /// Milliseconds by which each one comes later: at least, at most. They stay in order.
    pub delay_ms: (f64, f64),
    /// The share that never comes.
    pub lost: f64,
    /// The share that comes twice.
    pub twice: f64,
    /// The share that is overtaken by others.
    pub later: f64,
}

impl Shape {
    /// A network that does nothing to them.
    pub const FINE: Self = Self {
        delay_ms: (0.0, 0.0),
        lost: 0.0,
        twice: 0.0,
        later: 0.0,
    };
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.delay_ms;
        let mut parts = Vec::new();
        if most > 0.0 {
            parts.push(format!("{least} to {most} ms late"));
        }
        for (share, what) in [
            (self.lost, "lost"),
            (self.twice, "twice"),
            (self.later, "out of order"),
        ] {
            if share > 0.0 {
                parts.push(format!("{:.0} % {what}", share * 100.0));
            }
        }
        f.write_str(&parts.join(", "))
    }
}

/// What became of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// All that came by.
    pub passed: u64,
    /// Those that it kept.
    pub lost: u64,
    /// Those that it passed on twice.
    pub twice: u64,
    /// Those that it held back.
    pub later: u64,
}

/// One at work. Dropping it ends it.
#[derive(Debug)]
pub struct Shaper {
    process: Process,
}

impl Shaper {
    /// Takes the packets that go over `links`, each from one node to another one.
    ///
    /// # Errors
    /// When it cannot be done here: it takes root, `/dev/net/tun` and a Python.
    pub async fn start(
        run: &Arc<Run>,
        net: &Net,
        links: &[(u64, u64)],
        shape: Shape,
        seed: u64,
    ) -> Result<Self> {
        let refused = |reason: String| RigError::Refused {
            what: "a bad network".into(),
            reason,
        };
        let python = programs::python().map_err(refused)?;
        let program = run.folder().join("shaper.py");
        fs::write(&program, SOURCE).map_err(RigError::system(program.display().to_string()))?;
        let place = |node: u64| {
            let place = json!({"space": net.namespace(node), "address": net.address(node)});
            (node.to_string(), place)
        };
        let nodes: serde_json::Map<String, serde_json::Value> = links
            .iter()
            .flat_map(|&(from, to)| [place(from), place(to)])
            .collect();
        let orders = json!({
            "nodes": nodes,
            "links": links,
            "delay_ms": shape.delay_ms,
            "lost": shape.lost,
            "twice": shape.twice,
            "later": shape.later,
            "seed": seed,
        });
        let mut command = Command::new(python);
        command.arg(&program).arg(orders.to_string());
        let printed = run.folder().join("shaper-printed");
        let log = run.folder().join("shaper-log");
        let mut process = Process::spawn(run, "the shaper", command, &printed, &log)?;
        process.wait_for_line("shaping", PATIENCE).await?;
        Ok(Self { process })
    }

    /// Ends it; packets go their own way again.
    ///
    /// # Errors
    /// When it had ended before, or does not say what it did.
    pub async fn end(mut self) -> Result<Counts> {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(PATIENCE).await?;
        let printed = self.process.printed();
        let last = printed.lines().last().unwrap_or_default();
        serde_json::from_str(last).map_err(|error| RigError::Unreadable {
            command: format!("the shaper ({status})"),
            reason: error.to_string(),
            text: format!("{printed}\n{}", self.process.log_tail(20)),
        })
    }
}
