//! A machine's life: halted and started, shut down from inside, crashed, paused, outgrown.

use std::time::Duration;

use cascina::api::{Phase, VirtualMachine};
use kube::ResourceExt;
use kube::api::Patch;
use serde_json::json;

use crate::support::libvirt::{epoch_of, host_of};
use crate::support::{BOOT, Finally, SOON, Tenant, condition, is_ready, reason, the_box};

/// A guest that is asked to shut down gets a minute.
const SHUTDOWN: Duration = Duration::from_secs(90);

fn phase(machine: &VirtualMachine) -> Phase {
    machine.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

fn in_phase(wanted: Phase) -> impl Fn(&VirtualMachine) -> bool {
    move |machine| phase(machine) == wanted
}

fn boots(machine: &VirtualMachine) -> usize {
    let transitions = &machine.status.as_ref().unwrap().phase_transitions;
    transitions.iter().filter(|transition| transition.phase == Phase::Booting).count()
}

async fn held_by_farm(tenant: &Tenant<'_>, instances: i32) {
    tenant
        .the_box
        .until(&tenant.farms(), "farm", &format!("{instances} machines hold quota"), SOON, |farm| {
            let used = farm.status.as_ref().and_then(|status| status.quota_used);
            used.is_some_and(|used| used.instances == instances)
        })
        .await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn halted_it_keeps_its_disks_and_gives_its_place_back_until_it_runs_again() {
    let the_box = the_box().await;
    the_box.has_flavour("e2e-disk", json!({"cpus": 1, "memory": "192Mi", "dataDisk": "64Mi"})).await;
    let tenant = the_box.tenant("halt").await;
    let first = tenant.given_machine("guest", json!({"flavour": "e2e-disk"})).await;
    held_by_farm(&tenant, 1).await;
    let (host, uid) = (host_of(&first), first.uid().unwrap());
    let mine = || the_box.volumes(&host).into_iter().filter(|name| name.starts_with(&uid)).collect::<Vec<_>>();
    let disks = mine();
    assert!(disks.contains(&format!("{uid}-data.qcow2")), "{disks:?}");
    let on_the_disk =
        |command: &str| format!("disk=/dev/$(grep -lx data /sys/block/vd*/serial | cut -d/ -f4) && {command}");
    let write = on_the_disk("echo kept | dd of=$disk bs=512 conv=sync && sync");
    assert!(tenant.inside(&first, &["sh", "-c", &write]).0, "the data disk can be written");

    tenant.changes("guest", json!({"runStrategy": "Halted"})).await;
    let halted = tenant.until("guest", "stops", SHUTDOWN, in_phase(Phase::Stopped)).await;
    assert_eq!(mine(), disks, "its disks stay");
    assert!(the_box.virsh(&host, &["domstate", &uid]).contains("shut off"));
    assert_eq!(host_of(&halted), host, "its host stays its host: the disks are there");
    tenant
        .until("guest", "gave its reservation back", SOON, |machine| reason(machine, "Scheduled").0 == "Halted")
        .await;
    held_by_farm(&tenant, 0).await;

    tenant.changes("guest", json!({"runStrategy": "Always"})).await;
    let again = tenant
        .until("guest", "runs again", BOOT, |machine| is_ready(machine) && epoch_of(machine) > epoch_of(&first))
        .await;
    assert_eq!(epoch_of(&again), epoch_of(&first) + 1, "a start is an epoch");
    assert!(the_box.domain_xml(&again).contains(&format!("epoch=\"{}\"", epoch_of(&again))));
    assert_eq!((host_of(&again), again.uid().unwrap()), (host.clone(), uid.clone()));
    let (_, kept) = tenant.inside(&again, &["sh", "-c", &on_the_disk("head -c 4 $disk")]);
    assert_eq!(kept, b"kept", "what it wrote is still there");
    held_by_farm(&tenant, 1).await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn its_run_strategy_says_what_follows_a_shutdown_from_inside_or_a_crash() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("ends").await;
    tenant.given_farm("farm", json!({})).await;
    let machines = [
        ("always-down", "Always"),
        ("always-crash", "Always"),
        ("rerun-down", "RerunOnFailure"),
        ("rerun-crash", "RerunOnFailure"),
        ("once-down", "Once"),
        ("once-crash", "Once"),
    ];
    for (name, strategy) in machines {
        tenant.asks_for(name, json!({"runStrategy": strategy})).await;
    }
    for (name, _) in machines {
        let machine = tenant.ready(name).await;
        if name.ends_with("crash") {
            the_box.kill_guest(&machine);
        } else {
            // After the answer: a guest that is off can't say how the command ended.
            let later = "(sleep 1; poweroff) </dev/null >/dev/null 2>&1 &";
            assert!(tenant.inside(&machine, &["sh", "-c", later]).0, "{name} can be told to shut down");
        }
    }
    for name in ["rerun-down", "once-down"] {
        let ended = tenant.until(name, "is Stopped", SHUTDOWN, in_phase(Phase::Stopped)).await;
        assert_eq!(reason(&ended, "Ready").0, "Finished", "{name}");
    }
    tenant.until("once-crash", "is Failed", SHUTDOWN, in_phase(Phase::Failed)).await;
    for name in ["always-down", "always-crash", "rerun-crash"] {
        let waits = tenant
            .until(name, "waits a moment before its next start", SHUTDOWN, |machine| {
                reason(machine, "Ready").0 == "BackOff" || boots(machine) > 1
            })
            .await;
        if reason(&waits, "Ready").0 == "BackOff" {
            let failure = waits.status.as_ref().unwrap().start_failure.clone().unwrap();
            assert_eq!(failure.count, 1, "{name}: {failure:?}");
        }
        let again = tenant.until(name, "runs again", BOOT, |machine| is_ready(machine) && boots(machine) > 1).await;
        let events = the_box.events(&tenant.namespace, name).await;
        assert!(events.iter().any(|(reason, _)| reason == "BackOff"), "{name}: it was told: {events:?}");
        assert_eq!(the_box.hosts_with(&again.uid().unwrap()), [host_of(&again)]);
    }
    // Those that came to an end are still at it.
    for (name, expected) in
        [("rerun-down", Phase::Stopped), ("once-down", Phase::Stopped), ("once-crash", Phase::Failed)]
    {
        assert_eq!(phase(&tenant.machines().get(name).await.unwrap()), expected, "{name} isn't started again");
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn an_edited_flavour_changes_no_machine_that_runs() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("flavour").await;
    let flavour = format!("{}-size", tenant.namespace);
    let size = |memory: &str| json!({"metadata": {"name": flavour}, "spec": {"cpus": 1, "memory": memory}});
    tenant.makes("Flavour", size("192Mi")).await;
    let machine = tenant.given_machine("guest", json!({"flavour": flavour})).await;
    let before = the_box.domain_xml(&machine);
    let restart = |status: &'static str| {
        move |machine: &VirtualMachine| condition(machine, "RestartRequired").is_some_and(|it| it.status == status)
    };
    tenant.until("guest", "needs no restart", SOON, restart("False")).await;

    the_box.has_flavour(&flavour, json!({"cpus": 1, "memory": "208Mi"})).await;
    let told = tenant.until("guest", "says that it needs a restart", SOON, restart("True")).await;
    assert!(reason(&told, "RestartRequired").1.contains("208Mi"), "{:?}", reason(&told, "RestartRequired"));
    assert!(is_ready(&told) && boots(&told) == 1, "it goes on running");
    assert_eq!(the_box.domain_xml(&machine), before);
    assert_eq!(told.status.unwrap().flavour.unwrap().memory.to_string(), "192Mi", "it is what it was made from");

    tenant.changes("guest", json!({"runStrategy": "Halted"})).await;
    tenant.until("guest", "stops", SHUTDOWN, in_phase(Phase::Stopped)).await;
    tenant.changes("guest", json!({"runStrategy": "Always"})).await;
    let grown = tenant.until("guest", "runs again", BOOT, |machine| is_ready(machine) && boots(machine) > 1).await;
    assert!(the_box.domain_xml(&grown).contains(&format!("<memory unit='KiB'>{}</memory>", 208 << 10)));
    tenant.until("guest", "needs no restart any more", SOON, restart("False")).await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_paused_object_is_left_alone_until_it_is_not() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("paused").await;
    let machine = tenant.given_machine("guest", json!({})).await;
    let annotate = async |value: serde_json::Value| {
        let patch = json!({"metadata": {"annotations": {"cascina.dev/paused": value}}});
        tenant.machines().patch("guest", &Default::default(), &Patch::Merge(patch)).await.unwrap();
    };
    let _unpaused = Finally(|| {
        let all = ["annotate", "virtualmachines", "--all", "-n", &tenant.namespace, "cascina.dev/paused-"];
        the_box.cluster.run("kubectl", &all);
    });
    annotate(json!("true")).await;
    tenant.changes("guest", json!({"runStrategy": "Halted"})).await;
    // A second machine with the same wish shows that the operator is at work meanwhile.
    tenant.given_machine("other", json!({})).await;
    tenant.changes("other", json!({"runStrategy": "Halted"})).await;
    tenant.until("other", "stops", SHUTDOWN, in_phase(Phase::Stopped)).await;
    let (host, uid) = (host_of(&machine), machine.uid().unwrap());
    assert!(the_box.virsh(&host, &["domstate", &uid]).contains("running"), "nobody touched it");
    let shown = condition(&tenant.machines().get("guest").await.unwrap(), "Paused");
    assert!(shown.is_some_and(|paused| paused.status == "True"), "its status shows that it is paused");

    annotate(json!(null)).await;
    let stopped = tenant.until("guest", "stops", SHUTDOWN, in_phase(Phase::Stopped)).await;
    assert_eq!(condition(&stopped, "Paused"), None);
}
