//! Real nodes, real faults, a checker: what shows that Hearth holds.
//!
//! `history` is what clients saw, `check` says whether one name server that never fails can have
//! answered so.

pub mod check;
pub mod history;
