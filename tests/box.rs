//! Cascina as its users see it: the operator, the API server, libvirt and guests of a running box, nothing imitated.
//!
//! `make test` runs this, one test after another, in the order of their names. By hand: `. .box/env`, then
//! `cargo test --test box -- --test-threads=1 [NAME]`. Without a box each test says so and passes.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "isolation/ears.rs"]
#[allow(dead_code, reason = "tests of isolation use the rest")]
mod ears;
#[path = "isolation/frames.rs"]
#[allow(dead_code, reason = "tests of isolation use the rest")]
mod frames;
#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "box/support/mod.rs"]
mod support;

#[path = "box/bad_hosts.rs"]
mod bad_hosts;
#[path = "box/bad_images.rs"]
mod bad_images;
#[path = "box/bad_input.rs"]
mod bad_input;
#[path = "box/canary.rs"]
mod canary;
#[path = "box/certificates.rs"]
mod certificates;
#[path = "box/drift.rs"]
mod drift;
#[path = "box/farms.rs"]
mod farms;
#[path = "box/faults/mod.rs"]
mod faults;
#[path = "box/gitops.rs"]
mod gitops;
#[path = "box/hostile_text.rs"]
mod hostile_text;
#[path = "box/hosts.rs"]
mod hosts;
#[path = "box/kills.rs"]
mod kills;
#[path = "box/life.rs"]
mod life;
#[path = "box/loss.rs"]
mod loss;
#[path = "box/lying_agent.rs"]
mod lying_agent;
#[path = "box/operators.rs"]
mod operators;
#[path = "box/root_in_a_guest.rs"]
mod root_in_a_guest;
#[path = "box/routers/mod.rs"]
mod routers;
#[path = "box/telling.rs"]
mod telling;
#[path = "box/waiting.rs"]
mod waiting;
