//! What the operator tells: events to people, metrics to Prometheus, health to its keeper, logs to whoever reads them.

use std::collections::BTreeMap;

use cascina::api::{Phase, VirtualMachine};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use serde_json::{Value, json};

use crate::support::libvirt::host_of;
use crate::support::{BOOT, Finally, SMALL, SOON, TheBox, condition, is_ready, reason, the_box, the_box_alone};

/// The number before ` s` in a note: "placed on worker-1 after 0.3 s".
fn seconds(note: &str) -> f64 {
    let words: Vec<_> = note.split([' ', ',']).collect();
    let at = words.iter().position(|word| *word == "s").unwrap_or_else(|| panic!("no seconds: {note}"));
    words[at - 1].parse().unwrap_or_else(|_| panic!("no seconds: {note}"))
}

#[tokio::test]
#[ignore = "needs a box"]
async fn events_tell_the_life_of_a_machine_and_what_it_waited_for() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("story").await;
    let image = format!("{}-image", tenant.namespace);
    tenant.given_farm("farm", json!({})).await;
    tenant.asks_for("guest", json!({"image": image})).await;
    tenant.until("guest", "waits", SOON, |machine| reason(machine, "Scheduled").0 == "ImageNotFound").await;
    the_box
        .eventually("a wait that lasts to be told", SOON, async || {
            let events = the_box.events(&tenant.namespace, "guest").await;
            if events.iter().any(|(reason, _)| reason == "FailedScheduling") { Ok(()) } else { Err("no".into()) }
        })
        .await;
    let known: cascina::api::Image = the_box.all().get("appliance").await.unwrap();
    tenant.makes("Image", json!({"metadata": {"name": image}, "spec": known.spec})).await;
    let ready = tenant.ready("guest").await;

    let told = the_box
        .eventually("the event Ready", SOON, async || {
            let events = the_box.events(&tenant.namespace, "guest").await;
            let complete = events.iter().any(|(reason, _)| reason == "Ready");
            if complete { Ok(events) } else { Err(format!("{events:?}")) }
        })
        .await;
    let told: Vec<_> = told.iter().map(|(reason, note)| (reason.as_str(), note.as_str())).collect();
    println!("{told:#?}");
    let position = |wanted: &str| {
        told.iter().position(|(reason, _)| *reason == wanted).unwrap_or_else(|| panic!("no {wanted}: {told:?}"))
    };
    let chapters = ["FailedScheduling", "Scheduled", "Started", "Ready"].map(position);
    assert!(chapters.is_sorted(), "in this order: {told:?}");
    // A survey from before the start knows nothing of what was made for it: that is no drift.
    assert!(!told.iter().any(|(reason, _)| *reason == "SeedDeleted"), "nobody changed anything by hand: {told:?}");
    assert!(told[chapters[0]].1.contains(&image), "what it waited for: {}", told[chapters[0]].1);
    assert!(
        told[chapters[1]].1.contains(&host_of(&ready)) && seconds(told[chapters[1]].1) > 1.0,
        "{}",
        told[chapters[1]].1
    );
    assert!(seconds(told[chapters[2]].1) < 30.0, "{}", told[chapters[2]].1);
    let boot = seconds(told[chapters[3]].1);
    let shown = f64::from(ready.status.as_ref().unwrap().boot_seconds.unwrap());
    assert!((boot - shown).abs() <= 1.5, "the event says {boot} s, the status {shown} s");
    // The status tells the same story with its times.
    let phases: Vec<_> = ready.status.unwrap().phase_transitions;
    assert!(phases.is_sorted_by_key(|transition| transition.time));
    let names: Vec<_> = phases.iter().map(|transition| transition.phase).collect();
    assert_eq!(names.last(), Some(&Phase::Running));
    assert!(names.contains(&Phase::Pending) && names.contains(&Phase::Booting), "{names:?}");
    assert!(condition(&tenant.machines().get("guest").await.unwrap(), "AgentConnected").unwrap().status == "True");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_normal_start_tells_no_warning() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("quiet").await;
    let group = json!({"name": "node", "replicas": 2, "flavour": SMALL, "image": "appliance"});
    tenant.given_farm("farm", json!({"router": {}, "groups": [group]})).await;
    the_box.until(&tenant.farms(), "farm", "Ready", BOOT, is_ready).await;
    let events: Api<Event> = Api::namespaced(the_box.cluster.client.clone(), &tenant.namespace);
    let events = events.list(&Default::default()).await.unwrap().items;
    let warnings: Vec<_> = events.iter().filter(|event| event.type_.as_deref() == Some("Warning")).collect();
    assert!(events.len() > 5 && warnings.is_empty(), "{warnings:#?}");
}

