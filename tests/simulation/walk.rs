//! A hostile tenant walks at random: all verbs on all metadata that he may write, in several farms, while the site does its
//! work and operators die, and machines get other flavours. At no moment have two farms the same, and no farm more guests,
//! or disks that may grow to more, than its quota admits.
//! `CASCINA_SEED` repeats a walk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use cascina::api::{DRY_RUN_ANNOTATION, FARM_LABEL, GROUP_LABEL, PAUSED_ANNOTATION, ROUTER_LABEL};
use serde_json::{Value, json};

use crate::apiserver::{Write, resource};
use crate::datacentre::{Datacentre, Live, ours};
use crate::disks::{HUGE, with_huge_disks};
use crate::drive::{Act, drive};
use crate::faults::Faults;
use crate::flows::act;
use crate::soak::{seed, soaks};

/// Steps of one walk.
const STEPS: usize = 80;

/// Two tenants walk, and the site gives the third what the others let go.
const TENANTS: [&str; 3] = ["tenant", "neighbour", "third"];

/// Names of their farms.
const FARMS: [&str; 2] = ["a", "b"];

/// More machines a farm doesn't get.
const QUOTA: u64 = 2;

/// Disks for one machine of the largest flavour and a small one, and no more.
const QUOTA_OF_DISKS: &str = "17Gi";

/// Flavours whose disks differ.
const FLAVOURS: [&str; 3] = ["small", "large", HUGE];

/// A machine that somebody made by hand, in any farm.
const HAND_MADE: &str = "hand";

/// What of ours a tenant may write to.
const KINDS: [&str; 3] = ["virtualfarms", "virtualmachines", "vrouters"];

#[test]
fn nothing_that_a_tenant_writes_lets_two_farms_share() {
    let first = seed();
    let walks = if soaks() { 60 } else { 4 };
    println!("CASCINA_SEED={first}: {walks} walks of {STEPS} steps");
    let mut failed: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for seed in first..first + walks {
        let found = walk(seed, STEPS);
        if !found.is_empty() {
            println!("seed {seed}:\n    {}", found.join("\n    "));
        }
        for sort in found.iter().map(|found| sort(found)).collect::<BTreeSet<_>>() {
            let seeds = failed.entry(sort).or_default();
            if seeds.is_empty() {
                // What was found on a walk is found on every longer one, and a shorter one is easier to understand.
                let steps: Vec<_> = (1..STEPS).collect();
                let is_lacking = |steps: &usize| walk(seed, *steps).iter().all(|found| self::sort(found) != sort);
                println!("{sort}: {} steps suffice", steps.partition_point(is_lacking) + 1);
            }
            seeds.push(seed);
        }
    }
    assert_eq!(failed, BTreeMap::new(), "seeds of walks, by what two came to share on them");
}

/// What it is that two share, or that somebody has too much of.
fn sort(violation: &str) -> &'static str {
    match violation.split(' ').next() {
        Some("network") => "a network",
        Some("public") => "a public address",
        Some("address") => "an address",
        _ if violation.contains("starts with an address") => "an address",
        _ if violation.ends_with(" guests") => "the quota",
        _ => "something else",
    }
}

/// One walk, and what was seen on it that must never be.
fn walk(seed: u64, steps: usize) -> Vec<String> {
    let mut start = site().clone();
    start.world.chance = fastrand::Rng::with_seed(seed);
    let mut pauses = fastrand::Rng::with_seed(seed);
    let acts: Vec<Act> = (0..steps).map(|_| act(pauses.u64(0..20), step)).collect();
    drive(&start, &acts, None).site.world.violations.found
}

/// A site with three tenants' namespaces, at rest.
fn site() -> &'static Datacentre {
    static SITE: OnceLock<Datacentre> = OnceLock::new();
    SITE.get_or_init(|| {
        let mut site = with_huge_disks();
        for name in &TENANTS[1..] {
            let namespace = json!({"metadata": {"name": name}});
            site.store.create(&resource("", "namespaces"), "", namespace, "admin", site.now).unwrap();
        }
        site
    })
}

fn step(live: &Live, faults: &Faults) {
    let mut chance = live.world(|world| world.chance.fork());
    match chance.u32(0..24) {
        0..=6 => work_of_the_site(live, &mut chance),
        20..=23 => handwork(live, &mut chance),
        7..=9 => abandonment(live, &mut chance),
        10..=18 => mischief(live, &mut chance),
        _ => faults.dead.cancel(),
    }
    live.check_sharing();
    live.check_disks();
}

