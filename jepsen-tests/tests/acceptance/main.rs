//! Three and five real nodes as one name server: killed, stopped, cut off, restarted and replaced while clients
//! work.
//!
//! The numbers of rounds and names are small by default. `HEARTH_ROUNDS=full` runs the full ones with their
//! time limits; it needs optimised programs (`HEARTH_BIN_DIR=target/release`). Each test prints its figures in
//! lines that begin with `figure:` (`cargo test … -- --nocapture`).

// A panic in a helper fails its test, as it should.
#![allow(clippy::unwrap_used)]

mod discovery;
mod failover;
mod learner;
mod many_names;
mod members;
mod names;
mod partition;
mod power;
mod rolling;
mod support;
