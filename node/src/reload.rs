//! What a running node reads again when it gets SIGHUP: the cluster's keys.

use std::convert::Infallible;
use std::io;

use hearth_raft::ClusterKeys;
use tokio::signal::unix::SignalKind;

use crate::cluster::cluster_keys;
use crate::config::NodeConfig;
use crate::process::{IgnoredSignals, Listened};

/// Reads a file of keys again at each SIGHUP.
#[derive(Debug)]
pub(crate) struct Reload {
    /// `None` where there is nothing to read again, and SIGHUP does what it does by default.
    keys: Option<(Listened, String, ClusterKeys)>,
}

impl Reload {
    /// Listens for SIGHUP from now on, if `config` names a file of keys.
    pub(crate) fn new(config: &NodeConfig, ignored: IgnoredSignals) -> io::Result<Self> {
        let cluster = config.cluster.as_ref();
        let file = cluster.and_then(|cluster| Some((cluster.key_file.clone()?, &cluster.keys)));
        let keys = match file {
            Some((file, keys)) => {
                let hangup = Listened::new(SignalKind::hangup(), ignored)?;
                Some((hangup, file, keys.clone()))
            }
            None => None,
        };
        Ok(Self { keys })
    }

    /// Reads again whenever it is time.
    pub(crate) async fn run(&mut self) -> Infallible {
        let Some((hangup, file, keys)) = &mut self.keys else {
            return std::future::pending().await;
        };
        loop {
            hangup.next().await;
            match cluster_keys(file) {
                Ok(read) => {
                    let count = read.len();
                    keys.set(read);
                    tracing::warn!(file, count, "the cluster keys were read again");
                }
                Err(reason) => {
                    tracing::error!(reason, "the cluster keys stay as they were");
                }
            }
        }
    }
}
