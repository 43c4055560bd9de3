//! A host of the simulation: a disk, a replica while it runs, and clients beside it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hearth_raft::{
    ClusterChange, ClusterReply, Ground, Replica, ReplicaConfig, StartError, Tuning,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::clients::{Client, Manner, Names};
use super::disk::Disk;
use super::network::Simulated;
use super::record::Record;
use crate::history::Action;

/// The longest time that a cluster change may take.
const CHANGE_DURATION_MAX: Duration = Duration::from_secs(4);

/// The state that all nodes share.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) record: Record,
    pub(super) names: Arc<Names>,
    pub(super) tuning: Tuning,
    pub(super) manner: Manner,
    pub(super) client_count: u32,
    /// Clients stop once this is set.
    pub(super) is_over: AtomicBool,
    /// The number of clients that are working.
    pub(super) busy: Cell<u64>,
}

/// A command from the scenario to a running node.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// Shut down gracefully.
    Stop,
    /// Change the cluster.
    Change(ClusterChange),
    /// Prove that this node works: perform these operations until each is answered.
    Finish(Vec<Action>),
}

/// The state of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// The host is off.
    Off,
    /// The replica starts, or waits for other nodes.
    Starting,
    /// The replica serves.
    Serving,
    /// The replica has shut down gracefully.
    Ended,
    /// The replica has failed, was removed from the cluster, or was refused at start; with the reason.
    Gone(String),
}

/// One host.
pub(super) struct Node {
    /// Number of the host; the node id of its replica may differ.
    pub(super) number: u64,
    pub(super) disk: RefCell<Disk>,
    pub(super) config: RefCell<ReplicaConfig>,
    /// True if the host lost its data, so that the cluster may refuse its replica.
    pub(super) is_wiped: Cell<bool>,
    pub(super) phase: RefCell<Phase>,
    pub(super) replica: RefCell<Option<Replica>>,
    pub(super) has_finished: Cell<bool>,
    /// Node ids that a change through this node has removed.
    pub(super) removed: RefCell<Vec<u64>>,
    orders: RefCell<Option<mpsc::UnboundedSender<Order>>>,
    boots: Cell<u64>,
    world: Rc<World>,
}

/// Returns the name of host `number` in the simulated network.
pub(super) fn host(number: u64) -> String {
    format!("n{number}")
}

/// Returns the peer address of the replica on host `number`.
pub(super) fn peer_addr(number: u64) -> String {
    format!("{}:9092", host(number))
}

impl Node {
    pub(super) fn new(number: u64, config: ReplicaConfig, world: Rc<World>) -> Rc<Self> {
        Rc::new(Self {
            number,
            disk: RefCell::new(new_disk(number, &world.record)),
            config: RefCell::new(config),
            is_wiped: Cell::new(false),
            phase: RefCell::new(Phase::Starting),
            replica: RefCell::new(None),
            has_finished: Cell::new(false),
            removed: RefCell::default(),
            orders: RefCell::new(None),
            boots: Cell::new(0),
            world,
        })
    }

    /// Replaces the disk with an empty one.
    pub(super) fn wipe(&self) {
        self.disk.replace(new_disk(self.number, &self.world.record));
        self.is_wiped.set(true);
    }

    /// Sends an order to the replica. Returns false if the replica is not running.
    pub(super) fn order(&self, order: Order) -> bool {
        let orders = self.orders.borrow();
        orders
            .as_ref()
            .is_some_and(|orders| orders.send(order).is_ok())
    }

    /// Returns how often the host was switched on.
    pub(super) fn boots(&self) -> u64 {
        self.boots.get()
    }

