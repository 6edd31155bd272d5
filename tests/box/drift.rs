//! What somebody changes by hand on a host, and what is left there: found, and put right or told.

use std::time::{Duration, Instant};

use cascina::api::{Hypervisor, VirtualMachine};
use cascina::libvirt::POOL_MARK;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::support::libvirt::host_of;
use crate::support::{BOOT, Finally, SOON, Tenant, TheBox, condition, is_ready, reason, the_box_alone};

/// What is changed on a host is found within this time.
const FOUND: Duration = Duration::from_secs(60);

/// A guest that is asked to shut down gets a minute.
const SHUTDOWN: Duration = Duration::from_secs(90);

const HOST: &str = "worker-1";

impl TheBox {
    /// The network card of a machine's domain, as libvirt shows it.
    fn card(&self, machine: &VirtualMachine) -> String {
        let xml = self.virsh(HOST, &["dumpxml", &machine.uid().unwrap()]);
        let (_, rest) = xml.split_once("<interface").expect("it has a card");
        format!("<interface{}</interface>", rest.split_once("</interface>").unwrap().0)
    }

    /// Changes the card of a domain that runs, as `virsh edit` would a domain that is off.
    fn change_card(&self, machine: &VirtualMachine, change: impl FnOnce(String) -> String) {
        let file = self.state.join(format!("card-{}.xml", machine.uid().unwrap()));
        std::fs::write(&file, change(self.card(machine))).unwrap();
        self.virsh(HOST, &["update-device", &machine.uid().unwrap(), file.to_str().unwrap(), "--live"]);
        std::fs::remove_file(file).unwrap();
    }

    async fn hypervisor(&self) -> Hypervisor {
        self.all::<Hypervisor>().get(HOST).await.unwrap()
    }
}

fn without_filter(card: String) -> String {
    let (before, rest) = card.split_once("<filterref").unwrap();
    format!("{before}{}", rest.split_once("</filterref>").unwrap().1)
}

async fn machines(tenant: &Tenant<'_>, names: &[&str]) -> Vec<VirtualMachine> {
    let the_box = tenant.the_box;
    the_box.cluster.must("kubectl", &["label", "--overwrite", "hypervisor", HOST, &format!("e2e/host={HOST}")]);
    the_box.has_flavour("e2e-disk", json!({"cpus": 1, "memory": "192Mi", "dataDisk": "64Mi"})).await;
    tenant.given_farm("farm", json!({})).await;
    for name in names {
        tenant.asks_for(name, json!({"flavour": "e2e-disk", "hypervisorSelector": {"e2e/host": HOST}})).await;
    }
    let mut machines = Vec::new();
    for name in names {
        machines.push(tenant.ready(name).await);
    }
    machines
}

fn told(machine: &VirtualMachine, kind: &str) -> bool {
    condition(machine, "InSync").is_some_and(|sync| sync.status == "False" && sync.message.contains(kind))
}

fn in_sync(machine: &VirtualMachine) -> bool {
    condition(machine, "InSync").is_some_and(|sync| sync.status == "True")
}

