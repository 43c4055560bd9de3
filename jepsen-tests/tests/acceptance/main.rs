//! Three and five real nodes as one name server: killed, stopped, cut off, restarted and replaced while
//! clients work.
//!
//! The amounts are small by default. `HEARTH_ROUNDS=full` runs the full ones, with the limits on time that
//! belong to them; use optimised programs then (`HEARTH_BIN_DIR=target/release`). Each test prints
//! its figures in lines that begin with `figure:` (`cargo test … -- --nocapture`).

// Helpers of a test fail as the test itself does.
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
