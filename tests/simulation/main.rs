//! The whole operator against an API server and hosts in memory, in simulated time: minutes pass in milliseconds, and
//! anything may go wrong at any call.

mod apiserver;
mod canary;
#[path = "../support/cluster.rs"]
mod cluster;
mod datacentre;
mod disks;
mod drive;
mod faults;
mod flows;
mod host;
mod images;
mod invariants;
#[path = "../support/kstatus.rs"]
mod kstatus;
mod router;
mod sharing;
mod soak;
mod state;
#[path = "../support/turn.rs"]
mod turn;
mod world;

mod chance;
mod disturbances;
mod failover;
mod kept;
mod likeness;
mod mirror;
mod slots;
mod stops;
mod telling;
mod tenants;
mod trust;
mod walk;
