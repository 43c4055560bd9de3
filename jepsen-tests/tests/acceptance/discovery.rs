//! Broadcasts: each node answers with its own address, and a node that could not serve does not answer.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hearth_jepsen_tests::cluster::{Cluster, PATIENCE};
use hearth_jepsen_tests::net::{Cut, Net};
use hearth_jepsen_tests::node::Settings;

use crate::support::{alone, figure, skip_if};

/// Sends one broadcast. Returns the answers of one second as pairs of the sender's address and the URI.
fn answers(cluster: &Cluster) -> BTreeSet<(String, String)> {
    let net = cluster.net().unwrap();
    let socket = UdpSocket::bind((net.address_of_clients(), 0)).unwrap();
    socket.set_broadcast(true).unwrap();
    socket
        .send_to(b"GET_NSURI", (net.broadcast_address(), 9091))
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut answers = BTreeSet::new();
    let mut bytes = [0; 512];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return answers;
        }
        socket.set_read_timeout(Some(left)).unwrap();
        if let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let uri = String::from_utf8_lossy(&bytes[..len]).into_owned();
            answers.insert((from.ip().to_string(), uri));
        }
    }
}

#[track_caller]
fn expected(cluster: &Cluster, nodes: &[u64]) -> BTreeSet<(String, String)> {
    let net = cluster.net().unwrap();
    nodes
        .iter()
        .map(|&node| {
            let address = net.address(node);
            let uri = format!("PYRO:Pyro.NameServer@{address}:9090");
            (address.to_string(), uri)
        })
        .collect()
}

async fn wait_for(cluster: &Cluster, nodes: &[u64]) -> Duration {
    let begin = Instant::now();
    loop {
        let seen = answers(cluster);
        if seen == expected(cluster, nodes) {
            return begin.elapsed();
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "{nodes:?} should answer, not {seen:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_answers_a_broadcast_unless_it_is_cut_off() {
    skip_if!(Net::why_not());
    let _alone = alone().await;
    let mut settings = Settings::new().unwrap();
    settings.broadcast = true;
    let mut cluster = Cluster::found_on_net("discovery", 3, 0, settings)
        .await
        .unwrap();
    cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
    wait_for(&cluster, &[1, 2, 3]).await;
    let leader = cluster.leader().await.unwrap();
    // A follower first, then the leader, which must detect by itself that it has lost its followers.
    for gone in [leader % 3 + 1, leader] {
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|&node| node != gone).collect();
        let fault = cluster.net().unwrap().cut(&Cut::isolated(gone, &[1, 2, 3]));
        assert!(fault.is_installed(), "{fault}");
        let silent = wait_for(&cluster, &others).await;
        let fault = cluster.net().unwrap().heal();
        assert!(fault.is_installed(), "{fault}");
        let back = wait_for(&cluster, &[1, 2, 3]).await;
        let role = if gone == leader { "leader" } else { "follower" };
        figure(format!(
            "broadcasts: a {role} that is cut off keeps silent after {:.1} s, and answers {:.1} s after healing",
            silent.as_secs_f64(),
            back.as_secs_f64()
        ));
    }
}
