//! The way to the API server is disturbed for a while, or a second operator believes that it leads.

use std::collections::BTreeMap;
use std::time::Duration;

use cascina::libvirt::DomainRun;
use serde_json::json;

use crate::datacentre::Datacentre;
use crate::drive::{Act, drive, drive_with_rival};
use crate::flows::{FLOWS, act, empty, with_farm};
use crate::state::{essence, faults_of};
use crate::stops::differences;

/// The disturbed drive comes to what the undisturbed one comes to.
fn ends_alike(what: &str, start: &Datacentre, plain: &[Act], disturbed: &[Act]) {
    let expected = drive(start, plain, None);
    let driven = drive(start, disturbed, None);
    println!("{what}: {:.1} s, undisturbed {:.1} s", driven.took.as_secs_f64(), expected.took.as_secs_f64());
    assert_eq!(faults_of(&driven.site), Vec::<String>::new(), "{what}");
    assert_eq!(differences(&essence(&expected.site), &essence(&driven.site)), Vec::<String>::new(), "{what}");
}

/// What runs, and since when.
fn running(site: &Datacentre) -> BTreeMap<String, String> {
    let domains =
        site.world.hosts.iter().flat_map(|(host, state)| state.domains.values().map(move |domain| (host, domain)));
    let running = domains.filter(|(_, domain)| domain.run == DomainRun::Running);
    running.map(|(host, domain)| (domain.spec.title.clone(), format!("{host} {:?}", domain.started))).collect()
}

#[test]
fn old_news_delays_and_spoils_nothing() {
    let plain = [act(0, |live, _| live.create_farm(3)), act(60, |live, _| live.edit_group("image", &json!("two")))];
    let disturbed = [
        act(0, |live, faults| {
            faults.disturb(|way| way.lag = Some(Duration::from_secs(8)));
            live.create_farm(3);
        }),
        act(60, |live, _| live.edit_group("image", &json!("two"))),
        act(300, |_, faults| faults.disturb(|way| way.lag = None)),
    ];
    ends_alike("news 8 s old", empty(), &plain, &disturbed);
}

#[test]
fn an_operator_that_starts_on_old_lists_spoils_nothing() {
    let plain = [act(0, |live, _| live.delete("virtualmachines", "tenant", "farm-nodes-1"))];
    let disturbed = [
        act(0, |live, faults| {
            faults.disturb(|way| way.lag = Some(Duration::from_secs(20)));
            live.delete("virtualmachines", "tenant", "farm-nodes-1");
        }),
        act(5, |_, faults| faults.disturb(|way| way.expiries += 1)),
        act(120, |_, faults| faults.disturb(|way| way.lag = None)),
    ];
    ends_alike("lists 20 s old", with_farm(), &plain, &disturbed);
}

#[test]
fn events_that_are_missed_are_found_and_those_told_twice_do_no_harm() {
    let plain = [act(0, |live, _| live.edit_group("image", &json!("two")))];
    let disturbed = [
        act(0, |live, faults| {
            faults.disturb(|way| way.deaf = true);
            live.edit_group("image", &json!("two"));
        }),
        act(60, |_, faults| {
            faults.disturb(|way| {
                way.deaf = false;
                way.replayed = 200;
                way.expiries += 1;
            });
        }),
        act(3, |_, faults| faults.disturb(|way| way.expiries += 1)),
    ];
    ends_alike("events missed and told twice", with_farm(), &plain, &disturbed);
}

#[test]
fn ten_minutes_without_the_api_server_touch_no_machine() {
    let start = with_farm();
    let driven = drive(
        start,
        &[
            act(0, |_, faults| faults.disturb(|way| way.away = true)),
            act(600, |_, faults| faults.disturb(|way| way.away = false)),
            act(120, |_, _| ()),
        ],
        None,
    );
    assert_eq!(running(&driven.site), running(start));
    assert_eq!(faults_of(&driven.site), Vec::<String>::new());
    assert_eq!(differences(&essence(start), &essence(&driven.site)), Vec::<String>::new());
    let wrote: Vec<_> = driven.by_call.keys().filter(|call| is_write_to_host(&call.0)).collect();
    assert!(wrote.is_empty(), "hosts were changed: {wrote:?}");
}

/// Each start of an operator has the filters' rules renewed, which changes none that are of its version.
fn is_write_to_host(call: &str) -> bool {
    let reads = ["libvirt survey", "libvirt domain", "libvirt agent_answers", "libvirt renew_filters"];
    call.starts_with("libvirt") && !reads.contains(&call)
}

#[test]
fn a_list_that_is_empty_by_mistake_deletes_and_makes_nothing() {
    let start = with_farm();
    // All watches end and a list comes out empty; three minutes later the truth is listed.
    let at_last = act(180, |_, faults| {
        faults.disturb(|way| {
            way.empty.clear();
            way.expiries += 1;
        });
    });
    let mistakes = [
        ("virtualmachines", act(0, |_, faults| faults.list_nothing("virtualmachines"))),
        ("virtualfarms", act(0, |_, faults| faults.list_nothing("virtualfarms"))),
        ("hypervisors", act(0, |_, faults| faults.list_nothing("hypervisors"))),
        ("images", act(0, |_, faults| faults.list_nothing("images"))),
        ("flavours", act(0, |_, faults| faults.list_nothing("flavours"))),
    ];
    for (plural, mistake) in mistakes {
        let acts = [act(20, |_, _| ()), mistake, at_last];
        let driven = drive(start, &acts, None);
        assert_eq!(running(&driven.site), running(start), "{plural}");
        assert_eq!(faults_of(&driven.site), Vec::<String>::new(), "{plural}");
        assert_eq!(differences(&essence(start), &essence(&driven.site)), Vec::<String>::new(), "{plural}");
        let wrote: Vec<_> = driven.by_call.keys().filter(|call| is_write_to_host(&call.0)).collect();
        // Copies of images that no machine needs are only copies: they go and come back.
        let copies = ["libvirt delete_volume", "libvirt upload_volume"];
        let wrote: Vec<_> =
            wrote.into_iter().filter(|call| plural != "images" || !copies.contains(&call.0.as_str())).collect();
        assert!(wrote.is_empty(), "{plural}: hosts were changed: {wrote:?}");
    }
}

#[test]
fn two_operators_that_both_believe_to_lead_make_nothing_twice() {
    for flow in FLOWS {
        let expected = drive((flow.start)(), flow.acts, None);
        let driven = drive_with_rival((flow.start)(), flow.acts);
        println!("{}: {:.1} s, alone {:.1} s", flow.name, driven.took.as_secs_f64(), expected.took.as_secs_f64());
        assert_eq!(faults_of(&driven.site), Vec::<String>::new(), "{}", flow.name);
        assert_eq!(
            differences(&essence(&expected.site), &essence(&driven.site)),
            Vec::<String>::new(),
            "{}",
            flow.name
        );
    }
}