#[tokio::test]
#[ignore = "needs a box"]
async fn what_was_changed_by_hand_is_put_right_or_told_and_a_pool_that_seems_empty_costs_nothing() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("drift").await;
    let all = machines(&tenant, &["bare", "vanished", "diskless"]).await;
    let [bare, vanished, diskless] = all.as_slice() else { unreachable!() };
    for machine in &all {
        tenant.until(&machine.name_any(), "is as it was made", SOON, in_sync).await;
    }

    seems_empty(&the_box, &tenant).await;

    let begin = Instant::now();
    let card = the_box.card(bare);
    the_box.change_card(bare, without_filter);
    let edited = the_box
        .virsh(HOST, &["dumpxml", "--inactive", &bare.uid().unwrap()])
        .replace("<vcpu placement='static'>1<", "<vcpu placement='static'>2<");
    let file = the_box.state.join("edited.xml");
    std::fs::write(&file, edited).unwrap();
    the_box.virsh(HOST, &["define", file.to_str().unwrap()]);
    the_box.virsh(HOST, &["undefine", &vanished.uid().unwrap()]);
    let [data, uid] = [format!("{}-data.qcow2", diskless.uid().unwrap()), diskless.uid().unwrap()];
    the_box.virsh(HOST, &["vol-delete", &data, "--pool", "cascina"]);

    tenant.until("diskless", "tells of its disk", FOUND, |machine| told(machine, &data)).await;
    println!("a deleted disk was told after {:.1} s", begin.elapsed().as_secs_f64());
    let filtered = |card: &str| {
        card.split_once("<filterref").map(|(_, rest)| rest.split("</filterref>").next().unwrap().to_owned())
    };
    the_box
        .eventually("the card to be behind its filter", FOUND, async || {
            let now = the_box.card(bare);
            if filtered(&now) == filtered(&card) { Ok(()) } else { Err(now) }
        })
        .await;
    println!("a card without its filter was behind it again after {:.1} s", begin.elapsed().as_secs_f64());
    the_box
        .eventually("definitions to be back", FOUND, async || {
            let persistent = the_box.virsh(HOST, &["dominfo", &vanished.uid().unwrap()]);
            let cpus = the_box.virsh(HOST, &["dumpxml", "--inactive", &bare.uid().unwrap()]);
            let well = persistent.contains("Persistent:     yes") && cpus.contains(">1</vcpu>");
            if well { Ok(()) } else { Err(persistent) }
        })
        .await;
    println!("removed and edited definitions were back after {:.1} s", begin.elapsed().as_secs_f64());
    for name in ["bare", "vanished"] {
        let machine =
            tenant.until(name, "is as it was made", FOUND, |machine| in_sync(machine) && is_ready(machine)).await;
        assert_eq!(
            machine.status.unwrap().phase_transitions,
            all.iter().find(|one| one.name_any() == name).unwrap().status.as_ref().unwrap().phase_transitions,
            "{name} went on running"
        );
    }
    let events = the_box.events(&tenant.namespace, "bare").await;
    for kind in ["NetworkCardChanged", "DefinitionChanged"] {
        assert!(events.iter().any(|(reason, _)| reason == kind), "{kind} was told: {events:?}");
        assert!(the_box.metrics().sum("cascina_drift_total", &[("kind", kind), ("action", "Repaired")]) >= 1.0);
    }

    // Off and undefined: made again from its disks. Off and without its disk: not with another one.
    let begin = Instant::now();
    the_box.virsh(HOST, &["destroy", &vanished.uid().unwrap()]);
    the_box.virsh(HOST, &["undefine", &vanished.uid().unwrap()]);
    the_box.virsh(HOST, &["destroy", &uid]);
    tenant.until("diskless", "doesn't start", BOOT, |machine| reason(machine, "Ready").0 == "DiskDeleted").await;
    assert!(!the_box.volumes(HOST).contains(&data), "no empty disk takes its place");
    tenant
        .until("vanished", "runs again", BOOT, |machine| {
            let boots = machine.status.as_ref().unwrap().phase_transitions.len();
            is_ready(machine) && boots > vanished.status.as_ref().unwrap().phase_transitions.len()
        })
        .await;
    println!("a removed domain ran again after {:.1} s", begin.elapsed().as_secs_f64());

    // Renamed while it is off.
    tenant.changes("bare", json!({"runStrategy": "Halted"})).await;
    tenant.until("bare", "stops", SHUTDOWN, |machine| reason(machine, "Ready").0 == "Halted").await;
    let begin = Instant::now();
    the_box.virsh(HOST, &["domrename", &bare.uid().unwrap(), "mine"]);
    let name = format!("casc-{}", bare.uid().unwrap());
    the_box
        .eventually("the domain to have its name", FOUND, async || {
            let now = the_box.virsh(HOST, &["domname", &bare.uid().unwrap()]);
            if now.trim() == name { Ok(()) } else { Err(now) }
        })
        .await;
    println!("a renamed domain had its name again after {:.1} s", begin.elapsed().as_secs_f64());
}

