//! Random changes and random faults, then quiet: the state is that of a site that was given the last specs and nothing
//! else. `CASCINA_SEED` repeats a run.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::datacentre::{Datacentre, Live, ours};
use crate::drive::{Act, Driven, drive, drive_by_chance};
use crate::faults::{Faults, Odds};
use crate::flows::{act, empty};
use crate::soak::{seed, soaks};
use crate::state::{essence, faults_of};
use crate::stops::differences;

/// Changes in one sequence.
const CHANGES: usize = 25;

/// In a thousand calls.
const ODDS: Odds = Odds { crash: 3, lost: 5, failed: 5, slow: 5 };

#[test]
fn after_any_changes_and_faults_the_last_specs_count() {
    let first = seed();
    let sequences = if soaks() { 44 } else { 3 };
    println!("CASCINA_SEED={first}: {sequences} sequences of {CHANGES} changes");
    let mut failed = Vec::new();
    for seed in first..first + sequences {
        let (driven, troubles) = sequence(seed, CHANGES);
        println!("seed {seed}: {} lives of the operator, {:.0} s", driven.lives, driven.took.as_secs_f64());
        if !troubles.is_empty() {
            // Shorter beginnings are easier to understand.
            let shortest = (1..CHANGES).find(|changes| !sequence(seed, *changes).1.is_empty()).unwrap_or(CHANGES);
            println!("seed {seed}: {} changes suffice:\n    {}", shortest, troubles.join("\n    "));
            failed.push(seed);
        }
    }
    assert_eq!(failed, Vec::<u64>::new(), "seeds that end otherwise");
}

/// One sequence, and what is wrong after it.
fn sequence(seed: u64, changes: usize) -> (Driven, Vec<String>) {
    let mut start = empty().clone();
    start.world.chance = fastrand::Rng::with_seed(seed);
    let mut pauses = fastrand::Rng::with_seed(seed);
    let mut acts: Vec<_> = (0..changes).map(|_| act(pauses.u64(0..25), change)).collect();
    acts.push(act(30, calm));
    let driven = drive_by_chance(&start, &acts, None, ODDS, seed * 1000);
    let mut troubles = faults_of(&driven.site);
    let fresh = fresh_start(&driven.site);
    troubles.extend(differences(&by_group(&fresh), &by_group(&driven.site)));
    (driven, troubles)
}

/// A site that was given the specs that this one has, and nothing else.
fn fresh_start(of: &Datacentre) -> Datacentre {
    let mut site = empty().clone();
    for farm in of.store.list(&ours("virtualfarms"), "") {
        let name = farm["metadata"]["name"].as_str().unwrap_or_default();
        site.create("virtualfarms", "tenant", name, farm["spec"].clone());
    }
    let begun: [Act; 0] = [];
    drive(&site, &begun, None).site
}

/// The essence without what depends on the way there: which index a machine of a group has, which network a farm.
fn by_group(site: &Datacentre) -> BTreeMap<String, Value> {
    let mut counts = BTreeMap::new();
    let unnumbered = |(name, mut object): (String, Value)| {
        if let Some(fields) = object["status"]["fields"].as_object_mut() {
            fields.remove("network");
        }
        let name = match name.strip_prefix("VirtualMachine ").and_then(|name| name.rsplit_once('-')) {
            Some((group, _)) => {
                let count = counts.entry(group.to_owned()).or_insert(0);
                *count += 1;
                format!("machine {count} of {group}")
            }
            None => name,
        };
        (name, object)
    };
    let known = essence(site).into_iter().filter(|(name, _)| !name.starts_with("Namespace"));
    known.map(unnumbered).collect()
}