async fn phases_in_reality(the_box: &TheBox) -> BTreeMap<String, usize> {
    let machines: Vec<VirtualMachine> = the_box.all().list(&Default::default()).await.unwrap().items;
    let mut phases = BTreeMap::new();
    for machine in machines {
        let phase = machine.status.and_then(|status| status.phase).unwrap_or_default();
        *phases.entry(format!("{phase:?}")).or_default() += 1;
    }
    phases
}

#[tokio::test]
#[ignore = "needs a box"]
async fn metrics_count_what_there_is_and_what_was_done() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("metrics").await;
    let before = the_box.metrics();
    let machine = tenant.given_machine("guest", json!({})).await;
    tenant.asks_for("waits", json!({"flavour": "e2e-no-such-flavour"})).await;
    tenant.until("waits", "is Pending", SOON, |machine| reason(machine, "Ready").0 == "FlavourNotFound").await;

    let after = the_box
        .eventually("the metrics to agree with the objects", SOON, async || {
            let (real, metrics) = (phases_in_reality(&the_box).await, the_box.metrics());
            let told: BTreeMap<_, _> = metrics
                .values("cascina_machines", "phase")
                .into_iter()
                .map(|phase| (phase.clone(), metrics.sum("cascina_machines", &[("phase", &phase)]) as usize))
                .filter(|(_, count)| *count > 0)
                .collect();
            if told == real { Ok(metrics) } else { Err(format!("metrics {told:?}, objects {real:?}")) }
        })
        .await;
    assert_eq!(after.values("cascina_machines", "phase").len(), 10, "every phase is there, also with none in it");
    let grew = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    let host = host_of(&machine);
    for operation in ["define", "start", "write_volume"] {
        let labels = [("host", host.as_str()), ("operation", operation)];
        assert_eq!(grew("cascina_libvirt_call_duration_seconds_count", &labels), 1.0, "one {operation}");
        assert!(grew("cascina_libvirt_call_duration_seconds_sum", &labels) > 0.0);
    }
    for phase in ["Scheduled", "Provisioning", "Booting", "Running"] {
        let labels = [("phase", phase)];
        assert_eq!(grew("cascina_machine_phase_transition_seconds_count", &labels), 1.0, "{phase}");
    }
    assert!(grew("cascina_reconcile_duration_seconds_count", &[("kind", "VirtualMachine")]) >= 2.0);
    assert!(grew("cascina_kubernetes_writes_total", &[("kind", "VirtualMachine"), ("part", "status")]) >= 2.0);
    assert_eq!(after.sum("cascina_leader", &[]), 1.0);
    for page in ["/livez", "/readyz"] {
        assert_eq!(the_box.page(page, "1").trim(), "ok", "{page}");
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_host_that_goes_away_shows_in_the_metrics_of_errors() {
    let the_box = the_box_alone().await;
    let errors = |operation: &str| {
        let labels = [("host", "service-2"), ("operation", operation)];
        the_box.metrics().sum("cascina_libvirt_call_errors_total", &labels)
    };
    let before = errors("survey");
    let _started = Finally(|| drop(the_box.try_script("host", &["start", "service-2"])));
    the_box.script("host", &["stop", "service-2"]);
    the_box
        .eventually("errors of that host to be counted", BOOT, async || {
            if errors("survey") > before { Ok(()) } else { Err(the_box.page("/metrics", "1")) }
        })
        .await;
    let metrics = the_box.metrics();
    assert!(!metrics.values("cascina_libvirt_call_errors_total", "reason").is_empty(), "with a reason");
    assert_eq!(the_box.page("/livez", "1").trim(), "ok", "that is no reason to restart the operator");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn logs_are_json_on_request_and_name_their_objects() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("logs").await;
    tenant.given_farm("farm", json!({})).await;
    let log = the_box.state.join("log/operator-1.log");
    let _text_again = Finally(|| {
        drop(the_box.try_script("operator", &["stop"]));
        drop(the_box.try_script("operator", &["start"]));
    });
    the_box.script("operator", &["stop"]);
    let old = std::fs::metadata(&log).unwrap().len();
    let started = the_box
        .cluster
        .turn
        .script("operator")
        .arg("start")
        .envs([("LOG_FORMAT", "json"), ("RUST_LOG", "info,cascina=debug")])
        .status()
        .unwrap();
    assert!(started.success());
    tenant.given_machine("guest", json!({"readiness": "None"})).await;
    the_box.script("operator", &["stop"]);

    let text = std::fs::read(&log).unwrap();
    let text = std::str::from_utf8(&text[usize::try_from(old).unwrap()..]).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}")))
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].is_string(), "{field} is missing: {line}");
        }
    }
    let object = format!("{}/guest", tenant.namespace);
    assert!(text.contains(&object) || text.contains("\"machine\":\"guest\""), "lines name the object: {text}");
}
