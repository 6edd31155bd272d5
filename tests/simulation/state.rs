//! What counts of the end of a drive: two drives that come to the same give equal texts.

use std::collections::{BTreeMap, BTreeSet};

use cascina::images::is_image_volume;
use cascina::libvirt::POOL_MARK;
use serde_json::{Value, json};

use crate::datacentre::{Datacentre, ours};
use crate::invariants::CLUSTER;

/// The objects without what differs from run to run: uids, times, versions, epochs, and who is where.
pub fn essence(site: &Datacentre) -> BTreeMap<String, Value> {
    let mut essence = BTreeMap::new();
    for kind in site.store.kinds.values().filter(|kind| kind.kind != "Event") {
        for ((namespace, name), entry) in &kind.objects {
            let object = &entry.object;
            let status = of_status(&kind.kind, &object["status"]);
            let metadata = &object["metadata"];
            let text = json!({
                "labels": metadata["labels"], "annotations": metadata["annotations"],
                "finalizers": metadata["finalizers"], "deleted": !metadata["deletionTimestamp"].is_null(),
                "spec": object["spec"], "subjects": object["subjects"], "status": status,
            });
            // Keys of routers are named by uids.
            let keys = essence.keys().filter(|known: &&String| known.contains("/vrouter-")).count();
            let name = if name.starts_with("vrouter-") { format!("vrouter-{keys}") } else { name.clone() };
            essence.insert(format!("{} {namespace}/{name}", kind.kind), text);
        }
    }
    essence
}

fn of_status(kind: &str, status: &Value) -> Value {
    let mut conditions: Vec<_> = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| format!("{}={} {}", condition["type"], condition["status"], condition["reason"]))
        .collect();
    conditions.sort();
    let fields: &[&str] = match kind {
        "VirtualMachine" => &["phase", "flavour", "image"],
        "VirtualFarm" => &["network", "machines", "addressesUsed", "addressesAvailable", "quotaUsed"],
        // Whose turn it is, of two routers, is theirs to agree on.
        "VRouter" => &["publicIP", "elasticIP"],
        "Hypervisor" => &["phase", "capacity", "allocatable", "cachedImages"],
        "Image" => &["phase", "revision", "size", "hosts"],
        _ => &[],
    };
    let fields: BTreeMap<_, _> = fields.iter().map(|name| (*name, status[*name].clone())).collect();
    json!({"conditions": conditions, "fields": fields})
}

/// What is wrong with a site at rest: things on hosts that belong to nothing, machines that aren't where they say.
pub fn faults_of(site: &Datacentre) -> Vec<String> {
    let mut faults = site.world.violations.found.clone();
    let machines = site.store.list(&ours("virtualmachines"), "");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let by_uid: BTreeMap<_, _> = machines.iter().map(|machine| (text(&machine["metadata"]["uid"]), machine)).collect();
    for (host, state) in &site.world.hosts {
        let mut used = false;
        for (uuid, domain) in state.domains.iter().filter(|(_, domain)| domain.spec.tag.cluster == CLUSTER) {
            used = true;
            let Some(machine) = by_uid.get(&uuid.to_string()) else {
                faults.push(format!("{host}: domain {uuid} ({}) belongs to no machine", domain.spec.title));
                continue;
            };
            if machine["status"]["hypervisor"] != **host {
                faults.push(format!(
                    "{host}: {} has its place on {}",
                    domain.spec.title, machine["status"]["hypervisor"]
                ));
            }
            if machine["status"]["epoch"] != domain.spec.tag.epoch {
                faults.push(format!("{host}: {} is of another epoch", domain.spec.title));
            }
        }
        if !used && state.powered && state.linked && !state.filters.is_empty() {
            faults.push(format!("{host}: filters {:?} and no domain", state.filters));
        }
    }
    for machine in machines.iter().filter(|machine| machine["status"]["phase"] == "Running") {
        let uuid = text(&machine["metadata"]["uid"]);
        let host = site.world.hosts.get(&text(&machine["status"]["hypervisor"]));
        let runs = host.is_some_and(|host| {
            host.domains.iter().any(|(known, domain)| known.to_string() == uuid && crate::world::is_active(domain.run))
        });
        if !runs {
            faults.push(format!("{} is Running and has no domain", machine["metadata"]["name"]));
        }
    }
    faults.extend(leftover_volumes(site, &by_uid));
    faults.extend(shared_addresses(&machines));
    faults.extend(misled_routers(site));
    faults
}

