//! The examples as a GitOps tool treats them: applied, compared, removed, in any order.

use std::io::Write;
use std::time::Duration;

use cascina::api::{VirtualFarm, VirtualMachine};
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::farms::{apply_examples, nodes};
use crate::support::{BOOT, HOSTS, TheBox, is_ready, the_box_alone};

const EXAMPLES: [&str; 2] = ["farm-a", "farm-b"];

fn farms(the_box: &TheBox, namespace: &str) -> Api<VirtualFarm> {
    Api::namespaced(the_box.cluster.client.clone(), namespace)
}

async fn uids(the_box: &TheBox) -> Vec<String> {
    let machines: Vec<VirtualMachine> = the_box.all().list(&Default::default()).await.unwrap().items;
    let examples = |machine: &&VirtualMachine| EXAMPLES.contains(&machine.namespace().unwrap().as_str());
    machines.iter().filter(examples).map(|machine| machine.uid().unwrap()).collect()
}

/// The example's documents with the slow machine left out, first or last document first.
fn quick_examples(reversed: bool) -> tempfile::NamedTempFile {
    let mut documents = crate::cluster::documents(&crate::cluster::read("examples/first-farm.yaml"));
    for document in &mut documents {
        if let Some(Value::Array(groups)) = document.pointer_mut("/spec/groups") {
            groups.retain(|group| group["image"] == "appliance");
        }
    }
    if reversed {
        documents.reverse();
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for document in documents {
        writeln!(file, "---\n{}", serde_yaml::to_string(&document).unwrap()).unwrap();
    }
    file
}

async fn nothing_is_left(the_box: &TheBox, uids: &[String]) {
    the_box.nothing_left_of(uids).await;
    the_box
        .eventually("filters to be gone", Duration::from_secs(30), async || {
            let left: Vec<_> = HOSTS.iter().flat_map(|host| the_box.filters(host)).collect();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        })
        .await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn once_ready_the_examples_differ_from_nothing() {
    let the_box = the_box_alone().await;
    apply_examples(&the_box);
    for farm in EXAMPLES {
        let ready = the_box.until(&farms(&the_box, farm), farm, "Ready", BOOT, is_ready).await;
        println!("{farm}: {} machines Ready", ready.status.unwrap().machines.unwrap());
    }
    let file = crate::cluster::file("examples/first-farm.yaml");
    let (same, said) = the_box.cluster.run("kubectl", &["diff", "-f", file.to_str().unwrap()]);
    assert!(same && said.trim().is_empty(), "{said}");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn removed_in_any_order_the_examples_leave_nothing() {
    let the_box = the_box_alone().await;
    let kubectl = |arguments: &[&str]| the_box.cluster.must("kubectl", arguments);
    apply_examples(&the_box);
    nodes(&the_box, "farm-a").await;

    // As the file stands: flavours, a namespace and all in it, its farm.
    let before = uids(&the_box).await;
    let file = crate::cluster::file("examples/first-farm.yaml");
    kubectl(&["delete", "-f", file.to_str().unwrap(), "--timeout=120s"]);
    nothing_is_left(&the_box, &before).await;

    // Applied the other way round they become Ready all the same; now the farms go first.
    let reversed = quick_examples(true);
    // A namespace has to be there before what is in it, or kubectl itself refuses: a second run repairs that.
    the_box
        .eventually("kubectl to have applied every document", BOOT, async || {
            let (good, said) = the_box.cluster.run("kubectl", &["apply", "-f", reversed.path().to_str().unwrap()]);
            if good { Ok(()) } else { Err(said) }
        })
        .await;
    for farm in EXAMPLES {
        the_box.until(&farms(&the_box, farm), farm, "Ready", BOOT, is_ready).await;
    }
    let before = uids(&the_box).await;
    kubectl(&["delete", "-f", reversed.path().to_str().unwrap(), "--timeout=120s"]);
    nothing_is_left(&the_box, &before).await;

    // Machines first: their farm makes them anew, and then it goes, too.
    kubectl(&["apply", "-f", quick_examples(false).path().to_str().unwrap()]);
    nodes(&the_box, "farm-b").await;
    let mut before = uids(&the_box).await;
    kubectl(&["delete", "virtualmachines", "--all", "-n", "farm-b", "--wait=false"]);
    before.extend(uids(&the_box).await);
    kubectl(&["delete", "-f", quick_examples(false).path().to_str().unwrap(), "--timeout=120s"]);
    before.extend(uids(&the_box).await);
    nothing_is_left(&the_box, &before).await;
}
