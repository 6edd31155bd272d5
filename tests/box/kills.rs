//! The operator is killed, at many moments: what it was at is finished by the next one, as if nothing had happened.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use serde_json::json;

use crate::support::soak::{measured, since};
use crate::support::{BOOT, SOON, TheBox, is_ready, the_box_alone};

/// After a request, in milliseconds: dense where most happens.
const MOMENTS: [u64; 10] = [30, 80, 140, 220, 320, 450, 700, 1100, 1800, 3000];

/// Kills the operator so long after now, and starts it again.
async fn kill_after(the_box: &TheBox, begin: Instant, milliseconds: u64) {
    tokio::time::sleep_until((begin + Duration::from_millis(milliseconds)).into()).await;
    the_box.script("operator", &["kill9"]);
    the_box.script("operator", &["start"]);
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_killed_at_many_moments_it_ends_in_the_same_state() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("kills").await;
    tenant.given_farm("farm", json!({})).await;
    let spec = json!({"flavour": "e2e-disk", "readiness": "None"});
    the_box.has_flavour("e2e-disk", json!({"cpus": 1, "memory": "192Mi", "dataDisk": "64Mi"})).await;
    let mut all = Vec::new();
    for (index, moment) in MOMENTS.into_iter().enumerate() {
        let name = format!("victim-{index}");
        let begin = Instant::now();
        let asked = tenant.asks_for(&name, spec.clone()).await;
        let uid = asked.uid().unwrap();
        all.push(uid.clone());
        kill_after(&the_box, begin, moment).await;
        let runs = tenant.until(&name, "runs although the operator was killed", BOOT, is_ready).await;
        assert_eq!(runs.uid().unwrap(), uid, "it is the same object");
        let host = runs.status.unwrap().hypervisor.unwrap();
        assert_eq!(the_box.hosts_with(&uid), [host.as_str()], "one domain of that UUID on all hosts");
        let volumes: Vec<_> = the_box.volumes(&host).into_iter().filter(|name| name.starts_with(&uid)).collect();
        assert_eq!(volumes.len(), 2, "a data disk and one seed: {volumes:?}");
        let created = begin.elapsed();

        let begin = Instant::now();
        tenant.deletes(&name).await;
        kill_after(&the_box, begin, moment).await;
        the_box.until_gone(&tenant.machines(), &name, SOON).await;
        let left = the_box.left_of(std::slice::from_ref(&uid));
        assert!(left.is_empty(), "the object went before what it stood for: {left:?}");
        let took = format!("Ready {:.1} s, gone {}", created.as_secs_f64(), since(begin));
        measured("operator killed -9", &format!("{moment} ms after a creation, and after a deletion"), took);
    }
    the_box.nothing_left_of(&all).await;
}
