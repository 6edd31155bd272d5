//! Nothing passes between the operator and a host, and nobody is told.

use std::time::{Duration, Instant};

use cascina::api::{Hypervisor, HypervisorPhase, Phase};
use serde_json::json;

use super::{NOTICED, label, quick_on};
use crate::support::census::NeverTwice;
use crate::support::libvirt::epoch_of;
use crate::support::soak::{measured, since};
use crate::support::{BOOT, Finally, SOON, is_ready, reason, the_box_alone};

const FAULT: &str = "network operator–host cut";

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_a_cut_between_operator_and_host_is_noticed_and_costs_no_guest() {
    let the_box = the_box_alone().await;
    label(&the_box);
    let tenant = the_box.tenant("cut").await;
    let struck = tenant.given_machine("struck", json!({"hypervisorSelector": {"e2e/host": "worker-1"}})).await;
    let boot = |machine| tenant.file_inside(machine, "/proc/sys/kernel/random/boot_id");
    let boot_before = boot(&struck);
    tenant.asks_for("doomed", quick_on("worker-1")).await;
    tenant.ready("doomed").await;
    let never_twice = NeverTwice::watch();
    let hosts = the_box.all::<Hypervisor>();
    let phase = |wanted| move |host: &Hypervisor| host.status.as_ref().is_some_and(|status| status.phase == wanted);

    let _healed = Finally(|| drop(the_box.try_script("network", &["heal"])));
    the_box.script("network", &["cut", "worker-1"]);
    let begin = Instant::now();
    tenant.deletes("doomed").await;
    tenant.asks_for("elsewhere", quick_on("worker-2")).await;
    tenant.until("elsewhere", "runs on another host", SOON, is_ready).await;
    measured(FAULT, "a new machine on another host Ready after", since(begin));
    the_box.until(&hosts, "worker-1", "is Unreachable", NOTICED, phase(HypervisorPhase::Unreachable)).await;
    measured(FAULT, "host Unreachable after", since(begin));
    let is_unknown = |machine: &cascina::api::VirtualMachine| {
        machine.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Unknown))
    };
    tenant.until("struck", "is Unknown", NOTICED, is_unknown).await;
    tenant.until("doomed", "waits", NOTICED, |machine| reason(machine, "Deleting").0 == "WaitingForHost").await;
    tokio::time::sleep(Duration::from_secs(120)).await;

    the_box.script("network", &["heal"]);
    let healed = Instant::now();
    the_box.until(&hosts, "worker-1", "is Ready", NOTICED, phase(HypervisorPhase::Ready)).await;
    measured(FAULT, "host Ready again after the cut healed", since(healed));
    let again =
        tenant.until("struck", "is Ready again", BOOT, |machine| !is_unknown(machine) && is_ready(machine)).await;
    measured(FAULT, "its machine Ready again after", since(healed));
    assert_eq!((epoch_of(&again), boot(&again)), (epoch_of(&struck), boot_before), "its guest just went on");
    the_box.until_gone(&tenant.machines(), "doomed", BOOT).await;
    measured(FAULT, "a deletion made up for after", since(healed));
    the_box.all_is_accounted_for().await;
    never_twice.holds();
}
