//! What a cache knows after what order of news.

use std::collections::BTreeMap;

use super::*;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

fn cache() -> Cache<ConfigMap> {
    Cache {
        store: Writer::<ConfigMap>::new(()).as_reader(),
        labels: KeepLabels::Ours,
        objects: Mutex::new(Objects::new(|map: &ConfigMap| {
            map.data.iter().flat_map(|data| data.values().cloned()).collect()
        })),
        changes: broadcast::Sender::new(8),
        lists: watch::Sender::new(0),
        relist: Notify::new(),
    }
}

fn object(uid: &str, version: u64) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some("one".into());
    object.metadata.namespace = Some("farm".into());
    object.metadata.uid = Some(uid.into());
    object.metadata.resource_version = Some(version.to_string());
    object
}

fn version(cache: &Cache<ConfigMap>) -> Option<String> {
    cache.get("farm", "one").and_then(|object| object.resource_version())
}

#[test]
fn our_own_write_counts_until_the_watch_is_newer() {
    let cache = cache();
    cache.take_in(Arc::new(object("a", 5)));
    cache.absorb(object("a", 9));
    cache.take_in(Arc::new(object("a", 7)));
    assert_eq!(version(&cache).as_deref(), Some("9"));
    cache.take_in(Arc::new(object("a", 10)));
    assert_eq!(version(&cache).as_deref(), Some("10"));
}

#[test]
fn what_the_watch_tells_for_the_first_time_is_shown_even_if_it_is_no_news() {
    let cache = cache();
    cache.absorb(object("a", 9));
    let mut changes = cache.changes.subscribe();
    cache.arrive(Arc::new(object("a", 5)), false);
    assert!(changes.try_recv().is_err());
    cache.arrive(Arc::new(object("a", 5)), true);
    let shown = changes.try_recv().unwrap();
    assert_eq!(shown.resource_version().as_deref(), Some("9"), "as it is known, not as it was");
    cache.arrive(Arc::new(object("a", 10)), true);
    assert!(changes.try_recv().is_ok() && changes.try_recv().is_err(), "news is shown once");
}

#[test]
fn a_late_answer_does_not_bring_a_deleted_object_back() {
    let cache = cache();
    cache.take_in(Arc::new(object("a", 5)));
    cache.bury(Arc::new(object("a", 6)));
    cache.absorb(object("a", 5));
    assert_eq!(version(&cache), None);
    cache.absorb(object("b", 8));
    assert_eq!(version(&cache).as_deref(), Some("8"), "a new object of the same name is another object");
}

#[test]
fn a_list_removes_what_is_not_in_it_and_keeps_newer_writes() {
    let cache = cache();
    cache.absorb(object("a", 9));
    cache.replace(vec![Arc::new(object("a", 8))]);
    assert_eq!(version(&cache).as_deref(), Some("9"));
    cache.replace(vec![]);
    assert_eq!(version(&cache), None);
}

#[test]
fn an_object_is_filed_under_what_it_says_last() {
    let cache = cache();
    let filed = |version: u64, entry: Option<&str>| {
        let mut object = object("a", version);
        object.data = entry.map(|entry| BTreeMap::from([("entry".into(), entry.into())]));
        Arc::new(object)
    };
    let found = |entry: &str| cache.filed_under(entry).len();
    cache.take_in(filed(1, None));
    assert_eq!((found("x"), cache.named("farm", "").len(), cache.named("far", "").len()), (0, 1, 0));
    cache.take_in(filed(2, Some("x")));
    cache.take_in(filed(3, Some("y")));
    assert_eq!((found("x"), found("y")), (0, 1));
    cache.replace(vec![filed(4, Some("z"))]);
    assert_eq!((found("y"), found("z"), cache.has_uid("a")), (0, 1, true));
    cache.bury(filed(5, None));
    assert_eq!((found("z"), cache.count(), cache.has_uid("a")), (0, 0, false));
    assert!(cache.lock().by_entry.is_empty(), "nothing is kept of what is gone");
}

