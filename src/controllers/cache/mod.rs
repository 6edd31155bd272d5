//! What the API server last said of every object of one kind, and what we wrote since.
//!
//! A plain watch lags behind our own writes: a loop that gives out addresses or capacity would give the same one
//! twice. So the answer to each write is absorbed here and counts until the watch delivers something newer.

mod objects;
mod slim;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt, stream};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, broadcast, watch};
use tracing::warn;

use super::vanish::{PAUSE, is_mass};
use crate::metrics::Metrics;
pub use objects::{Index, Key};
use objects::{Objects, is_newer, is_same_version, key};
pub use slim::{KeepLabels, is_ours};

/// How many changes a slow listener may lag behind before it is shown every object again.
const BACKLOG: usize = 4096;

/// Objects that are asked for at a time when all are listed. An object may be of a mebibyte and a half, and each page is in
/// memory as text and as objects.
const PAGE: u32 = 50;

/// What every kind that is cached can do.
pub trait Cached: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K> Cached for K where K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

/// All objects of one kind.
pub struct Cache<K: Cached> {
    store: Store<K>,
    labels: KeepLabels,
    objects: Mutex<Objects<K>>,
    changes: broadcast::Sender<Arc<K>>,
    /// How many full lists were taken in.
    lists: watch::Sender<u64>,
    /// Somebody wants another one.
    relist: Notify,
}

impl<K: Cached> Cache<K> {
    /// A cache and the task that fills it as long as it runs.
    pub fn new(
        api: Api<DeserializeGuard<K>>,
        metrics: Arc<Metrics>,
        index: Index<K>,
        labels: KeepLabels,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let writer = Writer::<K>::new(());
        let cache = Arc::new(Self {
            store: writer.as_reader(),
            labels,
            objects: Mutex::new(Objects::new(index)),
            changes: broadcast::Sender::new(BACKLOG),
            lists: watch::Sender::new(0),
            relist: Notify::new(),
        });
        let filling = Arc::clone(&cache).fill(api, writer, metrics);
        (cache, filling)
    }