fn one<'a, T>(of: &'a [T], chance: &mut fastrand::Rng) -> Option<&'a T> {
    (!of.is_empty()).then(|| &of[chance.usize(0..of.len())])
}

/// Farms come and go, grow and shrink, get routers and lose them.
fn work_of_the_site(live: &Live, chance: &mut fastrand::Rng) {
    let (namespace, name) = (TENANTS[chance.usize(0..TENANTS.len())], FARMS[chance.usize(0..FARMS.len())]);
    let of = ours("virtualfarms");
    let exists = live.api.with(|store, _| store.get(&of, namespace, name));
    let Some(farm) = exists else {
        let router = (chance.u32(0..3) > 0).then(|| json!({}));
        let groups = json!([{"name": "nodes", "replicas": chance.u64(1..=QUOTA), "flavour": "small", "image": "one"}]);
        let spec =
            json!({"groups": groups, "router": router, "quota": {"instances": QUOTA, "storage": QUOTA_OF_DISKS}});
        return live.create("virtualfarms", namespace, name, spec);
    };
    let spec = match chance.u32(0..5) {
        0 => return drop(live.api.with(|store, now| store.delete(&of, namespace, name, &json!({}), now))),
        1 | 2 => json!({"router": if farm["spec"]["router"].is_null() { json!({}) } else { Value::Null }}),
        _ => {
            let mut groups = farm["spec"]["groups"].clone();
            groups[0]["replicas"] = chance.u64(0..=QUOTA).into();
            json!({"groups": groups})
        }
    };
    live.patch("virtualfarms", namespace, name, &json!({"spec": spec}));
}

/// A machine that a tenant made himself is halted and called back, and gets other flavours.
fn handwork(live: &Live, chance: &mut fastrand::Rng) {
    let namespace = TENANTS[chance.usize(0..2)];
    let flavour = FLAVOURS[chance.usize(0..FLAVOURS.len())];
    let of = ours("virtualmachines");
    let Some(machine) = live.api.with(|store, _| store.get(&of, namespace, HAND_MADE)) else {
        let farm = FARMS[chance.usize(0..FARMS.len())];
        let spec = json!({"farm": farm, "flavour": flavour, "image": "one"});
        return live.create("virtualmachines", namespace, HAND_MADE, spec);
    };
    let halts = machine["spec"]["runStrategy"] == "Halted";
    let spec = match (halts, chance.bool()) {
        (true, _) => json!({"flavour": flavour, "runStrategy": "Always"}),
        (false, true) => json!({"runStrategy": "Halted"}),
        (false, false) => json!({"flavour": flavour}),
    };
    live.patch("virtualmachines", namespace, HAND_MADE, &json!({"spec": spec}));
}

/// A tenant's farm goes past its finalizer, as the garbage collector deletes it for him, and some of what it made has no owner
/// any more.
fn abandonment(live: &Live, chance: &mut fastrand::Rng) {
    let namespace = TENANTS[chance.usize(0..2)];
    let farms = live.api.with(|store, _| store.list(&ours("virtualfarms"), namespace));
    let Some(farm) = one(&farms, chance) else { return };
    let name = farm["metadata"]["name"].as_str().unwrap_or_default();
    for plural in ["virtualmachines", "vrouters"] {
        for object in live.api.with(|store, _| store.list(&ours(plural), namespace)) {
            if object["spec"]["farm"] == name && chance.bool() {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                write(live, plural, namespace, name, &json!({"ownerReferences": null}));
            }
        }
    }
    if chance.bool() {
        strip(live, "virtualfarms", namespace, name);
    }
}

/// Something that a tenant does to one object of his, or to many of a farm at once.
fn mischief(live: &Live, chance: &mut fastrand::Rng) {
    let namespace = TENANTS[chance.usize(0..2)];
    if chance.u32(0..8) == 0 {
        return make_a_machine(live, namespace, chance);
    }
    let of_kind = |plural: &'static str| {
        let objects = live.api.with(|store, _| store.list(&ours(plural), namespace));
        objects.into_iter().map(move |object| (plural, object)).collect::<Vec<_>>()
    };
    let (objects, deed) = (of_kind(KINDS[chance.usize(0..KINDS.len())]), chance.u32(0..DEEDS));
    let farm = FARMS[chance.usize(0..FARMS.len())];
    let chosen: Vec<_> = match one(&objects, chance) {
        Some(object) if chance.u32(0..3) > 0 => vec![object.clone()],
        _ => KINDS
            .into_iter()
            .flat_map(of_kind)
            .filter(|(_, object)| object["metadata"]["name"] == farm || object["spec"]["farm"] == farm)
            .filter(|_| chance.bool())
            .collect(),
    };
    for (plural, object) in chosen {
        meddle(live, plural, namespace, &object, deed, chance);
    }
}

