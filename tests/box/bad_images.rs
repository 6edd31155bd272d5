//! Images that must not reach a host.

use std::path::Path;
use std::process::Command;

use cascina::api::{Image, ImagePhase, VirtualMachine};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{BOOT, SOON, TheBox, condition, is_ready, reason, the_box};

/// An image that is made for this test, and what becomes of it.
struct Bad {
    name: &'static str,
    declared: &'static str,
    /// A word of the reason and one of the message.
    refused: (&'static str, &'static str),
    make: fn(&Path),
}

fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A qcow2 with something in it, of which there is no second one.
fn sound(path: &Path) {
    let raw = path.with_extension("raw");
    std::fs::write(&raw, text(path).repeat(1 << 14)).unwrap();
    raw_sectors(&raw);
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(path)]);
}

/// Cuts a file to whole sectors.
fn raw_sectors(path: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() & !511).unwrap();
}

const BAD: [Bad; 7] = [
    Bad {
        name: "backing-file",
        declared: "qcow2",
        refused: ("BackingFile", "flatten it"),
        make: |path| {
            qemu_img(&["create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", text(path), "1M"])
        },
    },
    Bad {
        name: "external-data",
        declared: "qcow2",
        refused: ("ExternalData", "external file"),
        make: |path| {
            let data = format!("data_file={},data_file_raw=on", text(&path.with_extension("data")));
            qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data, text(path), "1M"]);
        },
    },
    Bad {
        name: "raw-as-qcow2",
        declared: "qcow2",
        refused: ("WrongFormat", "declared as qcow2"),
        make: |path| std::fs::write(path, vec![7_u8; 1 << 20]).unwrap(),
    },
    Bad { name: "qcow2-as-raw", declared: "raw", refused: ("WrongFormat", "declared as raw"), make: sound },
    Bad {
        name: "tar-as-raw",
        declared: "raw",
        refused: ("WrongFormat", "unpack it"),
        make: |path| {
            let disk = path.with_extension("disk");
            std::fs::write(&disk, vec![1_u8; 1 << 20]).unwrap();
            let made = Command::new("tar").args(["--format=ustar", "-cf", text(path), text(&disk)]).output().unwrap();
            assert!(made.status.success());
        },
    },
    Bad {
        name: "sixty-tebibytes",
        declared: "qcow2",
        refused: ("TooLarge", "60Ti"),
        make: |path| qemu_img(&["create", "-q", "-f", "qcow2", text(path), "60T"]),
    },
    Bad {
        name: "truncated",
        declared: "qcow2",
        refused: ("Truncated", "the file ends at"),
        make: |path| {
            sound(path);
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        },
    },
];

fn image(the_box: &TheBox, name: &str, format: &str, make: impl Fn(&Path)) -> Value {
    let path = the_box.state.join("images").join(format!("{name}.img"));
    make(&path);
    let checksum = Sha256::digest(std::fs::read(&path).unwrap());
    let checksum: String = checksum.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "metadata": {"name": format!("e2e-{name}")},
        "spec": {"disk": {
            "source": {"url": format!("file://{}", text(&path))},
            "checksum": format!("sha256:{checksum}"), "format": format,
        }, "cache": {"policy": "All"}},
    })
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_bad_image_is_refused_by_name_and_good_ones_go_on() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("bad-images").await;
    let images = the_box.all::<Image>();
    let before = the_box
        .until(&images, "appliance", "is on every host", BOOT, |image| {
            image.status.as_ref().is_some_and(|status| status.ready.as_deref() == Some("4/4"))
        })
        .await;
    tenant.given_farm("farm", json!({})).await;

    let mut expected = Vec::new();
    for bad in BAD {
        tenant.makes("Image", image(&the_box, bad.name, bad.declared, bad.make)).await;
        expected.push((format!("e2e-{}", bad.name), bad.refused));
    }
    let mut other_file = image(&the_box, "checksum", "qcow2", sound);
    other_file["spec"]["disk"]["checksum"] = json!(format!("sha256:{}", "0".repeat(64)));
    tenant.makes("Image", other_file).await;
    expected.push(("e2e-checksum".into(), ("Mismatch", "expected")));
    tenant.makes("Image", image(&the_box, "sound", "qcow2", sound)).await;

    for (name, (why, says)) in &expected {
        tenant.asks_for(name, json!({"image": name})).await;
        let what = "is refused";
        let image = the_box
            .until(&images, name, what, SOON, |image| {
                image.status.as_ref().is_some_and(|status| status.phase == ImagePhase::Rejected)
            })
            .await;
        let (reason, message) = reason(&image, "Ready");
        assert!(reason.contains(why) && message.contains(says), "{name}: {reason}: {message}");
    }
    for (name, (_, says)) in &expected {
        // Two controllers say so, one after the other.
        let says_so = |machine: &VirtualMachine| {
            let ready = condition(machine, "Ready").map(|ready| ready.status);
            reason(machine, "Scheduled").0 == "ImageNotReady" && ready.as_deref() == Some("False")
        };
        let waits = tenant.until(name, "waits", SOON, says_so).await;
        let (_, message) = reason(&waits, "Scheduled");
        assert!(message.contains(name) && message.contains(says), "{name}: the machine says why: {message}");
    }
    let sound = the_box
        .until(&images, "e2e-sound", "is on every host", BOOT, |image| {
            image.status.as_ref().is_some_and(|status| status.ready.as_deref() == Some("4/4"))
        })
        .await;
    assert!(is_ready(&sound));
    let after: Image = images.get("appliance").await.unwrap();
    assert_eq!(after.status, before.status, "an image that was there hasn't noticed anything");
    // A rejected file was given to no host: the good one's volume is there, none of the others'.
    for (name, _) in &expected {
        let spec: Image = images.get(name).await.unwrap();
        let checksum = spec.spec.disk.unwrap().checksum.replace("sha256:", "img-")[..4 + 16].to_owned();
        assert!(!the_box.volumes("worker-1").iter().any(|volume| volume.starts_with(&checksum)), "{name}: {checksum}");
    }
}
