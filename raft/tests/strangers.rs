//! Tests of attackers without the cluster key, and of changing the key.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hearth_raft::{ClusterChange, ClusterKeys, ClusterReply, StartError};
use support::{PATIENCE, TestCluster, addr, start, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Computes the CRC-32 of `parts`, bit by bit from its polynomial.
fn crc32(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(u32::MAX, |mut sum, &byte| {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 {
                sum >> 1 ^ 0xedb8_8320
            } else {
                sum >> 1
            };
        }
        sum
    })
}

/// Returns a refusal as nodes of all versions send it before anything is proved.
fn refusal_frame(text: &str) -> Vec<u8> {
    let mut frame = b"HRTH\x01\x03\0\0\0\0\0\0\0\0\0\0".to_vec();
    frame.extend_from_slice(&(text.len() as u32).to_le_bytes());
    let sum = crc32(&[&frame, text.as_bytes()]);
    frame.extend_from_slice(&sum.to_le_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// Answers each hello at `addr` with a refusal, with `texts` in turn, and counts the connections.
async fn spoof(addr: &str, texts: Vec<String>) -> (Arc<AtomicUsize>, JoinHandle<()>) {
    let listener = TcpListener::bind(addr).await.unwrap();
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let mut greeting = [0; 512];
            let _ = stream.read(&mut greeting).await;
            let frame = refusal_frame(&texts[number % texts.len()]);
            let _ = stream.write_all(&frame).await;
        }
    });
    (count, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_somebody_without_the_key_end_nobody() {
    let mut cluster = TestCluster::founded(3).await;
    let victim = cluster.follower().await;
    let victim_addr = addr(&cluster.nodes[&victim].config);
    cluster.stop(victim).await;
    // The texts on which nodes of the previous version acted.
    let texts = cluster.ids().into_iter().flat_map(|id| {
        [
            format!(
                "node {id} was removed from this cluster; empty its data folder, and it can join as a new node"
            ),
            format!(
                "node {id} of this cluster had another data folder; remove it with nsctl cluster remove {id} \
                 and join as a new node"
            ),
        ]
    });
    let (count, task) = spoof(&victim_addr, texts.collect()).await;
    until("each node has heard them often", || async {
        let count = count.load(Ordering::SeqCst);
        (count > 20).then_some(()).ok_or(format!("{count} times"))
    })
    .await;
    for id in cluster.ids() {
        let removed = cluster.node(id).removed();
        let removed = tokio::time::timeout(Duration::from_millis(100), removed).await;
        assert!(removed.is_err(), "node {id}: {removed:?}");
        assert!(cluster.node(id).is_ready());
        cluster.register(id, &format!("through {id}")).await;
    }
    // The member is accepted when it returns.
    task.abort();
    let _ = task.await;
    cluster.start(victim).await;
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_although_somebody_at_a_members_address_says_it_was_removed() {
    let mut cluster = TestCluster::founded(3).await;
    let (gone, starter) = (cluster.follower().await, cluster.leader().await);
    cluster.stop(gone).await;
    cluster.stop(starter).await;
    let text = format!("node {starter} was removed from this cluster; empty its data folder");
    let (_, task) = spoof(&addr(&cluster.nodes[&gone].config), vec![text]).await;
    cluster.start(starter).await;
    cluster.register(starter, "after that").await;
    task.abort();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_does_not_end_a_node_and_a_majority_does() {
    let mut cluster = TestCluster::founded(3).await;
    let victim = cluster.follower().await;
    cluster.stop(victim).await;
    let leader = cluster.leader().await;
    let other = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let change = ClusterChange::Remove { id: victim };
    assert_eq!(cluster.change(leader, change).await, Ok(ClusterReply::Done));
    cluster.settle().await;
    cluster.stop(other).await;
    let config = cluster.nodes[&victim].config.clone();
    let mut starting = start(config, cluster.tuning.clone());
    let ended = tokio::time::timeout(Duration::from_secs(3), &mut starting).await;
    assert!(ended.is_err(), "one of two has ended it: {ended:?}");
    cluster.start(other).await;
    let ended = tokio::time::timeout(PATIENCE, starting).await;
    let Err(StartError::Removed(reason)) = ended.expect("both say so").unwrap() else {
        panic!("it goes on")
    };
    let expected = format!("node {victim} was removed");
    assert!(reason.contains(&expected), "{reason}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_cluster_is_changed_while_it_serves() {
    let mut cluster = TestCluster::new(3);
    let set = |keys: &ClusterKeys, all: &[&str]| {
        keys.set(all.iter().map(|key| key.as_bytes().to_vec()));
    };
    let mut keys = Vec::new();
    for node in cluster.nodes.values_mut() {
        let own = ClusterKeys::default();
        set(&own, &["the old key"]);
        node.config.cluster.as_mut().unwrap().keys = own.clone();
        keys.push(own);
    }
    cluster.start_all().await;
    let steps: [&[&str]; 3] = [
        &["the old key", "the new key"],
        &["the new key", "the old key"],
        &["the new key"],
    ];
    for (step, all) in steps.into_iter().enumerate() {
        for (at, own) in keys.iter().enumerate() {
            set(own, all);
            // A node that is started in the middle of the change reaches the others.
            if step == at {
                let id = cluster.ids()[at];
                cluster.stop(id).await;
                cluster.start(id).await;
            }
            for id in cluster.ids() {
                cluster.register(id, &format!("{step} {at} {id}")).await;
            }
        }
    }
    cluster.settle().await;
    cluster.shutdown().await;
}
