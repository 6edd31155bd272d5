//! Cascina as its users see it: the operator, the API server, libvirt and guests of a running box, nothing imitated.
//!
//! `make test` runs this. By hand: `. .box/env`, then `cargo test --test box -- --include-ignored --skip soak_ [NAME]`. Tests
//! of tenants (`the_box`) run side by side; one that disturbs a host or the operator, or asserts seconds, has the box to
//! itself (`the_box_alone`). A test called `soak_…` has no short form: `make soak` runs it.

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
mod fairness;
mod farms;
mod faults;
mod flux;
mod gitops;
mod guests;
mod hostile_text;
mod hosts;
mod kills;
mod life;
mod loss;
mod lying_agent;
mod metadata;
mod operators;
mod root_in_a_guest;
mod routers;
mod telling;
mod tenant_metadata;
#[path = "../support/turn.rs"]
mod turn;
mod waiting;
