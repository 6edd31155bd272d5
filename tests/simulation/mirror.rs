//! The files of images are gone from the operator's cache and from where they came from.

use serde_json::{Value, json};

use crate::datacentre::{Datacentre, Live, ours};
use crate::drive::{Act, drive};
use crate::faults::Faults;
use crate::flows::{act, with_farm};
use crate::state::faults_of;

/// An operator starts with an empty cache; the mirror is away, or is there again.
fn restart(live: &Live, faults: &Faults, mirror_is_away: bool) {
    live.world(|world| world.mirror_is_away = mirror_is_away);
    faults.dead.cancel();
}

/// A host whose pool was made anew.
fn lose_the_copies(live: &Live, host: &str) {
    live.world(|world| world.pool(host).volumes.retain(|name, _| !name.starts_with("img-")));
}

/// Status and reason of a condition of an image.
fn condition(site: &Datacentre, image: &str, kind: &str) -> Option<(String, String)> {
    let image = site.store.get(&ours("images"), "", image).unwrap();
    let conditions = image["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind)?;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Some((text(&found["status"]), text(&found["reason"])))
}

fn pair(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.to_owned(), reason.to_owned()))
}

const AWAY: Act = act(0, |live, faults| {
    // Where nothing runs that was made from it.
    lose_the_copies(live, "service-1");
    restart(live, faults, true);
});

#[test]
fn machines_are_made_from_the_copies_that_hosts_have() {
    let acts = [
        AWAY,
        act(5, |live, _| live.edit_group("replicas", &json!(6))),
        act(0, |live, _| live.create_machine("another", "Always")),
    ];
    let site = drive(with_farm(), &acts, None).site;
    assert_eq!(condition(&site, "one", "Ready"), pair("True", "Verified"));
    assert_eq!(condition(&site, "one", "SourceUnavailable"), pair("True", "FileNotAvailable"));
    assert_eq!(faults_of(&site), Vec::<String>::new(), "all run");

    let back = drive(&site, &[act(0, |live, faults| restart(live, faults, false))], None).site;
    assert_eq!(condition(&back, "one", "SourceUnavailable"), None);
    let one = back.store.get(&ours("images"), "", "one").unwrap();
    assert_eq!(one["status"]["ready"], "5/5", "the pool has its copy again");
}

#[test]
fn nothing_is_fetched_or_told_while_all_hosts_have_copies() {
    let acts =
        [act(0, |live, faults| restart(live, faults, true)), act(5, |live, _| live.patch_farm(&json!({"router": {}})))];
    let site = drive(with_farm(), &acts, None).site;
    assert_eq!(condition(&site, "router", "SourceUnavailable"), None);
    assert_eq!(faults_of(&site), Vec::<String>::new(), "the router runs");
}

#[test]
fn other_contents_are_not_believed_because_the_old_ones_were() {
    let acts = [
        act(0, |live, faults| restart(live, faults, true)),
        act(5, |live, _| {
            let mut other = crate::images::images().spec("one");
            other["disk"]["checksum"] = json!(format!("sha256:{}", "0".repeat(64)));
            live.patch("images", "", "one", &json!({"spec": other}));
        }),
    ];
    let site = drive(with_farm(), &acts, None).site;
    assert_eq!(condition(&site, "one", "Ready"), pair("False", "FileNotAvailable"));
    assert_eq!(condition(&site, "one", "SourceUnavailable"), None);
}

#[test]
fn an_image_of_which_no_host_has_a_copy_is_not_ready_until_one_is_back() {
    let lose_all = act(0, |live, faults| {
        ["worker-1", "worker-2", "worker-3", "service-1"].into_iter().for_each(|host| lose_the_copies(live, host));
        restart(live, faults, true);
    });
    let site = drive(crate::flows::empty(), &[lose_all], None).site;
    assert_eq!(condition(&site, "two", "Ready"), pair("False", "FileNotAvailable"));
    let put_back = act(0, |live, _| {
        live.world(|world| {
            let image = crate::images::images().spec("two");
            let digits = &image["disk"]["checksum"].as_str().unwrap()["sha256:".len()..][..16];
            world.pool("worker-2").volumes.insert(format!("img-{digits}.raw"), None);
        });
    });
    let site = drive(&site, &[put_back], None).site;
    assert_eq!(condition(&site, "two", "Ready"), pair("True", "Verified"));
    assert_eq!(condition(&site, "one", "Ready"), pair("False", "FileNotAvailable"));
}
