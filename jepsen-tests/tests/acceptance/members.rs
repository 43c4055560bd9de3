//! Members join and leave while the name server is in use.

use std::sync::Arc;
use std::time::Duration;

use hearth_cli::{ClusterStatus, MemberStatus, Role};
use hearth_jepsen_tests::client::{Client, Recorder};
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE, Ran, summary, until};
use hearth_jepsen_tests::load::{Load, Pattern, failures};
use hearth_jepsen_tests::node::Settings;

use crate::support::{alone, assert_linearizable, figure, found, insist, lookup, register};

/// Returns the member at a place.
fn at<'a>(cluster: &Cluster, status: &'a ClusterStatus, place: u64) -> Option<&'a MemberStatus> {
    let address = cluster.peer_addr_of(place);
    status
        .members
        .iter()
        .find(|m| m.peer_addr.as_deref() == Some(&*address))
}

/// Waits until the status at node `asked` shows the member at `place` as `is_so` demands. Returns that member.
async fn wait_for(
    cluster: &Cluster,
    asked: u64,
    place: u64,
    what: &str,
    is_so: impl Fn(Option<&MemberStatus>) -> bool,
) -> Option<MemberStatus> {
    until(what, PATIENCE, || async {
        let status = cluster
            .status_at(asked)
            .await
            .map_err(|error| error.to_string())?;
        let member = at(cluster, &status, place);
        if is_so(member) {
            Ok(member.cloned())
        } else {
            Err(summary(&status))
        }
    })
    .await
    .unwrap()
}

