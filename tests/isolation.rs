//! Farms under attack: real frames between real network stacks, behind the operator's rules as libvirt installs them.
//!
//! `make test` runs this. By hand: `. .box/env`, then `cargo test --test isolation -- --test-threads=1 --nocapture`.
//! Without a box each test says so and passes. No guest boots: a network namespace on a port of a host's bridge plays one.

#[path = "isolation/attacks.rs"]
mod attacks;
#[path = "isolation/bandwidth.rs"]
mod bandwidth;
#[path = "isolation/change.rs"]
mod change;
#[path = "isolation/ears.rs"]
mod ears;
#[path = "support/emulated.rs"]
mod emulated;
#[path = "isolation/frames.rs"]
mod frames;
#[path = "isolation/guests.rs"]
mod guests;
#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "isolation/policing.rs"]
mod policing;
#[path = "isolation/public.rs"]
mod public;
#[path = "isolation/site.rs"]
mod site;
#[path = "isolation/suite.rs"]
mod suite;
#[path = "isolation/tables.rs"]
mod tables;
#[path = "isolation/traffic.rs"]
mod traffic;
