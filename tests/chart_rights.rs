//! Rights that the chart gives the operator, held against what it really asked the API server for.
//!
//! The API server of a box writes an audit log. Run this after everything else has run:
//! `cargo test --test chart_rights -- --nocapture`; with `CASCINA_RIGHTS=strict` a right that nobody used is a failure.

#[path = "support/cluster.rs"]
mod support;
#[path = "support/turn.rs"]
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use support::{cluster, documents, file};

const OPERATOR: &str = "system:serviceaccount:cascina-system:cascina";

/// Verb, then GROUP/RESOURCE[/SUBRESOURCE].
type Right = (String, String);

/// Verbs that are never asked for: the API server looks them up when it judges another request.
const LOOKED_UP: [&str; 2] = ["bind", "operate"];

/// What the chart grants and is asked for.
fn granted(rendered: &[Value]) -> BTreeSet<Right> {
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for role in rendered.iter().filter(|object| object["metadata"]["name"] == "cascina-operator") {
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    for verb in words(&rule["verbs"]).into_iter().filter(|verb| !LOOKED_UP.contains(&verb.as_str())) {
                        rights.insert((verb, format!("{group}/{resource}")));
                    }
                }
            }
        }
    }
    rights
}

/// What the operator asked for, how often, and what of it was forbidden.
fn asked(log: &Path) -> (BTreeMap<Right, u64>, BTreeSet<String>) {
    let (mut used, mut forbidden) = (BTreeMap::new(), BTreeSet::new());
    for line in BufReader::new(std::fs::File::open(log).unwrap()).lines() {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<Value>(&line.unwrap()) else { continue };
        let of = &event["objectRef"];
        let complete = event["stage"] == "ResponseComplete" || event["stage"] == "ResponseStarted";
        if event["user"]["username"] != OPERATOR || !complete || of.is_null() {
            continue;
        }
        let word = |name: &str| of[name].as_str().unwrap_or_default();
        let mut what = format!("{}/{}", word("apiGroup"), word("resource"));
        if !word("subresource").is_empty() {
            what = format!("{what}/{}", word("subresource"));
        }
        let verb = event["verb"].as_str().unwrap_or_default().to_owned();
        if event["annotations"]["authorization.k8s.io/decision"] == "forbid" {
            // User data that the operator may not read is a reason on the machine: asking is how it finds out. In its own
            // namespace it has to read the credentials of hosts.
            let user_data = verb == "get" && ["/secrets", "/configmaps"].contains(&what.as_str());
            if !user_data || word("namespace") == "cascina-system" {
                forbidden.insert(format!("{verb} {what} {}/{}", word("namespace"), word("name")));
            }
        } else {
            *used.entry((verb, what)).or_default() += 1;
        }
    }
    (used, forbidden)
}

#[tokio::test]
#[ignore = "needs a box"]
async fn rights_that_are_granted_are_used() {
    let cluster = cluster().await;
    let chart = file("charts/cascina");
    let granted = granted(&documents(&cluster.stdout("helm", &["template", "cascina", chart.to_str().unwrap()])));
    let log = cluster.turn.state.join("log/audit.log");
    assert!(log.exists(), "this box's API server writes no audit log: {}", log.display());
    let (used, forbidden) = asked(&log);
    assert!(!used.is_empty(), "the operator asked for nothing: was it running?");
    println!("{:<8} {:<60} {:>8}", "VERB", "RESOURCE", "REQUESTS");
    let mut unused = Vec::new();
    for right in &granted {
        let (verb, what) = right;
        let count = used.get(right).copied().unwrap_or_default();
        println!("{verb:<8} {what:<60} {:>8}", if count == 0 { "unused".to_owned() } else { count.to_string() });
        if count == 0 {
            unused.push(format!("{verb} {what}"));
        }
    }
    println!("{} rights granted, {} unused", granted.len(), unused.len());
    assert!(forbidden.is_empty(), "the operator asked for what the chart doesn't grant: {forbidden:#?}");
    if std::env::var("CASCINA_RIGHTS").is_ok_and(|value| value == "strict") {
        assert!(unused.is_empty(), "granted and never used: {unused:#?}");
    }
}

#[test]
fn an_audit_log_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.log");
    let line = |user: &str, verb: &str, resource: &str, decision: &str| {
        format!(
            r#"{{"stage":"ResponseComplete","verb":"{verb}","user":{{"username":"{user}"}},"objectRef":{{"apiGroup":"cascina.dev","resource":"{resource}","subresource":"status","namespace":"n","name":"x"}},"annotations":{{"authorization.k8s.io/decision":"{decision}"}}}}"#
        )
    };
    let lines = [
        line(OPERATOR, "patch", "virtualmachines", "allow"),
        line(OPERATOR, "patch", "virtualmachines", "allow"),
        line(OPERATOR, "delete", "images", "forbid"),
        line("admin", "delete", "flavours", "allow"),
        "{\"stage\":".to_owned(),
    ];
    std::fs::write(&log, lines.join("\n")).unwrap();
    let (used, forbidden) = asked(&log);
    assert_eq!(used, BTreeMap::from([(("patch".to_owned(), "cascina.dev/virtualmachines/status".to_owned()), 2)]));
    assert_eq!(forbidden.into_iter().collect::<Vec<_>>(), ["delete cascina.dev/images/status n/x"]);
}

#[test]
fn a_table_of_rights_comes_from_roles() {
    let role: Value = serde_yaml::from_str(
        "{metadata: {name: cascina-operator}, rules: [{apiGroups: [a], resources: [b, c], verbs: [get, bind]}]}",
    )
    .unwrap();
    let expected = [("get".to_owned(), "a/b".to_owned()), ("get".to_owned(), "a/c".to_owned())];
    assert_eq!(granted(&[role]), BTreeSet::from(expected));
}
