//! The workload `discovery`: broadcasts from a socket and from real programs without a configured host, and
//! lookups at each node that show if it could serve.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use super::program::{FAMILIES, Finds, Program};
use super::{FINAL_PATIENCE, Stage, Work, Workload, at_once, judged};
use crate::check::discovery::{self, BROADCAST, LAST, LOCATE};
use crate::error::{Result, RigError};
use crate::folder::{CheckerVerdict, Network};
use crate::history::{Action, Answer, Operation, Outcome};
use crate::net::Net;
use crate::programs;

/// The workload.
#[derive(Debug)]
pub struct Discovery;

/// The name of the workload. Nodes answer broadcasts if it is selected.
pub const NAME: &str = "discovery";

/// The time to wait for answers to a broadcast.
const ANSWERS: Duration = Duration::from_millis(300);

/// The longest time that a lookup may take that probes if a node serves.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

impl Workload for Discovery {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "broadcasts, also by the real Pyro4 and Pyro5 without a host; who answers can serve, and once all is \
         healed all answer"
    }

    fn why_not_here(&self, network: Network) -> Option<String> {
        match network {
            Network::Loopback => Some("broadcasts need network namespaces".into()),
            Network::Namespaces => programs::python().err(),
        }
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let probes = (0..stage.endpoints.len()).map(|at| work(at, Arc::clone(&stage)));
            let mut all: Vec<Work> = probes.map(|work| -> Work { Box::pin(work) }).collect();
            let first = process(&stage, 0);
            for (family, process) in FAMILIES.into_iter().zip(first + 1..) {
                all.push(Box::pin(locate(family, process, Arc::clone(&stage))));
            }
            all.push(Box::pin(broadcast(first, Arc::clone(&stage))));
            at_once(all.into_iter()).await
        })
    }

    fn final_reads(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let expected: Vec<String> =
                stage.endpoints.iter().map(|(n, _)| n.to_string()).collect();
            let begin = Instant::now();
            let told = loop {
                // Only the last broadcast is judged, so only that one is recorded.
                let told = ask(process(&stage, 0), &stage, LAST, &expected.join(" ")).await?;
                let Some(Answer::Text(text)) = told.answer() else {
                    break told;
                };
                let answers = |number: &String| {
                    text.lines()
                        .any(|line| line.starts_with(&format!("{number} ")))
                };
                if expected.iter().all(answers) || begin.elapsed() > FINAL_PATIENCE / 2 {
                    break told;
                }
            };
            stage.recorder.add(told);
            Ok(())
        })
    }

    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict> {
        let (verdict, found) = discovery::check(history);
        let text = format!(
            "{} broadcasts and searches had {} answers; {} times a node kept silent",
            found.asked, found.answers, found.silent
        );
        vec![judged(
            "who answers a broadcast can serve",
            NAME,
            verdict,
            text,
        )]
    }
}

/// Returns the number of a client, counted after the clients that probe the nodes.
fn process(stage: &Stage, number: u32) -> u32 {
    stage.first_process + u32::try_from(stage.endpoints.len()).unwrap_or(0) + number
}

/// Probes one node repeatedly.
async fn work(at: usize, stage: Arc<Stage>) -> Result<()> {
    let number = u32::try_from(at).unwrap_or(0);
    let mut client = stage
        .client_of(number, &stage.endpoints[at..=at])
        .with_timeout(PROBE_PATIENCE);
    let mut random = stage.random(number);
    while !stage.is_over() {
        let probe = Action::Lookup {
            name: format!("{NAME}.probe"),
        };
        let told = client.perform(probe).await;
        stage.rest_after(&told, &mut random).await;
    }
    Ok(())
}

async fn broadcast(process: u32, stage: Arc<Stage>) -> Result<()> {
    let mut random = stage.random(process);
    while !stage.is_over() {
        let told = ask(process, &stage, BROADCAST, "").await?;
        stage.recorder.add(told.clone());
        stage.rest_after(&told, &mut random).await;
    }
    Ok(())
}

/// Makes a program look for a name server repeatedly, from a place of the network without a node.
async fn locate(family: &'static str, process: u32, stage: Arc<Stage>) -> Result<()> {
    let net = net(&stage)?;
    let place = stage.free_place - 1;
    let mut random = stage.random(process);
    let mut program = Program::start(
        &stage.run,
        process,
        family,
        Finds::Itself(place),
        &[("PYRO_BROADCAST_ADDRS", net.broadcast_address().to_string())],
        &stage.recorder,
        |python| net.command(place, python),
    )?;
    while !stage.is_over() {
        let call = stage.recorder.now();
        let outcome = match program.locate().await? {
            Ok(uri) => {
                let host = uri
                    .rsplit_once('@')
                    .and_then(|(_, place)| place.split_once(':'));
                let host = host.map_or("?", |(host, _)| host);
                Outcome::Ok(Answer::Text(line(host, &uri)))
            }
            Err(seen) => Outcome::Failed(seen),
        };
        let told = Operation {
            client: process,
            node: place,
            call,
            end: stage.recorder.now(),
            action: Action::Other {
                kind: LOCATE.into(),
                text: family.into(),
            },
            outcome,
        };
        stage.recorder.add(told.clone());
        stage.rest_after(&told, &mut random).await;
    }
    program.stop().await;
    Ok(())
}

/// Sends one broadcast and collects all answers. Each broadcast has a socket of its own, so that a late answer
/// to another one is not counted.
async fn ask(process: u32, stage: &Stage, kind: &str, text: &str) -> Result<Operation> {
    let net = net(stage)?;
    let failed = |what: &str| RigError::system(format!("a broadcast: {what}"));
    let socket = UdpSocket::bind((net.address_of_clients(), 0))
        .await
        .map_err(failed("bind"))?;
    socket.set_broadcast(true).map_err(failed("a right"))?;
    let call = stage.recorder.now();
    socket
        .send_to(b"GET_NSURI", (net.broadcast_address(), 9091))
        .await
        .map_err(failed("send"))?;
    let until = tokio::time::Instant::now() + ANSWERS;
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    let mut bytes = [0; 512];
    while let Ok(received) = tokio::time::timeout_at(until, socket.recv_from(&mut bytes)).await {
        let (len, from) = received.map_err(failed("receive"))?;
        let uri = String::from_utf8_lossy(&bytes[..len]).into_owned();
        let host = from.ip().to_string();
        lines.insert(host.clone(), line(&host, &uri));
    }
    let lines: Vec<String> = lines.into_values().collect();
    Ok(Operation {
        client: process,
        node: 0,
        call,
        end: stage.recorder.now(),
        action: Action::Other {
            kind: kind.into(),
            text: text.into(),
        },
        outcome: Outcome::Ok(Answer::Text(lines.join("\n"))),
    })
}

/// Returns the line `number address URI`. The number of a node is the last byte of its address.
fn line(host: &str, uri: &str) -> String {
    let number = host.parse::<Ipv4Addr>().map(|address| address.octets()[3]);
    let number = number.map_or_else(|_| "?".to_owned(), |number| number.to_string());
    format!("{number} {host} {uri}")
}

fn net(stage: &Stage) -> Result<&Net> {
    stage.net.as_deref().ok_or_else(|| RigError::Refused {
        what: format!("workload {NAME}"),
        reason: "broadcasts need network namespaces".into(),
    })
}
