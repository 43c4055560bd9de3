//! The workload `learner`: real programs beside a learner, which is the only name server that they know. The
//! servers behind the learner fail one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hearth_cli::{Address, CLUSTER, ConnectOptions, Connection};
use rand::Rng;
use tokio::sync::Mutex;

use super::names::{self, BLOCK};
use super::program::{FAMILIES, Finds, Program};
use super::slots::Slots;
use super::{FINAL_PATIENCE, Stage, Work, Workload, at_once, judged};
use crate::check::name;
use crate::cluster::{PATIENCE, options, until};
use crate::error::{Result, RigError};
use crate::folder::{CheckerVerdict, Network};
use crate::history::{Action, Operation, Outcome};
use crate::node::{CLUSTER_KEY, Node};
use crate::programs;

/// The workload.
#[derive(Debug, Default)]
pub struct Learner {
    /// The learner, from the beginning of the work to the end of the final reads.
    node: Arc<Mutex<Option<Node>>>,
}

const NAME: &str = "learner";

impl Workload for Learner {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "programs with the real Pyro4 and Pyro5 beside a learner, which is all they know; each name is \
         linearizable, and nothing acknowledged is lost"
    }

    fn why_not_here(&self, _network: Network) -> Option<String> {
        programs::python().err()
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        let held = Arc::clone(&self.node);
        Box::pin(async move {
            let mut node = start(&stage)?;
            // Faults have begun already, and may take away the servers through which it joins.
            node.wait_until_it_serves(2 * PATIENCE).await?;
            *held.lock().await = Some(node);
            let slots = Arc::new(Slots::new(4, 60, 3));
            let clients = (0..stage.clients.max(2))
                .map(|number| work(number, Arc::clone(&stage), Arc::clone(&slots)));
            at_once(clients).await
        })
    }

    fn final_reads(&self, stage: Arc<Stage>) -> Work {
        let held = Arc::clone(&self.node);
        Box::pin(async move {
            let Some(mut node) = held.lock().await.take() else {
                // Without a learner, the work has already returned the reason.
                return Ok(());
            };
            let lists = names::last_lists(&stage.recorder.operations());
            let mut program = program(&stage, stage.clients.max(2))?;
            for list in &lists {
                insist(&mut program, list).await?;
            }
            program.stop().await;
            stage.insist_everywhere(&lists).await?;
            leave(&stage, &mut node).await
        })
    }

    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict> {
        let here = history.iter().filter(|one| one.answer().is_some()).count();
        let text = format!(
            "{} operations of programs that know nothing but a learner, {here} of them answered",
            history.len()
        );
        vec![judged(
            "linearizable per name",
            NAME,
            name::check(history),
            text,
        )]
    }
}

/// Starts the learner at the free place. In a namespace of its own it listens on `localhost`, where every Pyro
/// program looks first.
fn start(stage: &Stage) -> Result<Node> {
    let place = stage.free_place;
    let peer_addr = crate::node::peer_addr(&stage.run, stage.net.as_deref(), place);
    let mut birth = options(&[
        ("--peer-addr", &peer_addr),
        ("--join", &stage.peer_addrs.join(",")),
    ]);
    birth.push("--learner".into());
    if stage.net.is_some() {
        birth.extend(options(&[("-n", "localhost")]));
    }
    let settings = stage.settings.clone();
    let mut node = Node::new(&stage.run, stage.net.as_ref(), place, settings, birth)?;
    node.start()?;
    Ok(node)
}

/// Starts a program beside the learner without telling it an address. All nodes share the loopback addresses,
/// so on those the environment tells the program the learner's address.
fn program(stage: &Stage, number: u32) -> Result<Program> {
    let (host, port) = crate::node::place(&stage.run, stage.net.as_deref(), stage.free_place);
    let environment = match stage.net {
        Some(_) => Vec::new(),
        None => vec![("PYRO_NS_HOST", host), ("PYRO_NS_PORT", port.to_string())],
    };
    let family = FAMILIES[usize::try_from(number).unwrap_or(0) % FAMILIES.len()];
    Program::start(
        &stage.run,
        stage.first_process + number,
        family,
        Finds::Itself(stage.free_place),
        &environment,
        &stage.recorder,
        |python| match &stage.net {
            Some(net) => net.command(stage.free_place, python),
            None => std::process::Command::new(python),
        },
    )
}

async fn work(number: u32, stage: Arc<Stage>, slots: Arc<Slots>) -> Result<()> {
    let mut random = stage.random(number);
    let mut program = program(&stage, number)?;
    for round in 0_u64.. {
        if stage.is_over() {
            break;
        }
        let slot = slots.take(&mut random);
        let name = format!("{NAME}.{}.{slot}", slot / BLOCK);
        let action = if random.random_ratio(1, 10) {
            Action::List { prefix: name }
        } else {
            names::choose(name, number, round, &mut random)
        };
        let told = program.perform(action).await?;
        if matches!(told.outcome, Outcome::Unknown(_)) && told.action.is_write() {
            slots.lost(slot);
        }
        stage.rest_after(&told, &mut random).await;
    }
    program.stop().await;
    Ok(())
}

async fn insist(program: &mut Program, read: &Action) -> Result<()> {
    let begin = Instant::now();
    loop {
        let told = program.perform(read.clone()).await?;
        match told.outcome {
            Outcome::Ok(_) => return Ok(()),
            Outcome::Failed(seen) | Outcome::Unknown(seen) if begin.elapsed() > FINAL_PATIENCE => {
                return Err(RigError::NotInTime {
                    what: format!("the final {} at the learner", read.kind()),
                    waited: FINAL_PATIENCE,
                    seen,
                });
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Removes the learner from the cluster and waits for its process to end, so that it does not disturb what
/// follows.
async fn leave(stage: &Stage, node: &mut Node) -> Result<()> {
    let peer_addr = node.peer_addr();
    let nodes = &stage.endpoints;
    let asked = AtomicUsize::new(0);
    until("the removal of the learner", PATIENCE, || async {
        let at = asked.fetch_add(1, Ordering::Relaxed) % nodes.len().max(1);
        let (_, address) = nodes.get(at).ok_or("there is no node to ask")?;
        let removed = remove(address, &peer_addr).await;
        removed.map_err(|error| error.to_string())
    })
    .await?;
    node.wait_for_end(PATIENCE).await.map(drop)
}

async fn remove(
    address: &Address,
    peer_addr: &str,
) -> std::result::Result<(), hearth_cli::ClientError> {
    let options = ConnectOptions {
        timeout: Some(Duration::from_secs(10)),
        ..ConnectOptions::default()
    };
    let mut connection = Connection::connect(address, CLUSTER, &options).await?;
    let mut cluster = hearth_cli::Cluster::on(&mut connection);
    let status = cluster.status().await?;
    let is_it = |addr: &Option<String>| addr.as_deref() == Some(peer_addr);
    cluster.prove(&[CLUSTER_KEY.to_vec()]).await?;
    for member in status.members.iter().filter(|one| is_it(&one.peer_addr)) {
        cluster.remove(member.id).await?;
    }
    Ok(())
}
