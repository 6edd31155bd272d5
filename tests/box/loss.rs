//! Hosts that are lost: what moves and when, and what becomes of the old copies when they return.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use cascina::api::{FENCED_ANNOTATION, Hypervisor, HypervisorPhase, Phase, VirtualMachine};
use kube::ResourceExt;
use serde_json::json;

use crate::support::libvirt::{address_of, epoch_of, host_of};
use crate::support::{BOOT, Finally, SOON, TheBox, condition, is_ready, reason, the_box_alone};

/// Within this time a host that says nothing is Unreachable and its machines are given up: a deadline of a call, the
/// patience of the box, and then some.
const GIVEN_UP: Duration = Duration::from_secs(90);

/// Lets the site give up hosts and deletions after a few seconds, until the test ends.
async fn hasty_site(the_box: &TheBox) -> Finally<impl FnMut()> {
    let path = the_box.state.join("site-config.yaml");
    let before = std::fs::read_to_string(&path).unwrap();
    // No two tests write the same: the operator would see no change if it missed what was in between.
    let mark = uuid::Uuid::new_v4();
    let hasty = before.replace("timings:\n", &format!("timings: # {mark}\n  evictAfter: 3s\n  deletionDeadline: 3s\n"));
    assert_ne!(before, hasty);
    let changes = || the_box.operator_log(1, 100_000).matches("site configuration changed").count();
    let known = changes();
    std::fs::write(&path, hasty).unwrap();
    the_box
        .eventually("the operator to read its settings", SOON, async || {
            (changes() > known).then_some(()).ok_or_else(|| "not read yet".to_owned())
        })
        .await;
    Finally(move || std::fs::write(&path, &before).unwrap())
}

fn status(host: &Hypervisor) -> cascina::api::HypervisorStatus {
    host.status.clone().unwrap_or_default()
}

fn is_open(host: &Hypervisor) -> bool {
    condition(host, "Schedulable").is_some_and(|schedulable| schedulable.status == "True")
}

async fn until_host<F: Fn(&Hypervisor) -> bool>(the_box: &TheBox, name: &str, what: &str, holds: F) -> Hypervisor {
    the_box.until(&the_box.all::<Hypervisor>(), name, what, GIVEN_UP, holds).await
}

/// Whether a machine runs in its placement after this one.
fn is_moved(machine: &VirtualMachine, before: &VirtualMachine) -> bool {
    is_ready(machine) && epoch_of(machine) > epoch_of(before)
}

/// When a machine last began a phase.
fn began(machine: &VirtualMachine, phase: Phase) -> jiff::Timestamp {
    let transitions = &machine.status.as_ref().unwrap().phase_transitions;
    transitions.iter().rev().find(|transition| transition.phase == phase).expect("it was in that phase").time
}

fn on(host: &str) -> serde_json::Value {
    json!({"hypervisorSelector": {"e2e/host": host}})
}

