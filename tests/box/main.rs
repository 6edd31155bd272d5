//! Cascina as its users see it: the operator, the API server, libvirt and guests of a running box, nothing imitated.
//!
//! `make test` runs this, one test after another, in the order of their names. By hand: `. .box/env`, then
//! `cargo test --test box -- --test-threads=1 [NAME]`. Without a box each test says so and passes.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../isolation/ears.rs"]
#[allow(dead_code, reason = "tests of isolation use the rest")]
mod ears;
#[path = "../isolation/frames.rs"]
#[allow(dead_code, reason = "tests of isolation use the rest")]
mod frames;
#[path = "../support/namespaces.rs"]
mod namespaces;
mod support;

mod bad_hosts;
mod bad_images;
mod bad_input;
mod canary;
mod certificates;
mod drift;
mod farms;
mod faults;
mod gitops;
mod hostile_text;
mod hosts;
mod kills;
mod life;
mod loss;
mod lying_agent;
mod operators;
mod root_in_a_guest;
mod routers;
mod telling;
mod waiting;
