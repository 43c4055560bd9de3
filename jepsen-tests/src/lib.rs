//! Real nodes, real faults, a checker: what will show that Hearth holds.
//!
//! The rig, its workloads, faults and checkers are still to come. What lives here today is the test of
//! the house itself (`tests/house.rs`): which room may know which, and that the map of the code is true.
