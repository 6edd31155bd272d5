//! One folder per kind, the same five files in each: `mod.rs` joins them, `observe.rs` looks, `plan.rs` decides,
//! `act.rs` does, `status.rs` tells.

pub mod cache;
pub mod context;
pub mod error;
pub mod farm;
pub mod fleet;
pub mod hypervisor;
pub mod image;
pub mod machine;
pub mod observed;
pub mod placement;
pub mod runner;
pub mod writes;

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use context::Context;

/// Runs every controller until `stop`.
///
/// # Errors
/// What keeps a controller from starting.
pub async fn run(context: Arc<Context>, cache_dir: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let shutdown = || stop.clone().cancelled_owned();
    let ((), images, (), (), ()) = tokio::join!(
        hypervisor::run(Arc::clone(&context), shutdown()),
        image::run(Arc::clone(&context), cache_dir, shutdown()),
        farm::run(Arc::clone(&context), shutdown()),
        placement::run(Arc::clone(&context), shutdown()),
        machine::run(Arc::clone(&context), shutdown()),
    );
    images
}
