//! `Image`: fetches, judges, and brings copies to the hosts that shall have one.

mod act;
mod jobs;
mod observe;
mod plan;
mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio_stream::wrappers::WatchStream;
use tracing::{info, warn};

use super::cache::reference;
use super::context::Context;
use super::error::Error;
use super::fleet::Change;
use super::news::{remind, tell};
use super::runner;
use super::writes::{add_finalizer, apply_status, remove_finalizer, tell_kept};
use crate::api::{Image, has_our_finalizer};
use crate::images::{ImageStore, volumes_of};
use jobs::Jobs;
use observe::observe;
use plan::plan;

/// Progress is told this often.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Machines come and go in swarms; those that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(200);

/// An image on which nothing happens is looked at this often.
const STEADY: Duration = Duration::from_secs(60);

/// Runs the controller until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    store: Arc<ImageStore>,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let jobs = Arc::new(Jobs::new(store, context.clock, context.site().limits.uploads_in_flight));
    let triggers = triggers(&context, &jobs);
    let images = Arc::clone(&context.caches.images);
    remind(&context, &images, "Fetch", status::lasting);
    let reconcile = move |image, context| reconcile(image, context, Arc::clone(&jobs));
    runner::run(context, &images, triggers, GATHER, shutdown, reconcile).await;
}

/// What wakes an image besides its own changes: transfers that end, hosts that come or change, machines placed.
fn triggers(context: &Arc<Context>, jobs: &Arc<Jobs>) -> stream::BoxStream<'static, ObjectRef<Image>> {
    let images = Arc::clone(&context.caches.images);
    let all = move || stream::iter(images.list().iter().map(|image| ObjectRef::from_obj(&**image)).collect::<Vec<_>>());
    let on_hosts = context.fleet.changes().flat_map({
        let all = all.clone();
        move |change| match change {
            Change::Reach(_) | Change::Stock(_) => all().boxed(),
            Change::Domain(..) => stream::empty().boxed(),
        }
    });
    let hosts = context.caches.hypervisors.changes();
    let of_hosts = hosts.flat_map({
        let all = all.clone();
        move |_| all()
    });
    let retried = Arc::clone(jobs);
    let of_site = WatchStream::from_changes(context.site.clone()).flat_map(move |site| {
        retried.store().set_limits(&site.images);
        retried.forget_failures();
        all()
    });
    let of_machines = context.caches.machines.changes().filter_map(|machine| {
        let pinned = machine.status.as_ref().and_then(|status| status.image.as_ref());
        std::future::ready(pinned.map(|image| reference("", &image.name)))
    });
    let ended = jobs.ended().map(|image| reference("", &image));
    stream::select_all([on_hosts.boxed(), of_hosts.boxed(), of_site.boxed(), of_machines.boxed(), ended.boxed()])
        .boxed()
}

async fn reconcile(image: Arc<Image>, context: Arc<Context>, jobs: Arc<Jobs>) -> Result<Action, Error> {
    let api: Api<Image> = context.cluster_api();
    let cache = &context.caches.images;
    let name = image.name_any();
    let deleted = image.metadata.deletion_timestamp.is_some();
    if deleted && !has_our_finalizer(&*image) {
        jobs.forget(&name);
        tell_kept(&context, &*image).await?;
        return Ok(Action::await_change());
    }
    if !deleted {
        add_finalizer(&context, cache, &api, &image).await?;
    }
    let image = cache.latest(&image).unwrap_or(image);
    let seen = match observe(&context, &jobs, &image) {
        Ok(seen) => seen,
        Err(error) => {
            warn!(kind = "Image", object = %name, %error, "the API server let a wrong checksum through");
            return Ok(Action::await_change());
        }
    };
    if deleted && seen.users.is_empty() {
        jobs.forget(&name);
        remove_finalizer(&context, cache, &api, &image).await?;
        clean_store(&context, &jobs, &name).await;
        return Ok(Action::await_change());
    }
    let now = context.clock.now();
    let plan = plan(&seen, now);
    act::act(&jobs, &context.fleet, &name, &seen, &plan.steps);
    let after = status::status(&image, &seen, &plan, now);
    apply_status(&context, cache, &api, &image, &status::SHARE, &after).await?;
    if let Some(news) = status::news(&image, &after) {
        tell(&context, cache, &*image, "Fetch", news).await;
    }
    Ok(Action::requeue(if plan.busy { TELL_EVERY } else { STEADY }))
}

/// Removes from the operator's store what no other image has.
async fn clean_store(context: &Context, jobs: &Jobs, except: &str) {
    let images = context.caches.images.list();
    let others = images.iter().filter(|image| image.name_any() != except);
    let keep: BTreeSet<_> = others
        .filter_map(|image| volumes_of(&image.spec).ok())
        .flat_map(|volumes| volumes.iter().map(|volume| volume.checksum).collect::<Vec<_>>())
        .collect();
    match jobs.store().remove_unused(&keep).await {
        Ok(0) => {}
        Ok(count) => info!(count, "files removed from the store"),
        Err(error) => warn!(%error, "the store can't be cleaned; it is tried with the next image that goes"),
    }
}
