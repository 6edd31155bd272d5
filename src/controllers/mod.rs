//! One folder per kind, the same five files in each: `mod.rs` joins them, `observe.rs` looks, `plan.rs` decides,
//! `act.rs` does, `status.rs` tells.

pub mod cache;
pub mod context;
pub mod error;
pub mod fleet;
pub mod observed;
pub mod runner;
pub mod writes;