/// A pool that holds its mark and nothing else: nothing is concluded from that within the time in which it is mended.
async fn seems_empty(the_box: &TheBox, tenant: &Tenant<'_>) {
    let pool = "/var/lib/cascina/pool";
    let _mounted = Finally(|| drop(the_box.try_script("host", &["enter", HOST, "umount", pool])));
    let mark = the_box.volumes(HOST).into_iter().find(|name| name.starts_with(POOL_MARK)).expect("the pool has a mark");
    let hide = format!("mount -t tmpfs none {pool} && touch {pool}/{mark}");
    the_box.script("host", &["enter", HOST, "sh", "-c", &hide]);
    the_box.virsh(HOST, &["pool-refresh", "cascina"]);
    let begin = Instant::now();
    let hosts = the_box.all::<Hypervisor>();
    the_box.until(&hosts, HOST, "doubts", SOON, |host| reason(host, "Ready").0 == "MassVanish").await;
    println!("an emptied pool was doubted after {:.1} s", begin.elapsed().as_secs_f64());
    assert!(the_box.metrics().sum("cascina_vanish_guard_active", &[("source", HOST)]) >= 1.0);
    the_box.script("host", &["enter", HOST, "umount", pool]);
    the_box.virsh(HOST, &["pool-refresh", "cascina"]);
    the_box.until(&hosts, HOST, "is Ready again", SOON, is_ready).await;
    for name in ["bare", "vanished", "diskless"] {
        let machine = tenant.machines().get(name).await.unwrap();
        assert!(in_sync(&machine) && is_ready(&machine), "{name}: nothing was concluded: {machine:?}");
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn what_a_machine_left_behind_goes_if_it_was_deleted_and_else_with_consent() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("orphans").await;
    let all = machines(&tenant, &["seen", "unseen", "forgotten"]).await;
    let [seen, unseen, forgotten] = all.as_slice() else { unreachable!() };
    for machine in &all {
        assert_eq!(host_of(machine), HOST);
    }
    // Nobody cleans up after a machine whose finalizer is taken away.
    let forget = async |machine: &VirtualMachine| {
        let paused = json!({"metadata": {"annotations": {"cascina.dev/paused": "true"}}});
        let name = machine.name_any();
        tenant.machines().patch(&name, &PatchParams::default(), &Patch::Merge(paused)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        tenant.machines().delete(&name, &DeleteParams::default()).await.unwrap();
        let free = json!({"metadata": {"finalizers": null}});
        tenant.machines().patch(&name, &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    };
    let begin = Instant::now();
    forget(seen).await;
    the_box
        .eventually("what was left by a machine that was seen to go to be gone", FOUND * 2, async || {
            let left = the_box.left_of(&[seen.uid().unwrap()]);
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        })
        .await;
    println!("what it left was gone after {:.1} s", begin.elapsed().as_secs_f64());

    the_box.script("operator", &["stop"]);
    forget(unseen).await;
    the_box.script("operator", &["start"]);
    let begin = Instant::now();
    the_box.nothing_left_of(&[unseen.uid().unwrap()]).await;
    println!("what a machine left that nobody saw go was gone after {:.1} s", begin.elapsed().as_secs_f64());

    the_box.script("operator", &["stop"]);
    forget(forgotten).await;
    // As a backup has it that is older than the machine.
    let older = json!([{"op": "remove", "path": "/status/copies"}]).to_string();
    let patch = ["patch", "hypervisor", HOST, "--subresource", "status", "--type", "json", "-p", &older];
    the_box.cluster.must("kubectl", &patch);
    the_box.script("operator", &["start"]);
    let begin = Instant::now();
    let uid = forgotten.uid().unwrap();
    let hosts = the_box.all::<Hypervisor>();
    let reported = the_box
        .until(&hosts, HOST, "tells of all that it left", FOUND * 2, |host| {
            let message = reason(host, "Orphans").1;
            [format!("({uid})"), format!("{uid}-data.qcow2"), format!("{uid}-seed-")]
                .iter()
                .all(|left| message.contains(left))
        })
        .await;
    println!(
        "what a machine left that the API server doesn't know was told after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    assert_eq!(the_box.hosts_with(&uid), [HOST], "it stays, and runs");
    let metrics = the_box.metrics();
    assert!(metrics.sum("cascina_orphaned_domains", &[("hypervisor", HOST)]) >= 1.0);
    assert!(metrics.sum("cascina_orphaned_storage_bytes", &[("hypervisor", HOST)]) > 0.0);
    let message = reason(&reported, "Orphans").1;
    let consent = message.split("cascina.dev/sweep=").nth(1).unwrap().split('.').next().unwrap();
    let annotate = |code: &str| {
        the_box
            .cluster
            .must("kubectl", &["annotate", "--overwrite", "hypervisor", HOST, &format!("cascina.dev/sweep={code}")])
    };
    annotate("00000000");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(the_box.hosts_with(&uid), [HOST], "another code is no consent");
    annotate(consent);
    the_box.nothing_left_of(&[uid]).await;
    the_box.cluster.must("kubectl", &["annotate", "hypervisor", HOST, "cascina.dev/sweep-"]);
    the_box
        .eventually("nothing to be told any more", FOUND, async || {
            let state = condition(&the_box.hypervisor().await, "Orphans");
            if state.as_ref().is_some_and(|state| state.status == "False") { Ok(()) } else { Err(format!("{state:?}")) }
        })
        .await;
}
