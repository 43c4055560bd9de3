//! A network of the run's own: one network namespace for each node, joined by a bridge, and rules that
//! drop what one node sends to another.
//!
//! The bridge has an address as well, so clients in the run's process reach every node whatever the nodes
//! do not hear of each other. Nothing is closed or refused by a fault: packets vanish, as they do when
//! a cable is pulled. It takes root, `ip` and `nft`.
//!
//! ```text
//! this process          hearth-7-1            hearth-7-2       namespaces of run 7
//! 198.18.7.254          198.18.7.1 (eth0)     198.18.7.2
//!      └── bridge hj7 ──┴─────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Result, RigError};
use crate::programs;
use crate::run::Run;

/// What became of a fault. Only an installed one counts as one that was survived.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Fault {
    /// It is in place.
    Installed(String),
    /// This machine cannot have it; the reason.
    Skipped(String),
    /// It should be there, but it is unknown whether it is; the reason.
    Failed(String),
}

impl Fault {
    /// Whether it is in place.
    pub fn is_installed(&self) -> bool {
        matches!(self, Self::Installed(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installed(what) => write!(f, "installed: {what}"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// Which messages are dropped: all from the first to the second of each pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    name: String,
    pairs: BTreeSet<(u64, u64)>,
}

impl Cut {
    /// Two sides that do not hear each other.
    pub fn halves(one: &[u64], other: &[u64]) -> Self {
        let mut cut = Self::named(format!("halves {one:?} | {other:?}"));
        for &a in one {
            for &b in other {
                cut.both_ways(a, b);
            }
        }
        cut
    }

    /// One that neither hears nor is heard by the others.
    pub fn isolated(node: u64, all: &[u64]) -> Self {
        let others: Vec<u64> = all.iter().copied().filter(|&other| other != node).collect();
        let mut cut = Self::halves(&[node], &others);
        cut.name = format!("isolated {node}");
        cut
    }

    /// Two halves that do not hear each other, and one node that hears both.
    pub fn bridge(middle: u64, all: &[u64]) -> Self {
        let others: Vec<u64> = all.iter().copied().filter(|&node| node != middle).collect();
        let (one, other) = others.split_at(others.len() / 2);
        let mut cut = Self::halves(one, other);
        cut.name = format!("bridge {one:?} - {middle} - {other:?}");
        cut
    }

    /// Each hears its neighbours in a ring only, so many on either side that each hears a majority, and no
    /// two hear the same one (with five nodes: one neighbour on each side).
    pub fn ring(all: &[u64]) -> Self {
        let count = all.len();
        let reach = (count / 2).div_ceil(2);
        let mut cut = Self::named(format!("ring {all:?}, {reach} neighbours on each side"));
        for (i, &a) in all.iter().enumerate() {
            for (j, &b) in all.iter().enumerate() {
                let distance = i.abs_diff(j);
                if distance.min(count - distance) > reach {
                    cut.pairs.insert((a, b));
                }
            }
        }
        cut
    }

    /// What the first sends does not reach the second; the way back is open.
    pub fn one_way(from: u64, to: u64) -> Self {
        let mut cut = Self::named(format!("one way {from} -/-> {to}"));
        cut.pairs.insert((from, to));
        cut
    }

    /// Both cuts at once.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.name = format!("{}, {}", self.name, other.name);
        self.pairs.extend(other.pairs);
        self
    }

    /// Whether what `from` sends is dropped before it reaches `to`.
    pub fn drops(&self, from: u64, to: u64) -> bool {
        self.pairs.contains(&(from, to))
    }

    fn named(name: String) -> Self {
        Self {
            name,
            pairs: BTreeSet::new(),
        }
    }

    fn both_ways(&mut self, a: u64, b: u64) {
        self.pairs.insert((a, b));
        self.pairs.insert((b, a));
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The network of one run. It is removed with the run.
#[derive(Debug)]
pub struct Net {
    run: Arc<Run>,
    size: u64,
}

impl Net {
    /// Why this machine cannot have one, if so.
    pub fn why_not() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces need root".into());
        }
        for program in ["ip", "nft"] {
            let found = Command::new(program)
                .arg("-V")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if let Err(error) = found {
                return Some(format!(
                    "{program}: {error} (scripts/setup.sh test installs it)"
                ));
            }
        }
        // A container may have root without the right to any of this.
        let probe = Command::new("unshare")
            .args(["--net", "nft", "list", "ruleset"])
            .output();
        match probe {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!(
                "nft in a network namespace: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => Some(format!("unshare: {error}")),
        }
    }

    /// Makes one with places for the nodes 1 to `size`.
    ///
    /// # Errors
    /// What `ip` says. What was made until then is removed with the run.
    pub fn build(run: &Arc<Run>, size: u64) -> Result<Self> {
        let net = Self {
            run: Arc::clone(run),
            size,
        };
        let bridge = net.bridge();
        run.note_made("link", &bridge)?;
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["link", "set", &bridge, "addrgenmode", "none", "up"])?;
        let own = format!("{}/24", net.address_of_clients());
        ip(&["addr", "add", &own, "brd", "+", "dev", &bridge])?;
        for node in 1..=size {
            let space = net.namespace(node);
            let port = format!("{bridge}v{node}");
            // The port first: a namespace that is deleted may keep its end for a while.
            run.note_made("link", &port)?;
            run.note_made("netns", &space)?;
            ip(&["netns", "add", &space])?;
            ip(&[
                "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space,
            ])?;
            ip(&[
                "link",
                "set",
                &port,
                "addrgenmode",
                "none",
                "master",
                &bridge,
                "up",
            ])?;
            let address = format!("{}/24", net.address(node));
            ip(&[
                "-n", &space, "addr", "add", &address, "brd", "+", "dev", "eth0",
            ])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        }
        Ok(net)
    }

    /// The address of a node.
    pub fn address(&self, node: u64) -> Ipv4Addr {
        // Nodes are few; 254 is the clients'.
        Ipv4Addr::new(
            198,
            18,
            self.run.number(),
            u8::try_from(node).unwrap_or(253),
        )
    }

    /// The address from which this process speaks to the nodes.
    pub fn address_of_clients(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.run.number(), 254)
    }

    /// The address at which one datagram reaches all nodes.
    pub fn broadcast_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.run.number(), 255)
    }