/// How many things a tenant can do to an object.
const DEEDS: u32 = 14;

/// Something that a tenant writes into the metadata of an object of his, or deletes.
fn meddle(live: &Live, plural: &str, namespace: &str, object: &Value, deed: u32, chance: &mut fastrand::Rng) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let delete = || drop(live.api.with(|store, now| store.delete(&ours(plural), namespace, name, &json!({}), now)));
    let metadata = match deed {
        0 => json!({"finalizers": null}),
        1 | 2 => json!({"ownerReferences": null}),
        3 => json!({"ownerReferences": [owner("nobody", "00000000-0000-4000-8000-00000000dead")]}),
        4 => stolen_owner(live, namespace, chance),
        5 => annotations(PAUSED_ANNOTATION, chance),
        6 => annotations(DRY_RUN_ANNOTATION, chance),
        7 => labels(chance),
        8 => json!({"labels": null}),
        9 => {
            // As `--cascade=orphan` deletes it: what it owns is nobody's then.
            let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            finalizers.push("orphan".into());
            write(live, plural, namespace, name, &json!({"finalizers": finalizers}));
            return delete();
        }
        10 | 11 => return strip(live, plural, namespace, name),
        _ => return delete(),
    };
    write(live, plural, namespace, name, &metadata);
}

/// A machine of a tenant's own, by a name that a farm or a router would give one, or by none of those.
fn make_a_machine(live: &Live, namespace: &str, chance: &mut fastrand::Rng) {
    let farm = FARMS[chance.usize(0..FARMS.len())];
    let seat = ["nodes-0", "nodes-1", "router-0", "mine"][chance.usize(0..4)];
    let mut metadata = labels(chance);
    metadata["name"] = format!("{farm}-{seat}").into();
    if chance.bool() {
        metadata["ownerReferences"] = stolen_owner(live, namespace, chance)["ownerReferences"].clone();
    }
    let spec = json!({"farm": FARMS[chance.usize(0..FARMS.len())], "flavour": "small", "image": "one"});
    let machine = json!({"metadata": metadata, "spec": spec});
    // Where there is one of that name already, he can't.
    let _ = live.api.with(|store, now| store.create(&ours("virtualmachines"), namespace, machine, "tenant", now));
}

fn write(live: &Live, plural: &str, namespace: &str, name: &str, metadata: &Value) {
    live.api.with(|store, now| {
        let write = Write { manager: "tenant", status: false, now };
        // What the API server refuses, or has no more, he can't do.
        let _ = store.merge(&ours(plural), namespace, name, &json!({"metadata": metadata}), &write);
    });
}

/// Paused, deleted, and gone past its finalizer, all at once.
fn strip(live: &Live, plural: &str, namespace: &str, name: &str) {
    write(live, plural, namespace, name, &json!({"annotations": {PAUSED_ANNOTATION: "true"}}));
    let _ = live.api.with(|store, now| store.delete(&ours(plural), namespace, name, &json!({}), now));
    write(live, plural, namespace, name, &json!({"finalizers": null}));
}

fn owner(name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualFarm", "name": name, "uid": uid, "controller": true,
    })
}

/// The owner of another object of his becomes this one's.
fn stolen_owner(live: &Live, namespace: &str, chance: &mut fastrand::Rng) -> Value {
    let plural = ["virtualfarms", "vrouters"][chance.usize(0..2)];
    let others = live.api.with(|store, _| store.list(&ours(plural), namespace));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let stolen =
        one(&others, chance).map(|other| owner(&text(&other["metadata"]["name"]), &text(&other["metadata"]["uid"])));
    json!({"ownerReferences": stolen.into_iter().collect::<Vec<_>>()})
}

fn labels(chance: &mut fastrand::Rng) -> Value {
    let label = [FARM_LABEL, GROUP_LABEL, ROUTER_LABEL][chance.usize(0..3)];
    json!({"labels": {label: FARMS[chance.usize(0..FARMS.len())]}})
}

fn annotations(annotation: &str, chance: &mut fastrand::Rng) -> Value {
    json!({"annotations": {annotation: chance.bool().then_some("true")}})
}
