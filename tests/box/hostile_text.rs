//! Text with a meaning in XML, YAML or a shell reaches the guest as it is and means nothing on the way.

use serde_json::json;

use crate::support::libvirt::structure;
use crate::support::the_box;

const NASTY: &str = "</title><devices><disk type='file'><source file='/etc/shadow'/></disk> \
                     ]]> &lt; &amp; <!-- '\" $(touch /tmp/pwned) `touch /tmp/pwned` ; touch /tmp/pwned | # {{ }} %s \\n ä€𝄞";

/// A key that is one.
pub const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMf4yasNahfZgWvTR16OyNcTgAnGVniOfmL98qbahjQs";

#[tokio::test]
#[ignore = "needs a box"]
async fn metacharacters_reach_the_guest_byte_for_byte_and_nothing_else() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("hostile").await;
    let farm_key = format!("{KEY} of the farm {NASTY}");
    let own_key = format!("{KEY} of the machine {NASTY}");
    tenant.given_farm("farm", json!({"sshKeys": [farm_key]})).await;
    let user_data = format!(
        "#cloud-config\n# {NASTY}\nwrite_files:\n  - path: /root/nasty\n    content: |\n      {NASTY}\n  - path: /root/it's \"here\" $HOME\n    content: found\n"
    );
    let metadata = json!({
        "name": "nasty",
        "annotations": {"example.org/note": NASTY, "example.org/yaml": "a: [b, {c: *d}]\n--- !!python/object"},
        "labels": {"example.org/odd": "A.b_c-D", "odd": "0"},
    });
    let spec = json!({
        "farm": "farm", "flavour": crate::support::SMALL, "image": "appliance",
        "sshKeys": [own_key], "userData": {"inline": user_data},
    });
    tenant.makes("VirtualMachine", json!({"metadata": metadata, "spec": spec})).await;
    tenant.asks_for("plain", json!({})).await;
    let (nasty, plain) = (tenant.ready("nasty").await, tenant.ready("plain").await);

    let mount = "mkdir /seed && mount -t vfat -o ro /dev/$(grep -lx seed /sys/block/vd*/serial | cut -d/ -f4) /seed";
    assert!(tenant.inside(&nasty, &["sh", "-c", mount]).0, "the guest has a seed");
    let same = |path: &str, expected: &str| {
        let found = tenant.file_inside(&nasty, path);
        assert_eq!(String::from_utf8_lossy(&found), expected, "{path}");
    };
    same("/seed/user-data", &user_data);
    same("/root/nasty", &format!("{NASTY}\n"));
    same("/root/it's \"here\" $HOME", "found");
    same("/root/.ssh/authorized_keys", &format!("{farm_key}\n{own_key}\n"));
    assert!(!tenant.inside(&nasty, &["ls", "/tmp/pwned"]).0, "no shell ran any of it");

    let (odd, even) = (the_box.domain_xml(&nasty), the_box.domain_xml(&plain));
    assert_eq!(structure(&odd), structure(&even), "text never changes the structure of a domain");
    assert!(odd.contains(&format!("<title>{}/nasty</title>", tenant.namespace)));
    assert!(!odd.contains("shadow") && !odd.contains("pwned"), "no text of a user's is in it:\n{odd}");
}