    /// Drops the replica and its orders. The scenario calls it before it crashes the host, so that nothing of
    /// the replica is left.
    pub(super) fn switch_off(&self) {
        self.orders.replace(None);
        self.replica.replace(None);
        self.set(Phase::Off);
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    fn set(&self, phase: Phase) {
        self.world.record.trace.say("phase", self.number, &phase);
        self.phase.replace(phase);
    }

    fn random(&self, of: u64) -> SmallRng {
        let boots = self.boots.get();
        let mixed =
            [self.world.seed, self.number, boots, of]
                .into_iter()
                .fold(0_u64, |sum, part| {
                    (sum ^ part)
                        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                        .rotate_left(29)
                });
        SmallRng::seed_from_u64(mixed)
    }

    /// Runs the host from the moment that it is switched on until its replica ends.
    pub(super) async fn run(self: Rc<Self>) -> turmoil::Result {
        self.boots.set(self.boots.get() + 1);
        self.set(Phase::Starting);
        let disk = self.disk.borrow().clone();
        let mut random = self.random(0);
        let serving = disk
            .clone()
            .serve(move |least, most| random.random_range(least..=most));
        let serving = tokio::spawn(serving);
        let sockets = Simulated {
            node: self.number,
            trace: self.world.record.trace.clone(),
        };
        let ground = Ground::simulated(Arc::new(disk.open()), Arc::new(sockets));
        let config = self.config.borrow().clone();
        let started = Replica::start_on(config, self.world.tuning.clone(), ground).await;
        let replica = match started {
            Ok(replica) => replica,
            Err(error) => {
                serving.abort();
                self.turned_away(&error);
                return Ok(());
            }
        };
        self.replica.replace(Some(replica.clone()));
        self.set(Phase::Serving);
        let (sender, orders) = mpsc::unbounded_channel();
        self.orders.replace(Some(sender));
        let clients: Vec<_> = (0..self.world.client_count)
            .map(|number| tokio::task::spawn_local(Rc::clone(&self).client(number)))
            .collect();
        let end = tokio::select! {
            biased;
            reason = replica.failed() => {
                self.world.record.problem(format!("node {} failed: {reason}", self.number));
                Phase::Gone(reason)
            }
            reason = replica.removed() => Phase::Gone(reason),
            () = Rc::clone(&self).obey(orders, replica.clone()) => Phase::Ended,
        };
        for client in clients {
            client.abort();
        }
        self.orders.replace(None);
        self.replica.replace(None);
        replica.shutdown().await;
        serving.abort();
        self.set(end);
        Ok(())
    }

    fn turned_away(&self, error: &StartError) {
        let expected = match error {
            StartError::Removed(_) => true,
            StartError::Identity(_) => self.is_wiped.get(),
            _ => false,
        };
        if !expected {
            let text = format!("node {} does not start: {error}", self.number);
            self.world.record.problem(text);
        }
        self.set(Phase::Gone(error.to_string()));
    }

    async fn client(self: Rc<Self>, number: u32) {
        let Some(replica) = self.replica.borrow().clone() else {
            return;
        };
        let world = &self.world;
        let _busy = Busy::begin(world);
        let client = Client::new(
            self.number,
            replica,
            world.record.clone(),
            Arc::clone(&world.names),
            self.random(1 + u64::from(number)),
            world.manner.clone(),
        );
        client.work(&world.is_over).await;
    }

    /// Carries out orders until [`Order::Stop`].
    async fn obey(self: Rc<Self>, mut orders: mpsc::UnboundedReceiver<Order>, replica: Replica) {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Stop => {
                    replica.hand_over(Duration::from_millis(500)).await;
                    return;
                }
                Order::Change(change) => {
                    let this = Rc::clone(&self);
                    tokio::task::spawn_local(this.change(replica.clone(), change));
                }
                Order::Finish(actions) => {
                    let this = Rc::clone(&self);
                    tokio::task::spawn_local(this.finish(replica.clone(), actions));
                }
            }
        }
        // The sender lives as long as this node.
        std::future::pending().await
    }

    async fn change(self: Rc<Self>, replica: Replica, change: ClusterChange) {
        let deadline = (Instant::now() + CHANGE_DURATION_MAX).into_std();
        let result = replica.change_cluster(change.clone(), deadline).await;
        self.world
            .record
            .trace
            .say("changed", self.number, &(&change, &result));
        if let (ClusterChange::Remove { id, .. }, Ok(ClusterReply::Done)) = (change, result) {
            self.removed.borrow_mut().push(id);
        }
    }

    /// Repeats each of `actions` until it is answered.
    async fn finish(self: Rc<Self>, replica: Replica, actions: Vec<Action>) {
        let client = Client::new(
            self.number,
            replica,
            self.world.record.clone(),
            Arc::clone(&self.world.names),
            self.random(1000),
            self.world.manner.clone(),
        );
        for action in actions {
            while !client.perform(action.clone()).await.is_answered {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.has_finished.set(true);
    }
}

/// Counts a client as working until dropped.
struct Busy<'a>(&'a Cell<u64>);

impl<'a> Busy<'a> {
    fn begin(world: &'a World) -> Self {
        world.busy.set(world.busy.get() + 1);
        Self(&world.busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn new_disk(number: u64, record: &Record) -> Disk {
    let record = record.clone();
    Disk::new(Box::new(move |meta, summary| {
        record.state(number, meta, summary);
    }))
}
