//! Whom the operator stops trusting: people who were taken off a farm that is left alone, and a farm that has the name of one which
//! was trusted.

use cascina::api::FINALIZER;
use serde_json::{Value, json};

use crate::apiserver::resource;
use crate::datacentre::{Datacentre, Live, ours};
use crate::drive::{Act, drive};
use crate::flows::{act, with_farm, with_router};

/// The subjects of the binding of the farm's users, if there is one.
fn users(site: &Datacentre) -> Option<Value> {
    let bindings = resource("rbac.authorization.k8s.io", "rolebindings");
    site.store.get(&bindings, "tenant", "cascina-farm-users").map(|binding| binding["subjects"][0]["name"].clone())
}

fn replace_ada_while(live: &Live, annotation: &str) {
    let annotations = json!({"metadata": {"annotations": {annotation: "true"}}});
    live.patch("virtualfarms", "tenant", "farm", &annotations);
    live.patch_farm(&json!({"users": [{"kind": "User", "name": "bruno"}]}));
}

fn release(live: &Live, annotation: &str) {
    live.patch("virtualfarms", "tenant", "farm", &json!({"metadata": {"annotations": {annotation: null}}}));
}

#[test]
fn access_that_was_taken_away_goes_whatever_annotations_say() {
    const PAUSED: [Act; 2] = [
        act(0, |live, _| replace_ada_while(live, "cascina.dev/paused")),
        act(0, |live, _| release(live, "cascina.dev/paused")),
    ];
    const REHEARSED: [Act; 2] = [
        act(0, |live, _| replace_ada_while(live, "cascina.dev/dry-run")),
        act(0, |live, _| release(live, "cascina.dev/dry-run")),
    ];
    assert_eq!(users(with_farm()), Some("ada".into()));
    for [hold, release] in [PAUSED, REHEARSED] {
        let held = drive(with_farm(), &[hold], None).site;
        assert_eq!(users(&held), None, "she has no access any more, and he has none yet");
        assert_eq!(users(&drive(&held, &[release], None).site), Some("bruno".into()));
    }
}

/// The farm is deleted, and waits for a machine that somebody else's finalizer keeps.
fn hold_up_the_end(live: &Live) {
    let finalizers = json!({"metadata": {"finalizers": [FINALIZER, "somebody.else/keeps"]}});
    live.patch("virtualmachines", "tenant", "farm-nodes-0", &finalizers);
    live.delete("virtualfarms", "tenant", "farm");
}

#[test]
fn access_that_was_taken_away_goes_from_a_farm_that_waits_on_its_way_out() {
    let waiting = drive(with_farm(), &[act(0, |live, _| hold_up_the_end(live))], None).site;
    assert_eq!(users(&waiting), Some("ada".into()), "what she has she keeps until somebody takes it away");
    let changes = [
        act(0, |live, _| live.patch_farm(&json!({"users": [{"kind": "User", "name": "bruno"}]}))),
        act(0, |live, _| replace_ada_while(live, "cascina.dev/paused")),
        act(0, |live, _| replace_ada_while(live, "cascina.dev/dry-run")),
    ];
    for change in changes {
        let site = drive(&waiting, &[change], None).site;
        let farm = site.store.get(&ours("virtualfarms"), "tenant", "farm").expect("it waits for its machine");
        assert!(farm["metadata"]["deletionTimestamp"].is_string());
        assert_eq!(users(&site), None, "{}", farm["metadata"]["annotations"]);
    }
}

/// A farm of somebody else's that names ours as the other end of a tunnel.
fn create_far_farm(live: &Live) {
    let peer = json!({"name": "peer", "peerRef": {"namespace": "tenant", "name": "farm"}});
    live.create("virtualfarms", "other", "far", json!({"router": {"vpn": {"peers": [peer]}}}));
}

fn name_the_far_farm(live: &Live, uid: &Value) {
    let named = json!({"namespace": "other", "name": "far", "uid": uid});
    live.patch_farm(&json!({"router": {"vpn": {"peers": [{"name": "peer", "peerRef": named}]}}}));
}

