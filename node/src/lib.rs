//! One Hearth node: the parts that `hearthd` is put together from, for programs that want a name server
//! of their own.
//!
//! [`start_ns`] runs one inside a tokio program, [`start_ns_loop`] runs one until a signal ends it.
//! [`config::NodeConfig`] says what kind; [`config::load`] makes one of a command line.

pub mod args;
pub mod config;
pub mod discovery;
pub mod logging;
pub mod offline;
pub mod pyro;

mod announce;
mod autoclean;
mod cluster;
mod error;
mod limits;
mod line_queue;
mod listen;
mod node;
mod process;
mod reload;
mod settings;

pub use error::NodeError;
pub use node::{RunningNs, start_ns, start_ns_loop};
