//! A person outside logs in to a machine of a farm.

use std::process::Command;

use cascina::api::{VRouter, VirtualFarm, VirtualMachine};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::farms::apply_examples;
use crate::support::libvirt::{address_of, host_of};
use crate::support::{BOOT, Finally, is_ready, the_box};

const FARM: &str = "farm-a";
const DESK: &str = "farm-a-desk-0";

#[tokio::test]
#[ignore = "needs a box"]
async fn ssh_from_outside_reaches_a_machine_by_its_forward() {
    let the_box = the_box().await;
    apply_examples(&the_box);
    let client = || the_box.cluster.client.clone();
    let desk: VirtualMachine = the_box.until(&Api::namespaced(client(), FARM), DESK, "Ready", BOOT, is_ready).await;

    let _alone = Finally(|| {
        let router = ["patch", "virtualfarm", "-n", FARM, FARM, "--type=merge", "-p", r#"{"spec":{"router":null}}"#];
        drop(the_box.cluster.run("kubectl", &router));
    });
    let router = json!({"forwards": [{"port": 2222, "targetRef": {"name": DESK}, "targetPort": 22}]});
    let farms: Api<VirtualFarm> = Api::namespaced(client(), FARM);
    let patch = Patch::Merge(json!({"spec": {"router": router}}));
    farms.patch(FARM, &PatchParams::default(), &patch).await.unwrap();
    let router: VRouter = the_box.until(&Api::namespaced(client(), FARM), FARM, "works", BOOT, is_ready).await;
    let public = router.status.unwrap().public_ip.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key").to_str().unwrap().to_owned();
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status().unwrap();
    assert!(made.success());
    let public_key = std::fs::read_to_string(format!("{key}.pub")).unwrap();
    // It was there before the router: by itself it would learn of the gateway at its next start.
    let gateway = address_of(&desk).rsplit_once('.').map(|(network, _)| format!("{network}.1")).unwrap();
    let told = format!(
        "mkdir -p /root/.ssh && echo '{}' > /root/.ssh/authorized_keys && ip route replace default via {gateway}",
        public_key.trim()
    );
    the_box.script("agent", &[&host_of(&desk), &desk.uid().unwrap(), "sh", "-c", &told]);

    let outside = the_box.network_of("outside");
    let options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=30"];
    let mut ssh = Command::new("ip");
    ssh.args(["netns", "exec", &outside, "ssh", "-q", "-i", &key, "-p", "2222"]);
    for option in options {
        ssh.args(["-o", option]);
    }
    let output = ssh.args([&format!("root@{public}"), "hostname"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), DESK, "{}", String::from_utf8_lossy(&output.stderr));
}
