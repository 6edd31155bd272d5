//! Hypervisors that must not be used: they are refused with a reason, and those in use don't notice.

use cascina::api::{Hypervisor, HypervisorPhase};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::support::{HOSTS, SOON, Tenant, TheBox, condition, is_ready, reason, the_box, the_box_alone};

/// The hypervisor of a host of the box, under another name, changed by `spec`.
async fn second(tenant: &Tenant<'_>, host: &str, spec: Value) -> String {
    let the_box = tenant.the_box;
    let known: Hypervisor = the_box.all().get(host).await.unwrap();
    let mut copy = serde_json::to_value(&known.spec).unwrap();
    copy = crate::cluster::merged(copy, &spec);
    let name = format!("{host}-{}", &tenant.namespace[tenant.namespace.len() - 6..]);
    tenant.makes("Hypervisor", json!({"metadata": {"name": name}, "spec": copy})).await;
    name
}

/// The URI of a host in another spelling: the same machine, and no duplicate by its text.
async fn other_spelling(the_box: &TheBox, host: &str) -> String {
    let known: Hypervisor = the_box.all().get(host).await.unwrap();
    known.spec.uri.replace("/system", ":16514/system")
}

/// A Secret of client credentials: the certificate of one identity, the CA of another.
fn credentials(the_box: &TheBox, identity: &str, ca: &str) -> Value {
    let pki = the_box.state.join("pki");
    let read = |path: String| std::fs::read_to_string(pki.join(path)).unwrap();
    json!({
        "tls.crt": read(format!("{identity}/clientcert.pem")),
        "tls.key": read(format!("{identity}/clientkey.pem")),
        "ca.crt": read(format!("{ca}/cacert.pem")),
    })
}

fn others_are_well(hosts: &[Hypervisor]) {
    for name in HOSTS {
        let host = hosts.iter().find(|host| host.name_any() == name).unwrap();
        assert!(is_ready(host), "{name} is not Ready any more: {:?}", condition(host, "Ready"));
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_host_whose_certificate_is_wrong_is_not_used() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("bad-hosts").await;
    // What is wrong about the pair, and what people are told.
    let wrong = [
        ("the host's certificate is signed by nobody we trust", "worker-1", "operator", "rogue-operator"),
        ("the host doesn't know our name", "worker-2", "stranger", "operator"),
        ("our certificate is signed by nobody the host trusts", "service-1", "rogue-operator", "operator"),
    ];
    for (what, host, identity, ca) in wrong {
        let secret = format!("e2e-{host}");
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": "cascina-system"},
            "type": "kubernetes.io/tls", "stringData": credentials(&the_box, identity, ca),
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), object.to_string()).unwrap();
        the_box.cluster.must("kubectl", &["apply", "--server-side", "-f", file.path().to_str().unwrap()]);
        let uri = other_spelling(&the_box, host).await;
        let spec = json!({"uri": uri, "credentialsSecretRef": {"name": secret}});
        let name = second(&tenant, host, spec).await;

        let refused = the_box
            .until(&the_box.all::<Hypervisor>(), &name, what, SOON, |host| {
                condition(host, "Ready").is_some_and(|ready| ready.status == "False")
            })
            .await;
        println!("{what}: {:?}", reason(&refused, "Ready"));
        let (why, message) = reason(&refused, "Ready");
        assert!(why != "Answers" && message.to_lowercase().contains("certificate"), "{what}: {why}: {message}");
        assert_eq!(condition(&refused, "Schedulable").unwrap().status, "False", "{what}");
        the_box.cluster.must("kubectl", &["delete", "hypervisor", &name, "--timeout=30s"]);
        the_box.cluster.must("kubectl", &["-n", "cascina-system", "delete", "secret", &secret]);
    }
    others_are_well(&the_box.all().list(&Default::default()).await.unwrap().items);
}

#[tokio::test]
#[ignore = "needs a box"]
async fn one_host_can_not_be_booked_twice() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("twins").await;
    let same_text = second(&tenant, "worker-1", json!({})).await;
    let same_host = second(&tenant, "worker-2", json!({"uri": other_spelling(&the_box, "worker-2").await})).await;
    for (name, why, first) in [(same_text, "DuplicateUri", "worker-1"), (same_host, "DuplicateHost", "worker-2")] {
        let refused = the_box
            .until(&the_box.all::<Hypervisor>(), &name, "is refused", SOON, |host| reason(host, "Ready").0 == why)
            .await;
        assert_eq!(refused.status.as_ref().unwrap().phase, HypervisorPhase::Rejected);
        let (_, message) = reason(&refused, "Ready");
        assert!(message.contains(&format!("Hypervisor {first}")), "it names the first: {message}");
        assert_eq!(condition(&refused, "Schedulable").unwrap().status, "False");
    }
    others_are_well(&the_box.all().list(&Default::default()).await.unwrap().items);
}

#[tokio::test]
#[ignore = "needs a box"]
async fn what_can_be_told_without_looking_is_refused_at_once() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("bad-hv").await;
    let good: Hypervisor = the_box.all().get("worker-1").await.unwrap();
    let refused = [
        (json!({"maintenance": "Drain"}), "Drain is not available"),
        (json!({"uri": "qemu+tcp://198.18.0.1/system"}), "qemu+tcp gives everybody on the network root"),
        (json!({"uri": "qemu+tls://198.18.0.1/system?no_verify=1"}), "parameters are not accepted"),
        (json!({"credentialsSecretRef": null}), "needs a Secret"),
        (json!({"networks": {"public": {"bridge": "br-public"}}}), "only hosts of class Service"),
    ];
    for (change, message) in refused {
        let spec = crate::cluster::merged(serde_json::to_value(&good.spec).unwrap(), &change);
        let outcome = tenant
            .creates("Hypervisor", "cascina.dev/v1alpha1", json!({"metadata": {"name": "e2e-never"}, "spec": spec}))
            .await;
        let error = outcome.expect_err(&change.to_string());
        assert!(error.contains(message), "{change}: {error}");
    }
}