/// Why the other end of a router's tunnel isn't there.
fn why(site: &Datacentre, namespace: &str, router: &str) -> String {
    let router = site.store.get(&ours("vrouters"), namespace, router).unwrap();
    let conditions = router["status"]["conditions"].as_array().unwrap();
    let joined = conditions.iter().find(|condition| condition["type"] == "PeersJoined").unwrap();
    joined["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_farm_that_has_the_name_of_one_that_was_trusted_inherits_no_tunnel() {
    let join = act(0, |live, _| {
        make_the_other_namespace(live);
        create_far_farm(live);
        name_the_far_farm(live, &Value::Null);
    });
    let joined = drive(with_router(), &[join], None).site;
    let agreed = ["Joined", "NoHandshake"];
    for (namespace, router) in [("tenant", "farm"), ("other", "far")] {
        let reason = why(&joined, namespace, router);
        assert!(agreed.contains(&reason.as_str()), "{namespace}/{router}: {reason}");
    }

    let make_again =
        [act(0, |live, _| live.delete("virtualfarms", "other", "far")), act(120, |live, _| create_far_farm(live))];
    let inherited = drive(&joined, &make_again, None).site;
    assert_eq!(why(&inherited, "tenant", "farm"), "PeerChanged");
    assert_eq!(why(&inherited, "other", "far"), "NoConsent", "nor is it told anything of the farm that it names");

    let consent = act(0, |live, _| {
        let far = live.api.with(|store, _| store.get(&ours("virtualfarms"), "other", "far")).unwrap();
        name_the_far_farm(live, &far["metadata"]["uid"]);
    });
    let consented = drive(&inherited, &[consent], None).site;
    for (namespace, router) in [("tenant", "farm"), ("other", "far")] {
        let reason = why(&consented, namespace, router);
        assert!(agreed.contains(&reason.as_str()), "{namespace}/{router}: {reason}");
    }
}

fn make_the_other_namespace(live: &Live) {
    live.api.with(|store, now| {
        let namespace = json!({"metadata": {"name": "other"}});
        store.create(&resource("", "namespaces"), "", namespace, "somebody", now).unwrap();
    });
}

/// A farm that names nobody, and whoever has its name later and names ours.
#[test]
fn who_has_the_name_of_a_farm_that_never_answered_is_not_joined() {
    let acts = [
        act(0, |live, _| {
            make_the_other_namespace(live);
            live.create("virtualfarms", "other", "far", json!({"router": {}}));
            name_the_far_farm(live, &Value::Null);
        }),
        act(120, |live, _| live.delete("virtualfarms", "other", "far")),
    ];
    let silent = drive(with_router(), &acts[..1], None).site;
    let router = silent.store.get(&ours("vrouters"), "tenant", "farm").unwrap();
    assert_eq!(router["status"]["consents"], Value::Null, "nobody is told whether there is such a farm");
    assert_eq!(why(&silent, "tenant", "farm"), "NoConsent");
    let again = act(240, |live, _| create_far_farm(live));
    let inherited = drive(with_router(), &[acts[0], acts[1], again], None).site;
    assert_eq!(why(&inherited, "tenant", "farm"), "PeerChanged");
    assert_eq!(why(&inherited, "other", "far"), "NoConsent");
    let gone = [
        act(0, |live, _| live.delete("virtualfarms", "tenant", "farm")),
        act(0, |live, _| live.delete("virtualfarms", "other", "far")),
    ];
    let gone = drive(&inherited, &gone, None).site;
    let secrets = gone.store.list(&resource("", "secrets"), "cascina-system");
    assert!(secrets.iter().all(|secret| secret["type"] != "cascina.dev/wireguard"), "{secrets:?}");
}

/// What a farm means outlives its router, and the operator's memory.
#[test]
fn a_router_that_is_made_again_means_whom_the_farm_meant() {
    let acts = [
        act(0, |live, _| {
            make_the_other_namespace(live);
            create_far_farm(live);
            name_the_far_farm(live, &Value::Null);
        }),
        act(120, |live, _| {
            live.delete("virtualfarms", "other", "far");
            live.patch_farm(&json!({"router": null}));
        }),
        act(120, |live, faults| {
            create_far_farm(live);
            faults.dead.cancel();
        }),
        act(120, |live, _| {
            live.patch_farm(&json!({"router": {}}));
            name_the_far_farm(live, &Value::Null);
        }),
    ];
    let site = drive(with_router(), &acts, None).site;
    assert_eq!(why(&site, "tenant", "farm"), "PeerChanged");
    assert_eq!(why(&site, "other", "far"), "NoConsent");
}
