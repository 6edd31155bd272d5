//! Farms under attack: real frames between real network stacks, behind the operator's rules as libvirt installs them.
//!
//! `make test` runs this. By hand: `. .box/env`, then `cargo test --test isolation -- --include-ignored --nocapture`.
//! No guest boots: a network namespace on a port of a host's bridge plays one.

mod attacks;
mod bandwidth;
mod change;
mod ears;
#[path = "../support/emulated.rs"]
mod emulated;
mod frames;
mod guests;
#[path = "../support/namespaces.rs"]
mod namespaces;
mod policing;
mod public;
mod site;
mod suite;
mod tables;
mod traffic;
#[path = "../support/turn.rs"]
mod turn;
