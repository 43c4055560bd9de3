//! Real nodes, real faults, a checker: what shows that Hearth holds.
//!
//! A [`run::Run`] owns everything that is made and takes it away again, whatever happens. In it a
//! [`cluster::Cluster`] of real `hearthd` processes works, on addresses of the loopback network or on a
//! [`net::Net`] of its own, whose messages can be dropped. [`client::Client`]s say honestly what became of
//! their calls; `history` is what they saw, and `check` says whether one name server that never fails can
//! have answered so. [`campaign::run`] lets [`workload`]s and faults meet and writes a [`folder`]; the program
//! `hearth-jepsen-tests` is its command line.

pub mod campaign;
pub mod check;
pub mod client;
pub mod cluster;
pub mod disk;
mod error;
pub mod folder;
pub mod history;
pub mod load;
pub mod net;
pub mod node;
pub mod preload;
pub mod process;
pub mod programs;
pub mod report;
pub mod run;
pub mod shaper;
pub mod shim;
pub mod sim;
pub mod stranger;
pub mod volume;
pub mod workload;

pub use error::{Result, RigError};
