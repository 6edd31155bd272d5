//! The operator's filters on a host.

use std::fs;

use cascina::libvirt::{Host, HostError, RuleSet};
use uuid::Uuid;

use crate::machine::{machine, remove};
use crate::the_box::{the_box, timed};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn a_filter_that_nobody_uses_can_go() {
    let the_box = the_box().await;
    let host = the_box.host("worker-2");
    host.ensure_filter(RuleSet::Router).await.unwrap();
    let name = RuleSet::Router.filter_name();
    let deleted = host.delete_filter(&name).await;
    if matches!(deleted, Err(HostError::InUse { .. })) {
        println!("a router runs on worker-2: its filter stays");
        return;
    }
    deleted.unwrap();
    host.delete_filter(&name).await.unwrap();
    assert!(!host.survey().await.unwrap().filters.contains(&name));
    host.ensure_filter(RuleSet::Router).await.unwrap();
    assert!(matches!(host.delete_filter("clean-traffic").await, Err(HostError::Refused { .. })));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn filters_of_another_version_get_the_rules_of_this_one() {
    let the_box = the_box().await;
    let host = the_box.host("worker-2");
    // With a machine there, nobody tidies filters away.
    let mut spec = machine("renews", 12);
    (spec.root, spec.data, spec.seed) = (None, None, None);
    host.ensure_filter(RuleSet::Machine).await.unwrap();
    host.define(&spec).await.unwrap();
    host.renew_filters().await.unwrap();

    let earlier = "cascina-machine-0000000000e2";
    let file = the_box.runtime.path().join("filter.xml");
    let uuid = Uuid::new_v4();
    let theirs = format!(
        "<filter name='{earlier}' chain='root'><uuid>{uuid}</uuid><rule action='drop' direction='in'/></filter>"
    );
    fs::write(&file, theirs).unwrap();
    let virsh = |command: &str| the_box.script("virsh", &["worker-2", command]);
    virsh(&format!("nwfilter-define {}", file.display()));
    let renewed = timed("renew rules", host.renew_filters()).await.unwrap();
    let now = virsh(&format!("nwfilter-dumpxml {earlier}"));
    let again = timed("renew rules again", host.renew_filters()).await.unwrap();
    host.refresh_filters().await.unwrap();
    let refreshed = host.renew_filters().await.unwrap();
    host.delete_filter(earlier).await.unwrap();
    remove(&host, &spec).await;

    assert_eq!((renewed, again, refreshed), (vec![earlier.to_owned()], vec![], vec![]));
    assert!(now.contains(&uuid.to_string()), "{now}");
    assert_eq!(now.matches("<rule ").count(), RuleSet::Machine.rules().len(), "{now}");
}