#[test]
fn an_object_is_found_by_each_thing_it_is_filed_under_and_by_how_its_name_begins() {
    let cache = cache();
    let mut both = object("a", 1);
    both.data = Some([("one", "x"), ("other", "y")].map(|(key, entry)| (key.into(), entry.into())).into());
    cache.take_in(Arc::new(both));
    assert_eq!((cache.filed_under("x").len(), cache.filed_under("y").len()), (1, 1));
    let mut named = object("b", 2);
    named.metadata.name = Some("ona".into());
    cache.take_in(Arc::new(named));
    let found = |prefix: &str| cache.named("farm", prefix).len();
    assert_eq!((found("on"), found("one"), found("p"), cache.named("far", "on").len()), (2, 1, 0, 0));
}

#[test]
fn a_list_that_lacks_much_is_noticed_and_deletions_are_not_held_against_it() {
    let named = |name: &str, deleted: bool| {
        let mut object = object(name, 5);
        object.metadata.name = Some(name.into());
        object.metadata.deletion_timestamp = deleted.then_some(Time(jiff::Timestamp::UNIX_EPOCH));
        Arc::new(object)
    };
    let names = ["a", "b", "c", "d"];
    let cache = cache();
    for name in names {
        cache.take_in(named(name, false));
    }
    assert!(cache.lacks_much(&[named("a", false)]));
    assert!(!cache.lacks_much(&[named("a", false), named("b", false)]), "two are a few");
    for name in names {
        let mut going = named(name, true).as_ref().clone();
        going.metadata.resource_version = Some("9".into());
        cache.take_in(Arc::new(going));
    }
    assert!(!cache.lacks_much(&[]), "what was being deleted may be gone");
}

#[test]
fn what_is_deleted_in_one_namespace_pushes_nothing_of_another_out() {
    let mut buried = super::objects::Buried::default();
    buried.add("modest".into(), "one".into());
    (0..5_000).for_each(|index| buried.add("greedy".into(), format!("uid-{index}")));
    assert!(buried.contains("one") && buried.contains("uid-4999") && !buried.contains("uid-0"));
}

#[test]
fn only_what_the_watch_reported_was_deleted() {
    let cache = cache();
    cache.take_in(Arc::new(object("a", 5)));
    cache.replace(vec![]);
    assert!(!cache.was_deleted("a"), "that it isn't listed says less");
    cache.bury(Arc::new(object("a", 6)));
    assert!(cache.was_deleted("a"));
}

#[test]
fn of_an_object_only_what_is_read_is_kept() {
    let large = || Some(("example.org/large".to_owned(), "x".repeat(100_000)));
    let mut heavy = object("a", 5);
    let ours = [("cascina.dev/paused".to_owned(), "true".to_owned())];
    heavy.metadata.annotations = Some(ours.clone().into_iter().chain(large()).collect());
    heavy.metadata.labels = Some(large().into_iter().collect());
    heavy.metadata.managed_fields = Some(vec![Default::default()]);
    let cache = cache();
    cache.absorb(heavy.clone());
    let kept = cache.get("farm", "one").unwrap();
    assert_eq!(kept.metadata.annotations, Some(ours.into_iter().collect()));
    assert_eq!((&kept.metadata.labels, &kept.metadata.managed_fields), (&None, &None));
    let all = slim::slim(heavy.clone(), KeepLabels::All);
    assert_eq!(all.metadata.labels, heavy.metadata.labels, "hosts are selected by theirs");
}

#[test]
fn an_object_that_the_watch_brings_is_in_memory_once() {
    let mut writer = Writer::<ConfigMap>::new(());
    let cache = Cache { store: writer.as_reader(), ..cache() };
    let mut bring = |event: watcher::Event<ConfigMap>, listed: &mut Vec<Arc<ConfigMap>>| {
        writer.apply_watcher_event(&event);
        cache.follow(event, false, listed);
    };
    let mut listed = Vec::new();
    bring(watcher::Event::Init, &mut listed);
    bring(watcher::Event::InitApply(object("a", 5)), &mut listed);
    bring(watcher::Event::InitDone, &mut listed);
    let once = || {
        let known = cache.get("farm", "one").unwrap();
        Arc::ptr_eq(&known, &cache.store.get(&ObjectRef::from_obj(&*known)).unwrap())
    };
    assert!(once(), "a list");
    cache.absorb(object("a", 9));
    assert!(!once(), "our own write is ahead of the watch");
    bring(watcher::Event::Apply(object("a", 9)), &mut listed);
    assert!(once() && version(&cache).as_deref() == Some("9"), "until it arrives");
}
