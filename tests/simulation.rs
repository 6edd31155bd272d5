//! The whole operator against an API server and hosts in memory, in simulated time: minutes pass in milliseconds, and
//! anything may go wrong at any call.

#[path = "simulation/apiserver/mod.rs"]
mod apiserver;
#[path = "support/cluster.rs"]
mod cluster;
#[path = "simulation/datacentre.rs"]
mod datacentre;
#[path = "simulation/drive.rs"]
mod drive;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/flows.rs"]
mod flows;
#[path = "simulation/host.rs"]
mod host;
#[path = "simulation/images.rs"]
mod images;
#[path = "simulation/invariants.rs"]
mod invariants;
#[path = "simulation/router.rs"]
mod router;
#[path = "simulation/soak.rs"]
mod soak;
#[path = "simulation/state.rs"]
mod state;
#[path = "simulation/world.rs"]
mod world;

#[path = "simulation/chance.rs"]
mod chance;
#[path = "simulation/disturbances.rs"]
mod disturbances;
#[path = "simulation/likeness.rs"]
mod likeness;
#[path = "simulation/stops.rs"]
mod stops;