    /// A command that runs `program` where a node lives.
    pub fn command(&self, node: u64, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(node)])
            .arg(program);
        command
    }

    /// Moves the calling thread to a place: sockets that it makes from now on live there.
    ///
    /// # Errors
    /// The system's.
    pub fn enter(&self, place: u64) -> Result<()> {
        let path = Path::new("/run/netns").join(self.namespace(place));
        let what = || RigError::system(path.display().to_string());
        let space = File::open(&path).map_err(what())?;
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(std::io::Error::from)
            .map_err(what())
    }

    /// Puts a cut in place of the one before. In each namespace that is one step.
    pub fn cut(&self, cut: &Cut) -> Fault {
        let mut senders: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for &(from, to) in &cut.pairs {
            let sender = self.address(from).to_string();
            senders.entry(to).or_default().push(sender);
        }
        for node in 1..=self.size {
            let rules = rules(senders.get(&node).map_or(&[], Vec::as_slice));
            if let Err(error) = self.install(node, &rules) {
                return Fault::Failed(error.to_string());
            }
        }
        Fault::Installed(cut.to_string())
    }

    /// Takes every cut away.
    pub fn heal(&self) -> Fault {
        self.cut(&Cut::named("none".into()))
    }

    fn install(&self, node: u64, rules: &str) -> Result<()> {
        use std::io::Write as _;
        let mut command = self.command(node, "nft");
        command.args(["-f", "-"]);
        let text = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(RigError::system(text.as_str()))?;
        if let Some(mut input) = child.stdin.take() {
            input
                .write_all(rules.as_bytes())
                .map_err(RigError::system(text.as_str()))?;
        }
        let output = child
            .wait_with_output()
            .map_err(RigError::system(text.as_str()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(RigError::Command {
            command: text,
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    fn bridge(&self) -> String {
        format!("hj{}", self.run.number())
    }

    /// The name of the namespace that a node lives in.
    pub fn namespace(&self, node: u64) -> String {
        format!("hearth-{}-{node}", self.run.number())
    }
}

/// The whole rule set of a node that is to hear nothing from `senders`; nft makes it one transaction.
fn rules(senders: &[String]) -> String {
    let mut text = "add table ip hearth\ndelete table ip hearth\n".to_owned();
    if !senders.is_empty() {
        let _ = write!(
            text,
            "table ip hearth {{\n chain input {{\n  type filter hook input priority 0; policy accept;\n  \
             ip saddr {{ {} }} drop\n }}\n}}\n",
            senders.join(", ")
        );
    }
    text
}

fn ip(args: &[&str]) -> Result<()> {
    programs::run(Command::new("ip").args(args)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whom each node hears, itself included.
    fn heard_by(cut: &Cut, all: &[u64]) -> Vec<Vec<u64>> {
        let hears = |to: u64| {
            all.iter()
                .copied()
                .filter(move |&from| !cut.drops(from, to))
        };
        all.iter().map(|&node| hears(node).collect()).collect()
    }

    #[test]
    fn in_a_ring_each_hears_a_majority_and_none_the_same_one() {
        for count in [3_u64, 5, 7] {
            let all: Vec<u64> = (1..=count).collect();
            let heard = heard_by(&Cut::ring(&all), &all);
            for list in &heard {
                assert!(list.len() as u64 > count / 2, "{count}: {heard:?}");
            }
            if count > 3 {
                let distinct: BTreeSet<_> = heard.iter().collect();
                assert_eq!(distinct.len(), heard.len(), "{heard:?}");
            }
        }
    }

    #[test]
    fn a_bridge_is_heard_by_both_halves() {
        let all = [1, 2, 3, 4, 5];
        let heard = heard_by(&Cut::bridge(2, &all), &all);
        assert_eq!(heard[0], [1, 2, 3]);
        assert_eq!(heard[1], all);
        assert_eq!(heard[3], [2, 4, 5]);
    }

    #[test]
    fn an_isolated_node_hears_itself() {
        let all = [1, 2, 3];
        let heard = heard_by(&Cut::isolated(2, &all), &all);
        assert_eq!(heard, [vec![1, 3], vec![2], vec![1, 3]]);
        let one_way = heard_by(&Cut::one_way(1, 3), &all);
        assert_eq!(one_way, [vec![1, 2, 3], vec![1, 2, 3], vec![2, 3]]);
    }
}