async fn nsctl(cluster: &Cluster, node: u64, args: &[&str]) -> Ran {
    let mut all = vec!["--yes", "cluster"];
    all.extend(args);
    cluster.nsctl(node, &all).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_added_promoted_and_removed_under_load() {
    let _alone = alone().await;
    let mut cluster = Cluster::found("members", 3, Settings::new().unwrap())
        .await
        .unwrap();
    let recorder = Arc::new(Recorder::default());
    let clients = (1..=3).map(|node| cluster.endpoints_from(node)).collect();
    let pattern = Pattern {
        names_per_client: 1_000_000,
        lookups: 1,
        rest: Duration::from_millis(10),
    };
    let load = Load::start(&recorder, clients, pattern);

    // A node joins by itself, and becomes a voter once it has caught up.
    cluster
        .add_joining(4, None, false)
        .unwrap()
        .start()
        .unwrap();
    cluster
        .node(4)
        .wait_until_it_serves(PATIENCE)
        .await
        .unwrap();
    let votes =
        |member: Option<&MemberStatus>| member.is_some_and(|m| m.voter && m.ready == Some(true));
    let four = wait_for(&cluster, 1, 4, "node 4 votes", votes)
        .await
        .unwrap();

    // A node id that is assigned beforehand, for a learner that stays one until it is promoted by hand.
    let ran = nsctl(&cluster, 2, &["add"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let number: u64 = ran
        .printed
        .split(|c: char| !c.is_ascii_digit())
        .find_map(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no number in {ran:?}"));
    assert!(number > four.id, "{number}");
    cluster
        .add_joining(5, Some(number), true)
        .unwrap()
        .start()
        .unwrap();
    cluster
        .node(5)
        .wait_until_it_serves(PATIENCE)
        .await
        .unwrap();
    let learns = |member: Option<&MemberStatus>| {
        member.is_some_and(|m| !m.voter && m.role == Some(Role::Learner))
    };
    let five = wait_for(&cluster, 1, 5, "node 5 learns", learns)
        .await
        .unwrap();
    assert_eq!(five.id, number);
    let mut beside = Client::new(50, cluster.endpoints_from(5), &recorder);
    insist(&mut beside, register("by.the.learner", "PYRO:o@h:1")).await;
    let told = beside.perform(lookup("by.the.learner")).await;
    assert!(found(&told).is_some());
    let ran = nsctl(&cluster, 1, &["promote", &number.to_string()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    wait_for(&cluster, 3, 5, "node 5 votes", votes).await;

    // The leadership moves to the requested node.
    let leader = cluster.leader().await.unwrap();
    let next = leader % 3 + 1;
    let ran = nsctl(&cluster, leader, &["transfer-leader", &next.to_string()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(cluster.leader().await.unwrap(), next);

    // A removed node stops by itself. It is refused if it returns with its old data.
    let ran = nsctl(&cluster, 1, &["remove", &four.id.to_string()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let status = cluster.node(4).wait_for_end(PATIENCE).await.unwrap();
    figure(format!("a removed node ends by itself: {status}"));
    wait_for(&cluster, 1, 4, "node 4 is gone", |member| member.is_none()).await;
    cluster.node(4).start().unwrap();
    let refused = cluster.node(4).wait_until_it_serves(PATIENCE).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("removed"), "{refused}");

    // The leader can be removed too. Its clients continue at another node.
    let leader = cluster.leader().await.unwrap();
    let asked = leader % 3 + 1;
    let ran = nsctl(&cluster, asked, &["remove", &leader.to_string()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    cluster.node(leader).wait_for_end(PATIENCE).await.unwrap();
    let status = cluster.wait_until_healthy(asked, PATIENCE).await.unwrap();
    assert_eq!(status.members.len(), 3, "{status:?}");
    load.stop().await;
    let history = recorder.operations();
    // A call that is in progress at a node during its removal may end without an answer.
    let mut failed = failures(&history, 0, recorder.now());
    failed.retain(|operation| operation.node != leader);
    figure(format!(
        "members added, promoted, removed and leadership transferred under {} calls: {} failed at \
         nodes that stayed",
        history.len(),
        failed.len()
    ));
    assert!(failed.is_empty(), "{failed:#?}");
    assert_linearizable(&history);
    cluster.same_state(asked, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_refused_under_its_old_number() {
    let _alone = alone().await;
    let mut cluster = Cluster::found("wiped", 3, Settings::new().unwrap())
        .await
        .unwrap();
    cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
    cluster.node(3).kill();
    cluster.node(3).wipe().unwrap();
    cluster.node(3).start().unwrap();
    let refused = cluster.node(3).wait_until_it_serves(PATIENCE).await;
    let refused = refused.unwrap_err().to_string();
    figure(format!(
        "a wiped founder is told: {}",
        refused.lines().last().unwrap_or_default()
    ));
    // The node returns under a new id after the old one is removed.
    let ran = nsctl(&cluster, 1, &["remove", "3"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    cluster
        .add_joining(4, None, false)
        .unwrap()
        .start()
        .unwrap();
    cluster
        .node(4)
        .wait_until_it_serves(PATIENCE)
        .await
        .unwrap();
    let votes =
        |member: Option<&MemberStatus>| member.is_some_and(|m| m.voter && m.ready == Some(true));
    wait_for(&cluster, 1, 4, "node 4 votes", votes).await;
    cluster.same_state(1, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_would_cost_the_majority_is_refused() {
    let _alone = alone().await;
    let mut cluster = Cluster::found("unsafe removal", 3, Settings::new().unwrap())
        .await
        .unwrap();
    cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let (gone, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.node(gone).kill();
    // Of the two remaining voters both would be needed, and one of them is down.
    let ran = nsctl(&cluster, leader, &["remove", &other.to_string()]).await;
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.errors.contains("refused") || ran.errors.contains("majority"),
        "{ran:?}"
    );
    let ran = nsctl(&cluster, leader, &["remove", "77"]).await;
    assert_ne!(ran.code, Some(0), "{ran:?}");
    let ran = nsctl(&cluster, leader, &["promote", &other.to_string()]).await;
    figure(format!(
        "promoting a voter: {:?} {}",
        ran.code,
        ran.errors.trim()
    ));
    let ran = nsctl(&cluster, leader, &["remove", &gone.to_string()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
}
