//! The operator dies at a call, before it or after it, and is started again: the same comes of it as if it hadn't.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::drive::{Driven, drive};
use crate::faults::Stop;
use crate::flows::{FLOWS, Flow};
use crate::soak::{share, soaks};
use crate::state::{essence, faults_of};

/// What was wrong after a stop.
struct Trouble {
    stop: Stop,
    at: String,
    what: Vec<String>,
}

#[test]
fn a_stop_at_any_call_changes_nothing_in_the_end() {
    println!("| flow | calls | stops tried | simulated seconds |");
    println!("|---|---|---|---|");
    let mut troubles = Vec::new();
    let (mut calls, mut tried) = (0, 0);
    let only = std::env::var("CASCINA_FLOW").ok();
    for flow in FLOWS.iter().filter(|flow| only.as_ref().is_none_or(|only| flow.name == only)) {
        let clean = drive((flow.start)(), flow.acts, None);
        assert_eq!(faults_of(&clean.site), Vec::<String>::new(), "{}: without any stop", flow.name);
        let stops = stops(clean.calls);
        println!("| {} | {} | {} | {:.1} |", flow.name, clean.calls, stops.len(), clean.took.as_secs_f64());
        (calls, tried) = (calls + clean.calls, tried + stops.len());
        troubles.extend(try_all(flow, &clean, &stops).into_iter().map(|trouble| (flow.name, trouble)));
    }
    println!("| {} flows | {calls} | {tried} | |", FLOWS.len());
    for (flow, Trouble { stop, at, what }) in &troubles {
        println!("{flow}: {stop:?} ({at}):\n    {}", what.join("\n    "));
    }
    assert!(troubles.is_empty(), "{} of {tried} stops end otherwise", troubles.len());
}

/// Before and after every call; in a short run before or after every so-manieth.
fn stops(calls: u64) -> Vec<Stop> {
    let both = (1..=calls).flat_map(|call| [Stop::Before(call), Stop::After(call)]);
    if soaks() { both.collect() } else { share(both.collect(), 200) }
}

fn try_all(flow: &Flow, clean: &Driven, stops: &[Stop]) -> Vec<Trouble> {
    let expected = essence(&clean.site);
    let start = (flow.start)();
    let (next, troubles) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(stop) = stops.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let driven = drive(start, flow.acts, Some(*stop));
                    let mut what = faults_of(&driven.site);
                    what.extend(driven.site.world.violations.refused_starts.clone());
                    what.extend(differences(&expected, &essence(&driven.site)));
                    if !what.is_empty() {
                        let at = driven.died_at.unwrap_or_else(|| "never died".into());
                        troubles.lock().unwrap().push(Trouble { stop: *stop, at, what });
                    }
                }
            });
        }
    });
    troubles.into_inner().unwrap()
}

/// What one state has and the other hasn't, in words.
pub fn differences(expected: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) -> Vec<String> {
    let names = expected.keys().chain(found.keys().filter(|name| !expected.contains_key(*name)));
    let told = names.filter_map(|name| match (expected.get(name), found.get(name)) {
        (Some(_), None) => Some(format!("{name} is missing")),
        (None, Some(_)) => Some(format!("{name} is left over")),
        (Some(one), Some(other)) if one != other => {
            Some(format!("{name}: {} instead of {}", apart(other, one), apart(one, other)))
        }
        _ => None,
    });
    told.collect()
}

/// The fields in which a value differs from another.
fn apart(one: &Value, other: &Value) -> Value {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let differing = one.iter().filter(|(name, value)| other.get(*name) != Some(*value));
            differing
                .map(|(name, value)| (name.clone(), apart(value, other.get(name).unwrap_or(&Value::Null))))
                .collect()
        }
        _ => one.clone(),
    }
}