fn label(the_box: &TheBox) {
    for host in ["worker-1", "worker-2"] {
        the_box.cluster.must("kubectl", &["label", "--overwrite", "hypervisor", host, &format!("e2e/host={host}")]);
    }
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_machines_of_a_worker_that_lost_power_run_elsewhere_and_nothing_old_is_left_when_it_returns() {
    let the_box = the_box_alone().await;
    label(&the_box);
    let _patient = hasty_site(&the_box).await;
    let tenant = the_box.tenant("loss").await;
    let group = json!({"groups": [{"name": "node", "replicas": 2, "flavour": "e2e-small", "image": "appliance"}]});
    tenant.given_farm("farm", group).await;
    let nodes = [tenant.ready("farm-node-0").await, tenant.ready("farm-node-1").await];
    let struck = nodes.iter().find(|node| host_of(node) == "worker-1").expect("a group is spread");
    let (name, uid) = (struck.name_any(), struck.uid().unwrap());

    let _started = Finally(|| drop(the_box.try_script("host", &["start", "worker-1"])));
    let evictions = the_box.metrics().sum("cascina_evictions_total", &[]);
    the_box.script("host", &["stop", "worker-1"]);
    let off = Instant::now();
    let moved = tenant.until(&name, "runs elsewhere", GIVEN_UP + BOOT, |machine| is_moved(machine, struck)).await;
    println!("evicted and Ready elsewhere {:.1} s after the power went", off.elapsed().as_secs_f64());
    assert_eq!(host_of(&moved), "worker-2");
    assert_eq!((moved.uid(), address_of(&moved)), (struck.uid(), address_of(struck)));
    assert_eq!(epoch_of(&moved), epoch_of(struck) + 1);
    let phases = &moved.status.as_ref().unwrap().phase_transitions;
    assert!(phases.iter().any(|transition| transition.phase == Phase::Unknown), "its history tells it: {phases:?}");
    let told = the_box.events(&tenant.namespace, &name).await;
    assert!(told.iter().any(|(reason, note)| reason == "Evicted" && note.contains("worker-1")), "{told:?}");
    assert_eq!(the_box.metrics().sum("cascina_evictions_total", &[]), evictions + 1.0);
    assert_eq!(the_box.metrics().sum("cascina_tombstones", &[("host", "worker-1")]), 1.0);

    // Waits for the host, and must not be placed there before the old copy is gone.
    tenant.asks_for("next", on("worker-1")).await;
    the_box.script("host", &["start", "worker-1"]);
    let back = Instant::now();
    tenant
        .until("next", "is placed on the host that returned", GIVEN_UP, |machine| {
            condition(machine, "Scheduled").is_some_and(|scheduled| scheduled.status == "True")
        })
        .await;
    println!("the host took work {:.1} s after it came back", back.elapsed().as_secs_f64());
    assert!(!the_box.domains("worker-1").contains(&uid), "the stale definition went first");
    assert_eq!(the_box.volumes("worker-1").iter().find(|volume| volume.starts_with(&uid)), None);
    assert_eq!(the_box.hosts_with(&uid), ["worker-2"]);
    let host = until_host(&the_box, "worker-1", "is as before", is_open).await;
    assert!(status(&host).tombstones.is_empty() && status(&host).unreachable_since.is_none());
    assert!(is_ready(&tenant.machines().get(&name).await.unwrap()), "what moved stays where it is");
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_a_copy_that_ran_on_behind_a_cut_is_switched_off_as_soon_as_its_host_is_heard() {
    let the_box = the_box_alone().await;
    label(&the_box);
    let _patient = hasty_site(&the_box).await;
    let tenant = the_box.tenant("cut").await;
    tenant.given_farm("farm", json!({})).await;
    the_box.maintain("worker-2", cascina::api::Maintenance::Cordon).await;
    let _open = Finally(|| {
        drop(the_box.cluster.run(
            "kubectl",
            &["patch", "hypervisor", "worker-2", "--type=merge", "-p", r#"{"spec":{"maintenance":"None"}}"#],
        ))
    });
    let before = tenant.given_machine("one", json!({})).await;
    assert_eq!(host_of(&before), "worker-1");
    the_box.maintain("worker-2", cascina::api::Maintenance::None).await;

    let _healed = Finally(|| drop(the_box.try_script("network", &["heal"])));
    the_box.script("network", &["cut", "worker-1"]);
    let cut = Instant::now();
    let moved = tenant.until("one", "runs elsewhere", GIVEN_UP + BOOT, |machine| is_moved(machine, &before)).await;
    println!("behind a cut: Ready elsewhere {:.1} s later", cut.elapsed().as_secs_f64());
    let running = || the_box.script("host", &["enter", "worker-1", "virsh", "list", "--uuid"]);
    let uid = before.uid().unwrap();
    assert!(running().contains(&uid), "the old copy runs on, unseen");

    the_box.script("network", &["heal"]);
    let healed = Instant::now();
    the_box
        .eventually("the old copy to be switched off", GIVEN_UP, async || {
            if running().contains(&uid) { Err(running()) } else { Ok(()) }
        })
        .await;
    let double = jiff::Timestamp::now().duration_since(began(&moved, Phase::Booting));
    println!(
        "switched off {:.1} s after the way was open again; two copies ran for {:.1} s, most of which the cut lasted",
        healed.elapsed().as_secs_f64(),
        double.as_secs_f64()
    );
    let host = until_host(&the_box, "worker-1", "is open again", is_open).await;
    assert!(status(&host).tombstones.is_empty());
    assert_eq!(the_box.hosts_with(&uid), ["worker-2"]);
    assert!(is_ready(&tenant.machines().get("one").await.unwrap()), "the new copy isn't disturbed");
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_a_service_machine_waits_until_somebody_says_that_its_host_is_off() {
    let the_box = the_box_alone().await;
    let _patient = hasty_site(&the_box).await;
    the_box.has_flavour("e2e-disk", json!({"cpus": 1, "memory": "192Mi", "dataDisk": "64Mi"})).await;
    let tenant = the_box.tenant("fence").await;
    let before = tenant.given_machine("one", json!({"class": "Service", "flavour": "e2e-disk"})).await;
    let (lost, uid) = (host_of(&before), before.uid().unwrap());
    let disk = the_box.state.join(format!("hosts/service-pool/{uid}-data.qcow2"));
    let inode = std::fs::metadata(&disk).unwrap().ino();

    let fence = format!("{FENCED_ANNOTATION}=true");
    let unfence =
        || the_box.cluster.run("kubectl", &["annotate", "hypervisor", &lost, &format!("{FENCED_ANNOTATION}-")]);
    let _mended = Finally(|| {
        drop(the_box.try_script("host", &["start", &lost]));
        drop(unfence());
    });
    the_box.script("host", &["stop", &lost]);
    let command = format!("kubectl annotate hypervisor {lost} {fence}");
    let waits =
        tenant.until("one", "says what to do", GIVEN_UP, |machine| reason(machine, "Ready").1.contains(&command)).await;
    assert_eq!(waits.status.as_ref().unwrap().phase, Some(Phase::Unknown));
    // Longer than a Worker machine would wait.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(epoch_of(&tenant.machines().get("one").await.unwrap()), epoch_of(&before), "it stays");

    the_box.cluster.must("kubectl", &["annotate", "hypervisor", &lost, &fence]);
    let fenced = Instant::now();
    let moved = tenant.until("one", "runs elsewhere", BOOT, |machine| is_moved(machine, &before)).await;
    println!("fenced, it was Ready on the other host {:.1} s later", fenced.elapsed().as_secs_f64());
    assert_ne!(host_of(&moved), lost);
    assert_eq!(std::fs::metadata(&disk).unwrap().ino(), inode, "it has the disk that it had");

    the_box.script("host", &["start", &lost]);
    let host = until_host(&the_box, &lost, "is swept", |host| {
        status(host).phase == HypervisorPhase::Fenced && status(host).tombstones.is_empty()
    })
    .await;
    assert_eq!(reason(&host, "Schedulable").0, "Fenced");
    assert_eq!(condition(&host, "Fenced").unwrap().status, "False");
    assert_eq!(the_box.hosts_with(&uid), [host_of(&moved)]);
    assert_eq!(std::fs::metadata(&disk).unwrap().ino(), inode, "sweeping took nothing from the copy that runs");
    assert!(is_ready(&tenant.machines().get("one").await.unwrap()));
    unfence();
    until_host(&the_box, &lost, "is open", is_open).await;
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_a_namespace_goes_while_a_host_is_lost_and_what_it_left_goes_when_the_host_returns() {
    let the_box = the_box_alone().await;
    label(&the_box);
    let _patient = hasty_site(&the_box).await;
    let tenant = the_box.tenant("gone").await;
    let machine = tenant.given_machine("one", on("worker-1")).await;
    let (uid, address) = (machine.uid().unwrap(), address_of(&machine));
    let network = tenant.farms().get("farm").await.unwrap().status.unwrap().network.unwrap();

    let _started = Finally(|| drop(the_box.try_script("host", &["start", "worker-1"])));
    the_box.script("host", &["stop", "worker-1"]);
    the_box.cluster.must("kubectl", &["delete", "namespace", &tenant.namespace, "--wait=false"]);
    let deleted = Instant::now();
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = the_box.all();
    the_box.until_gone(&namespaces, &tenant.namespace, GIVEN_UP).await;
    println!("the namespace was gone {:.1} s after its deletion", deleted.elapsed().as_secs_f64());
    let host = the_box.all::<Hypervisor>().get("worker-1").await.unwrap();
    let tombstone =
        status(&host).tombstones.into_iter().find(|tombstone| tombstone.copy.uid == uid).expect("its tombstone");
    assert_eq!((tombstone.copy.namespace, tombstone.copy.address), (tenant.namespace.clone(), Some(address)));
    let other = the_box.tenant("heir").await;
    let farm = other.given_farm("farm", json!({})).await;
    assert_ne!(farm.status.unwrap().network.unwrap(), network, "somebody may still be in there");

    the_box.script("host", &["start", "worker-1"]);
    let back = Instant::now();
    let swept =
        until_host(&the_box, "worker-1", "is swept", |host| is_open(host) && status(host).tombstones.is_empty());
    swept.await;
    println!("swept and open {:.1} s after the host came back", back.elapsed().as_secs_f64());
    assert_eq!(the_box.left_of(&[uid]), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_a_machine_that_is_deleted_while_its_host_is_away_keeps_its_address_and_its_quota() {
    let the_box = the_box_alone().await;
    label(&the_box);
    let _patient = hasty_site(&the_box).await;
    let tenant = the_box.tenant("behind").await;
    tenant.given_farm("farm", json!({"quota": {"instances": 1}})).await;
    let machine = tenant.given_machine("one", on("worker-1")).await;
    let address = address_of(&machine);

    let _started = Finally(|| drop(the_box.try_script("host", &["start", "worker-1"])));
    the_box.script("host", &["stop", "worker-1"]);
    the_box.cluster.must("kubectl", &["delete", "virtualmachine", "-n", &tenant.namespace, "one", "--wait=false"]);
    the_box.until_gone(&tenant.machines(), "one", GIVEN_UP).await;
    tenant.asks_for("next", on("worker-2")).await;
    let waits = tenant
        .until("next", "waits for quota", SOON, |machine| reason(machine, "Scheduled").0 == "QuotaExceeded")
        .await;
    assert_ne!(address_of(&waits), address, "somebody may still have it");

    the_box.script("host", &["start", "worker-1"]);
    tenant.until("next", "runs once nothing is left of the first", GIVEN_UP + BOOT, is_ready).await;
    assert_eq!(the_box.left_of(&[machine.uid().unwrap()]), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_another_machine_under_the_address_of_a_host_is_not_touched() {
    let the_box = the_box_alone().await;
    label(&the_box);
    let tenant = the_box.tenant("identity").await;
    let before = tenant.given_machine("one", on("worker-1")).await;
    let uid = before.uid().unwrap();
    let config = the_box.state.join("hosts/worker-1/etc/libvirtd.conf");
    let original = std::fs::read_to_string(&config).unwrap();
    let becomes = |text: &str| {
        std::fs::write(&config, text).unwrap();
        the_box.script("host", &["crash", "worker-1"]);
    };
    let _itself = Finally(|| {
        std::fs::write(&config, &original).unwrap();
        drop(the_box.try_script("host", &["crash", "worker-1"]));
    });
    let other = uuid::Uuid::new_v4();
    let lines = original.lines().map(|line| {
        if line.trim_start().starts_with("host_uuid") { format!("host_uuid = \"{other}\"") } else { line.to_owned() }
    });
    becomes(&lines.collect::<Vec<_>>().join("\n"));
    let refused =
        until_host(&the_box, "worker-1", "is refused", |host| reason(host, "Ready").0 == "HostReplaced").await;
    assert_eq!(status(&refused).phase, HypervisorPhase::Rejected);
    assert!(
        reason(&refused, "Ready").1.contains(&format!("spec.hostUuid: {other}")),
        "{:?}",
        reason(&refused, "Ready")
    );
    let unknown = |machine: &VirtualMachine| machine.status.as_ref().unwrap().phase == Some(Phase::Unknown);
    tenant.until("one", "is Unknown", GIVEN_UP, unknown).await;
    let running = the_box.virsh("worker-1", &["list", "--uuid"]);
    assert!(running.contains(&uid), "nothing was done on it: {running}");

    becomes(&original);
    let again = tenant.until("one", "is known again", GIVEN_UP, is_ready).await;
    assert_eq!(epoch_of(&again), epoch_of(&before));
    until_host(&the_box, "worker-1", "is open", is_open).await;
}