/// Something that somebody does, or that happens to a host.
fn change(live: &Live, _: &Faults) {
    let mut chance = live.world(|world| world.chance.fork());
    let farm = ["a", "b"][chance.usize(0..2)];
    let exists = live.api.with(|store, _| store.get(&ours("virtualfarms"), "tenant", farm));
    let deleted = exists.as_ref().is_some_and(|farm| !farm["metadata"]["deletionTimestamp"].is_null());
    match (chance.u32(0..12), exists) {
        (0..=8, None) => live.create("virtualfarms", "tenant", farm, json!({"groups": [group(&mut chance)]})),
        (0..=5, Some(farm)) if !deleted => edit(live, &farm, &mut chance),
        (6, Some(_)) if !deleted => live.delete("virtualfarms", "tenant", farm),
        (7, Some(_)) => delete_a_machine(live, &mut chance),
        (9..=11, _) => break_or_mend(live, &mut chance),
        _ => {}
    }
}

fn group(chance: &mut fastrand::Rng) -> Value {
    let mut either = |one: &'static str, other: &'static str| if chance.bool() { one } else { other };
    let (flavour, image, class) = (either("small", "large"), either("one", "two"), either("Worker", "Service"));
    json!({
        "name": "nodes", "replicas": chance.i32(0..5), "flavour": flavour, "image": image, "class": class,
        "update": {"maxUnavailable": chance.i32(1..3), "maxSurge": chance.i32(0..3)},
    })
}

fn edit(live: &Live, farm: &Value, chance: &mut fastrand::Rng) {
    let name = farm["metadata"]["name"].as_str().unwrap_or_default();
    let mut groups = farm["spec"]["groups"].clone();
    let other = group(chance);
    match chance.u32(0..6) {
        0 => groups[0]["replicas"] = other["replicas"].clone(),
        1 => groups[0]["flavour"] = other["flavour"].clone(),
        2 => groups[0]["image"] = other["image"].clone(),
        3 => groups[0]["class"] = other["class"].clone(),
        4 => groups[0]["userData"] = json!({"inline": format!("#!/bin/sh\n# {}", chance.u8(..))}),
        _ => groups[0]["runStrategy"] = ["Always", "Halted"][chance.usize(0..2)].into(),
    }
    live.patch("virtualfarms", "tenant", name, &json!({"spec": {"groups": groups}}));
}

fn delete_a_machine(live: &Live, chance: &mut fastrand::Rng) {
    let machines = live.api.with(|store, _| store.list(&ours("virtualmachines"), "tenant"));
    if !machines.is_empty() {
        let machine = &machines[chance.usize(0..machines.len())];
        live.delete("virtualmachines", "tenant", machine["metadata"]["name"].as_str().unwrap_or_default());
    }
}

fn break_or_mend(live: &Live, chance: &mut fastrand::Rng) {
    let names: Vec<_> = live.world(|world| world.hosts.keys().cloned().collect());
    let name = &names[chance.usize(0..names.len())];
    let powered = live.world(|world| world.host(name).powered);
    match chance.u32(0..5) {
        0 => live.power(name, !powered),
        1 => live.world(|world| world.host(name).linked ^= true),
        2 => live.world(|world| world.host(name).hung ^= true),
        3 => live.world(|world| world.host(name).slow = Duration::from_secs(chance.u64(0..8))),
        _ => live.world(|world| world.pool(name).full ^= true),
    }
}

/// Everything is mended, and everybody wants their machines to run.
fn calm(live: &Live, faults: &Faults) {
    faults.calm();
    live.world(|world| {
        for host in world.hosts.values_mut() {
            (host.powered, host.linked, host.hung, host.slow) = (true, true, false, Duration::ZERO);
        }
        world.pools.values_mut().for_each(|pool| pool.full = false);
    });
    for farm in live.api.with(|store, _| store.list(&ours("virtualfarms"), "")) {
        let mut groups = farm["spec"]["groups"].clone();
        groups[0]["runStrategy"] = "Always".into();
        let name = farm["metadata"]["name"].as_str().unwrap_or_default();
        live.patch("virtualfarms", "tenant", name, &json!({"spec": {"groups": groups}}));
    }
}