    async fn fill(self: Arc<Self>, api: Api<DeserializeGuard<K>>, mut writer: Writer<K>, metrics: Arc<Metrics>) {
        let kind = K::kind(&());
        let mut doubted = false;
        loop {
            let config = watcher::Config::default().page_size(PAGE);
            let mut events = watcher(api.clone(), config).default_backoff().boxed();
            let mut listed = Vec::new();
            let again = loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = self.relist.notified() => break true,
                };
                let Some(event) = event else { break false };
                let event = match event {
                    Ok(event) => event,
                    Err(error) => {
                        warn!(%kind, %error, "watch interrupted; what is known stays as it is");
                        continue;
                    }
                };
                let Some(event) = self.well_formed(event) else { continue };
                if matches!(event, watcher::Event::InitDone) {
                    doubted = !doubted && self.lacks_much(&listed);
                    metrics.set_doubted(&kind, doubted);
                    if doubted {
                        warn!(%kind, "much is missing from a list; it is asked for again before that counts");
                        tokio::time::sleep(PAUSE).await;
                        break true;
                    }
                }
                let unseen = self.is_unseen(&event);
                writer.apply_watcher_event(&event);
                self.follow(event, unseen, &mut listed);
            };
            if !again {
                return;
            }
        }
    }

    /// The event of an object that can be read, without what nobody reads; one that can't is reported and left out, so that
    /// it stops nobody else.
    fn well_formed(&self, event: watcher::Event<DeserializeGuard<K>>) -> Option<watcher::Event<K>> {
        let read = |guard: DeserializeGuard<K>| match guard.0 {
            Ok(object) => Some(slim::slim(object, self.labels)),
            Err(invalid) => {
                let name = invalid.metadata.name.as_deref().unwrap_or_default();
                warn!(kind = %K::kind(&()), name, error = %invalid.error, "object left out: it can't be read");
                None
            }
        };
        Some(match event {
            watcher::Event::Init => watcher::Event::Init,
            watcher::Event::InitDone => watcher::Event::InitDone,
            watcher::Event::InitApply(guard) => watcher::Event::InitApply(read(guard)?),
            watcher::Event::Apply(guard) => watcher::Event::Apply(read(guard)?),
            watcher::Event::Delete(guard) => watcher::Event::Delete(read(guard)?),
        })
    }

    fn follow(&self, event: watcher::Event<K>, unseen: bool, listed: &mut Vec<Arc<K>>) {
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => listed.push(Arc::new(object)),
            watcher::Event::InitDone => {
                let listed = std::mem::take(listed);
                self.replace(listed.into_iter().map(|object| self.stored(&object).unwrap_or(object)).collect());
                self.lists.send_modify(|lists| *lists += 1);
            }
            watcher::Event::Apply(object) => self.arrive(self.shared(object), unseen),
            watcher::Event::Delete(object) => self.bury(Arc::new(object)),
        }
    }

    /// Whether much of what is known, and wasn't being deleted, is missing from a list.
    fn lacks_much(&self, listed: &[Arc<K>]) -> bool {
        let listed: HashSet<_> = listed.iter().map(|object| object.uid()).collect();
        let objects = self.lock();
        let stay = objects.by_key.values().filter(|object| object.meta().deletion_timestamp.is_none());
        let missing = stay.filter(|object| !listed.contains(&object.uid())).count();
        is_mass(missing, objects.by_key.len())
    }

    /// Lists everything anew, and waits for that.
    pub async fn list_again(&self) {
        let mut lists = self.lists.subscribe();
        lists.mark_unchanged();
        self.relist.notify_one();
        // The sender lives as long as the cache.
        let _ = lists.changed().await;
    }

    /// Whether an object of this uid was seen to be deleted: a fact, where its absence from a list is none.
    pub fn was_deleted(&self, uid: &str) -> bool {
        self.lock().buried.contains(uid)
    }

    /// Waits until the first full list has arrived.
    pub async fn ready(&self) {
        // The writer lives as long as the watch, which never ends by itself.
        let _ = self.store.wait_until_ready().await;
    }

    /// The store that a controller finds its objects in.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// The newest that is known of an object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.lock().by_key.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The newest that is known of an object that somebody holds a copy of.
    pub fn latest(&self, object: &K) -> Option<Arc<K>> {
        self.lock().by_key.get(&key(object)).cloned()
    }

    /// Every object, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.lock().by_key.values().cloned().collect()
    }

    /// The objects of a namespace whose names begin so, ordered by name.
    pub fn named(&self, namespace: &str, prefix: &str) -> Vec<Arc<K>> {
        let objects = self.lock();
        let from = objects.by_key.range((namespace.to_owned(), prefix.to_owned())..);
        let so = from.take_while(|((of, name), _)| of == namespace && name.starts_with(prefix));
        so.map(|(_, object)| Arc::clone(object)).collect()
    }

    /// The objects that the cache's index files under this, ordered by namespace and name.
    pub fn filed_under(&self, entry: &str) -> Vec<Arc<K>> {
        let objects = self.lock();
        let keys = objects.by_entry.get(entry).into_iter().flatten();
        keys.filter_map(|key| objects.by_key.get(key).cloned()).collect()
    }

    /// Whether there is an object of this uid.
    pub fn has_uid(&self, uid: &str) -> bool {
        self.lock().uids.contains(uid)
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Takes in the API server's answer to one of our writes.
    pub fn absorb(&self, object: K) {
        let finished = object.meta().deletion_timestamp.is_some() && object.finalizers().is_empty();
        if !finished {
            self.take_in(Arc::new(slim::slim(object, self.labels)));
        }
    }

    /// Every change from now on; deleted objects too, as they last were.
    pub fn changes(self: &Arc<Self>) -> impl Stream<Item = Arc<K>> + Send + 'static {
        let cache = Arc::clone(self);
        let receiver = self.changes.subscribe();
        stream::unfold((cache, receiver), |(cache, mut receiver)| async move {
            match receiver.recv().await {
                Ok(object) => Some((vec![object], (cache, receiver))),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((cache.list(), (cache, receiver))),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .flat_map(stream::iter)
    }

    /// Every object that is there now and every change from now on.
    pub fn all_then_changes(self: &Arc<Self>) -> impl Stream<Item = Arc<K>> + Send + 'static {
        let changes = self.changes();
        stream::iter(self.list()).chain(changes)
    }

    /// Whether the watch tells of an object for the first time.
    fn is_unseen(&self, event: &watcher::Event<K>) -> bool {
        matches!(event, watcher::Event::Apply(object) if self.store.get(&ObjectRef::from_obj(object)).is_none())
    }

    /// Takes in what the watch tells. A controller finds no object that the watch hasn't told of: one that we made, and
    /// wrote to since, has to be shown to it again when it arrives, though the watch says nothing new.
    fn arrive(&self, object: Arc<K>, unseen: bool) {
        let news = self.take_in(Arc::clone(&object));
        if let Some(known) = self.latest(&object).filter(|_| unseen && !news) {
            // Nobody listening is fine.
            let _ = self.changes.send(known);
        }
    }

    /// The object as the store has it, so that it is in memory once.
    fn shared(&self, object: K) -> Arc<K> {
        self.stored(&object).unwrap_or_else(|| Arc::new(object))
    }

    fn stored(&self, object: &K) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::from_obj(object)).filter(|stored| is_same_version(&**stored, object))
    }

    /// Takes in an object that is newer than what is known. Says whether it is.
    fn take_in(&self, object: Arc<K>) -> bool {
        let mut objects = self.lock();
        let known = objects.by_key.get(&key(&*object)).filter(|known| !is_newer(&*object, &***known));
        if known.is_some_and(|known| is_same_version(&**known, &*object)) {
            // Our own write comes back: from here on it is the store's copy.
            objects.insert(object);
            return false;
        }
        let buried = object.uid().is_some_and(|uid| objects.buried.contains(&uid));
        if known.is_some() || buried {
            return false;
        }
        objects.insert(Arc::clone(&object));
        drop(objects);
        // Nobody listening is fine.
        let _ = self.changes.send(object);
        true
    }

    fn bury(&self, object: Arc<K>) {
        let mut objects = self.lock();
        if objects.by_key.get(&key(&*object)).is_some_and(|known| known.uid() == object.uid()) {
            objects.remove(&key(&*object));
        }
        if let Some(uid) = object.uid() {
            objects.buried.add(object.namespace().unwrap_or_default(), uid);
        }
        drop(objects);
        let _ = self.changes.send(object);
    }

    /// Takes in a full list. What isn't in it was deleted while nobody watched.
    fn replace(&self, listed: Vec<Arc<K>>) {
        let gone: Vec<_> = {
            let mut objects = self.lock();
            let mut before = objects.empty();
            for object in &listed {
                let newest = match before.remove(&key(&**object)) {
                    Some(known) if known.uid() == object.uid() && is_newer(&*known, &**object) => known,
                    _ => Arc::clone(object),
                };
                objects.insert(newest);
            }
            before.into_values().collect()
        };
        for object in gone.into_iter().chain(listed) {
            let _ = self.changes.send(object);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Objects<K>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reference that wakes the controller of this object.
pub fn reference<K: Cached>(namespace: &str, name: &str) -> ObjectRef<K> {
    let reference = ObjectRef::new(name);
    if namespace.is_empty() { reference } else { reference.within(namespace) }
}
