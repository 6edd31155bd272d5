//! A guest knows what its object says, at its first start and at those that follow.

use std::time::Duration;

use cascina::api::{Phase, VirtualMachine};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::libvirt::epoch_of;
use crate::support::{BOOT, SOON, Tenant, condition, is_ready, reason, the_box};

const FARMS: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMf4yasNahfZgWvTR16OyNcTgAnGVniOfmL98qbahjQs of-the-farm";
const LATER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti came-later";
const OWN: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDwcYeYi8I8ocZa9uNXV29Uw+oL2sCD+MlXfT56VlGY0 of-user-data";

/// A key of RSA that was cut where its base64 is whole: no pattern sees that.
const CUT: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC8 cut";

/// A Debian boots so long at most: emulated, with cloud-init.
const DEBIAN: Duration = Duration::from_secs(420);

impl Tenant<'_> {
    async fn farm_changes(&self, spec: Value) {
        let patch = json!({"spec": spec});
        self.farms().patch("farm", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Halts a machine and starts it again.
    async fn restarts(&self, machine: &VirtualMachine, within: Duration) -> VirtualMachine {
        let name = machine.metadata.name.as_deref().unwrap();
        let epoch = epoch_of(machine);
        self.changes(name, json!({"runStrategy": "Halted"})).await;
        let stopped = |machine: &VirtualMachine| machine.status.as_ref().unwrap().phase == Some(Phase::Stopped);
        self.until(name, "stops", BOOT, stopped).await;
        self.changes(name, json!({"runStrategy": "Always"})).await;
        self.until(name, "runs again", within, |machine| is_ready(machine) && epoch_of(machine) > epoch).await
    }

    /// What the guest writes to a command of its shell.
    fn says(&self, machine: &VirtualMachine, command: &str) -> String {
        let (done, text) = self.inside(machine, &["sh", "-c", command]);
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(done, "{command}: {text}");
        text
    }
}

fn restart_required(machine: &VirtualMachine) -> bool {
    condition(machine, "RestartRequired").is_some_and(|condition| condition.status == "True")
}

#[tokio::test]
#[ignore = "needs a box"]
async fn keys_of_farm_and_user_data_may_log_in_and_a_bad_one_is_named_and_left_out() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("keys").await;
    tenant.given_farm("farm", json!({"sshKeys": [CUT, FARMS]})).await;
    let user_data = format!("#cloud-config\nssh_authorized_keys: [\"{OWN}\"]\n");
    let machine = tenant.given_machine("guest", json!({"userData": {"inline": user_data}})).await;
    let keys = tenant.says(&machine, "cat /root/.ssh/authorized_keys /home/cascina/.ssh/authorized_keys");
    assert_eq!(keys, format!("{FARMS}\n{OWN}\n{FARMS}\n{OWN}\n"));

    let farm = tenant
        .the_box
        .until(&tenant.farms(), "farm", "names the bad key", SOON, |farm| condition(farm, "SshKeysValid").is_some())
        .await;
    assert!(reason(&farm, "SshKeysValid").1.starts_with("spec.sshKeys[0]: not an OpenSSH public key, or cut"));
    let named = reason(&machine, "SshKeysValid");
    assert_eq!(named.0, "InvalidSshKey");
    assert!(named.1.starts_with("the farm's spec.sshKeys[0]: "), "{named:?}");
    for name in ["farm", "guest"] {
        let events = the_box.events(&tenant.namespace, name).await;
        assert!(events.iter().any(|(reason, _)| reason == "InvalidSshKey"), "{name}: {events:?}");
    }

    tenant.farm_changes(json!({"sshKeys": [LATER]})).await;
    tenant.until("guest", "says that a restart is due", SOON, restart_required).await;
    let again = tenant.restarts(&machine, BOOT).await;
    assert_eq!(tenant.says(&again, "cat /root/.ssh/authorized_keys"), format!("{LATER}\n{OWN}\n"));
    assert!(!restart_required(&again) && condition(&again, "SshKeysValid").is_none());
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_a_debian_that_booted_before_takes_keys_and_gateway_at_its_next_start_and_does_nothing_twice() {
    let the_box = the_box().await;
    the_box.has_flavour("e2e-debian", json!({"cpus": 2, "memory": "640Mi", "rootDisk": "2Gi"})).await;
    let tenant = the_box.tenant("debian").await;
    tenant.given_farm("farm", json!({"sshKeys": [FARMS]})).await;
    let user_data = format!(
        "#cloud-config\nssh_authorized_keys: [\"{OWN}\"]\nbootcmd: [echo b >>/root/boots]\nruncmd: [echo r >>/root/runs]\n"
    );
    let spec = json!({"image": "debian", "flavour": "e2e-debian", "userData": {"inline": user_data}});
    tenant.asks_for("guest", spec).await;
    let first = tenant.until("guest", "is Ready", DEBIAN, is_ready).await;
    tenant.says(&first, "cloud-init status --wait >/dev/null; test -s /root/runs");
    let keys =
        "cut -d' ' -f3 /root/.ssh/authorized_keys | sort; cut -d' ' -f3 /home/debian/.ssh/authorized_keys | sort";
    assert_eq!(tenant.says(&first, keys), "of-the-farm\nof-user-data\nof-the-farm\nof-user-data\n");
    assert_eq!(tenant.says(&first, "ip -4 route show default"), "");
    let host_key = tenant.says(&first, "cat /etc/ssh/ssh_host_*_key.pub");

    tenant.farm_changes(json!({"sshKeys": [LATER], "router": {}})).await;
    tenant.until("guest", "says that a restart is due", SOON, restart_required).await;
    let again = tenant.restarts(&first, DEBIAN).await;
    tenant.says(&again, "cloud-init status --wait >/dev/null; true");
    assert_eq!(tenant.says(&again, keys), "came-later\nof-user-data\ncame-later\nof-user-data\n");
    assert!(tenant.says(&again, "ip -4 route show default").starts_with("default via "));
    assert_eq!(tenant.says(&again, "cat /etc/ssh/ssh_host_*_key.pub"), host_key);
    assert_eq!(tenant.says(&again, "cat /root/runs"), "r\n", "its commands ran once");
    assert_eq!(tenant.says(&again, "cat /root/boots"), "b\nb\n", "what is for each boot ran at each");
    assert!(!restart_required(&again));
}