/// Copies of images, and the mark by which the pool is known.
fn is_of_the_pool(volume: &str) -> bool {
    is_image_volume(volume) || volume.starts_with(POOL_MARK)
}

fn leftover_volumes(site: &Datacentre, by_uid: &BTreeMap<String, &std::sync::Arc<Value>>) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, pool) in &site.world.pools {
        let hosts: BTreeSet<_> =
            site.world.hosts.iter().filter(|(_, host)| host.pool == *name).map(|(name, _)| name.as_str()).collect();
        for volume in pool.volumes.keys().filter(|volume| !is_of_the_pool(volume)) {
            let owner = by_uid.iter().find(|(uid, _)| volume.starts_with(uid.as_str()));
            let here = owner.is_some_and(|(_, machine)| {
                hosts.contains(machine["status"]["hypervisor"].as_str().unwrap_or_default())
            });
            if !here {
                faults.push(format!("pool {name}: {volume} belongs to nothing here"));
            }
        }
        let mut seeds = BTreeMap::new();
        for seed in pool.volumes.keys().filter_map(|volume| volume.split_once("-seed-")) {
            *seeds.entry(seed.0).or_insert(0) += 1;
        }
        faults.extend(
            seeds
                .iter()
                .filter(|(_, count)| **count > 1)
                .map(|(uid, count)| format!("pool {name}: {uid} has {count} seeds")),
        );
    }
    faults
}

/// Routers that don't work by what they should, or not by the files that it is said they do, and public addresses that two have.
fn misled_routers(site: &Datacentre) -> Vec<String> {
    let routers = site.store.list(&ours("vrouters"), "");
    let mut faults = Vec::new();
    let mut owners: BTreeMap<String, usize> = BTreeMap::new();
    for router in &routers {
        let status = &router["status"];
        let addresses = [&status["publicIP"], &status["elasticIP"]].into_iter().filter_map(Value::as_str);
        addresses.for_each(|address| *owners.entry(address.to_owned()).or_default() += 1);
        let name = format!("{}/{}", router["metadata"]["namespace"], status["machine"]).replace('"', "");
        let domains = site.world.hosts.values().flat_map(|host| host.domains.values());
        let mut guests = domains.filter(|domain| domain.spec.title == name && crate::world::is_active(domain.run));
        let applied = status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "ConfigApplied" && condition["status"] == "True");
        if !applied {
            faults.push(format!("router {name} is at rest and was not told what to do"));
        } else if !guests
            .any(|guest| status["config"]["hash"] == *guest.router.hash && guest.router.leads != Some(false))
        {
            faults.push(format!("router {name} doesn't work by {}", status["config"]["hash"]));
        }
        if router["spec"]["replicas"] == 2 && status["standby"]["config"]["hash"] != status["config"]["hash"] {
            faults.push(format!("router {name} has nobody who would do as well: {}", status["conditions"]));
        }
    }
    faults
        .extend(owners.iter().filter(|(_, count)| **count > 1).map(|(address, _)| format!("{address} is given twice")));
    faults
}

fn shared_addresses(machines: &[std::sync::Arc<Value>]) -> Vec<String> {
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for machine in machines.iter().filter(|machine| machine["status"]["address"].is_string()) {
        let name = machine["metadata"]["name"].to_string();
        owners.entry(machine["status"]["address"].to_string()).or_default().push(name);
    }
    let twice = owners.iter().filter(|(_, owners)| owners.len() > 1);
    twice.map(|(address, owners)| format!("{address} belongs to {}", owners.join(" and "))).collect()
}
