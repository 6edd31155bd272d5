//! Two operators: one works, and when it dies the other does.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::metrics::Metrics;
use crate::support::{BOOT, Finally, SOON, TheBox, the_box_alone};

/// The Lease runs out, and then some.
const TAKEOVER: Duration = Duration::from_secs(40);

/// Whether an instance says that it leads; one that is down doesn't.
fn leads(the_box: &TheBox, instance: &str) -> bool {
    let output = the_box.try_script("operator", &["get", "/metrics", instance]);
    output.status.success() && Metrics::read(&String::from_utf8_lossy(&output.stdout)).sum("cascina_leader", &[]) == 1.0
}

#[tokio::test]
#[ignore = "needs a box"]
async fn when_the_leader_dies_the_other_takes_over() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("two").await;
    let _one_again = Finally(|| {
        drop(the_box.try_script("operator", &["stop", "2"]));
        drop(the_box.try_script("operator", &["start", "1"]));
    });
    let leader = async |instance: &str, within: Duration| {
        the_box
            .eventually(&format!("operator {instance} to lead"), within, async || {
                if leads(&the_box, instance) { Ok(()) } else { Err(the_box.script("operator", &["status"])) }
            })
            .await;
    };
    leader("1", TAKEOVER).await;
    the_box.script("operator", &["start", "2"]);
    the_box
        .eventually("the second operator to be ready", SOON, async || {
            let ready = the_box.try_script("operator", &["get", "/readyz", "2"]);
            ready.status.success().then_some(()).ok_or_else(|| the_box.operator_log(2, 20))
        })
        .await;
    assert!(!leads(&the_box, "2"), "one of two leads");
    let before = tenant.given_machine("before", json!({})).await;

    the_box.script("operator", &["kill9", "1"]);
    let begin = Instant::now();
    tenant.asks_for("after", json!({})).await;
    leader("2", TAKEOVER).await;
    println!("the other led {:.1} s after the leader was killed", begin.elapsed().as_secs_f64());
    tenant.until("after", "Ready under the new leader", BOOT, crate::support::is_ready).await;
    println!("a machine asked for in between was Ready after {:.1} s", begin.elapsed().as_secs_f64());
    let same = tenant.machines().get("before").await.unwrap();
    assert_eq!(same.status.as_ref().unwrap().epoch, before.status.as_ref().unwrap().epoch, "what ran runs on");

    // The one that died comes back as the second.
    the_box.script("operator", &["start", "1"]);
    the_box
        .eventually("the first operator to be ready", SOON, async || {
            let ready = the_box.try_script("operator", &["get", "/readyz", "1"]);
            ready.status.success().then_some(()).ok_or_else(|| the_box.operator_log(1, 20))
        })
        .await;
    assert!(leads(&the_box, "2") && !leads(&the_box, "1"));
    // Asked to stop, a leader gives the Lease away: nobody has to wait until it runs out.
    the_box.script("operator", &["stop", "2"]);
    let begin = Instant::now();
    leader("1", TAKEOVER).await;
    println!("after a stop it took {:.1} s", begin.elapsed().as_secs_f64());
}
