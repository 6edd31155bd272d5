//! One folder per kind, the same five files in each: `mod.rs` joins them, `observe.rs` looks, `plan.rs` decides,
//! `act.rs` does, `status.rs` tells.

pub mod cache;
pub mod context;
pub mod error;
pub mod farm;
pub mod fleet;
pub mod hypervisor;
pub mod image;
pub mod isolation;
pub mod ledger;
pub mod machine;
pub mod news;
pub mod objects;
pub mod observed;
pub mod ownership;
pub mod placement;
pub mod router;
pub mod runner;
pub mod ssh_keys;
pub mod turns;
pub mod vanish;
pub mod writes;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::images::ImageStore;
use context::Context;

/// Runs every controller until `stop`: from here on this instance leads.
pub async fn run(context: Arc<Context>, store: Arc<ImageStore>, stop: CancellationToken) {
    context.fleet.lead();
    let shutdown = || stop.clone().cancelled_owned();
    tokio::join!(
        hypervisor::run(Arc::clone(&context), shutdown()),
        image::run(Arc::clone(&context), store, shutdown()),
        isolation::run(Arc::clone(&context), shutdown()),
        farm::run(Arc::clone(&context), shutdown()),
        placement::run(Arc::clone(&context), shutdown()),
        machine::run(Arc::clone(&context), shutdown()),
        router::run(Arc::clone(&context), shutdown()),
    );
}
