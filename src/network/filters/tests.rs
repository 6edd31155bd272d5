//! Laws of the sets of rules, and the filters as libvirt takes them.

use super::rules::*;
use super::*;
use crate::xml::tests::parse;
use uuid::Uuid;

fn accepted(rules: &[Rule], direction: Direction) -> impl Iterator<Item = Frames> {
    rules
        .iter()
        .filter(move |rule| rule.action == Action::Accept && rule.direction == direction)
        .filter_map(|rule| rule.frames)
}

#[test]
fn the_last_rule_drops_everything_both_ways() {
    for set in RuleSet::ALL {
        let (last, others) = set.rules().split_last().unwrap();
        assert_eq!(*last, NOTHING_ELSE);
        assert!(others.iter().all(|rule| rule.frames.is_some() && rule.priority < last.priority));
        assert!(others.is_sorted_by_key(|rule| (rule.direction == Direction::In, rule.priority)), "{set:?}");
    }
}

#[test]
fn a_forged_sender_is_judged_before_anything_passes() {
    for set in RuleSet::ALL {
        let first = set.rules().iter().min_by_key(|rule| rule.priority).unwrap();
        assert_eq!(*first, FORGED_SENDER);
    }
}

#[test]
fn whatever_passes_comes_from_the_farm_or_goes_to_it_or_to_all() {
    for set in [RuleSet::Machine, RuleSet::Router] {
        for frames in accepted(set.rules(), Direction::In) {
            assert!(frames.fields.starts_with(&[FROM_FARM, FROM_FARM_MASK]), "{frames:?}");
        }
        for frames in accepted(set.rules(), Direction::Out) {
            let to_farm = frames.fields.starts_with(&[TO_FARM, TO_FARM_MASK]);
            assert!(to_farm || frames.fields.starts_with(&[BROADCAST]), "{frames:?}");
            assert!(frames.protocol != Protocol::Mac && !frames.other_than, "{frames:?}");
        }
        assert!(accepted(set.rules(), Direction::Both).next().is_none());
    }
}

#[test]
fn arp_speaks_only_for_its_sender() {
    for set in RuleSet::ALL {
        for frames in accepted(set.rules(), Direction::Out).filter(|frames| frames.protocol == Protocol::Arp) {
            assert!(frames.fields.contains(&OWN_ARP_MAC), "{frames:?}");
            let probe = frames.fields.contains(&("arpsrcipaddr", "0.0.0.0"));
            let own = frames.fields.contains(&OWN_ARP_IP) || frames.fields.contains(&ANY_OWN_ARP_IP);
            assert!(own || probe, "{frames:?}");
        }
    }
}

#[test]
fn a_machine_sends_ip_only_as_itself_and_answers_no_dhcp() {
    for frames in accepted(MACHINE, Direction::Out).filter(|frames| frames.protocol == Protocol::Ip) {
        let question = frames.fields.contains(&("srcipaddr", "0.0.0.0"));
        assert!(frames.fields.contains(&OWN_IP) || question, "{frames:?}");
    }
    let answers = MACHINE.iter().position(|rule| *rule == DHCP_ANSWER).unwrap();
    let ip = MACHINE.iter().position(|rule| *rule == IP_TO_FARM).unwrap();
    assert!(answers < ip);
    assert!(!ROUTER.contains(&DHCP_ANSWER));
}

#[test]
fn in_public_a_router_speaks_as_itself_and_hears_ipv4() {
    for frames in accepted(PUBLIC, Direction::Out).filter(|frames| frames.protocol == Protocol::Ip) {
        assert!(frames.fields.contains(&OWN_IP), "{frames:?}");
    }
    for frames in accepted(PUBLIC, Direction::In) {
        assert!(matches!(frames.fields, [("protocolid", "arp" | "ipv4")]), "{frames:?}");
    }
    let place = |rule| PUBLIC.iter().position(|other| *other == rule).unwrap();
    assert!(place(DHCP_ANSWER) < place(IP_AS_ITSELF) && place(MULTICAST) < place(IP_AS_ITSELF));
}

#[test]
fn a_machine_calls_no_group_by_whatever_mac() {
    let place = |rule| MACHINE.iter().position(|other| *other == rule).unwrap();
    assert!(place(MULTICAST) < place(IP_TO_FARM) && place(MULTICAST) < place(IP_TO_ALL));
}

#[test]
fn a_router_forges_no_machine() {
    let place = |rule| ROUTER.iter().position(|other| *other == rule).unwrap();
    assert!(place(FORGED_MACHINE) < place(ROUTED) && place(FORGED_MACHINE) > place(ROUTER_IP_TO_ALL));
}

#[test]
fn filters_have_their_own_names_and_uuids() {
    let filter = |set: RuleSet| parse(&set.filter_xml().unwrap());
    let uuid = |set: RuleSet| filter(set).find("uuid").unwrap().content().parse::<Uuid>().unwrap();
    assert_ne!(RuleSet::Machine.filter_name(), RuleSet::Router.filter_name());
    assert_ne!(uuid(RuleSet::Machine), uuid(RuleSet::Router));
    assert_eq!(filter(RuleSet::Machine).get("name"), Some(RuleSet::Machine.filter_name().as_str()));
}

#[test]
fn the_machine_filter() {
    insta::assert_snapshot!(RuleSet::Machine.filter_xml().unwrap());
}

#[test]
fn the_router_filter() {
    insta::assert_snapshot!(RuleSet::Router.filter_xml().unwrap());
}

#[test]
fn the_public_filter() {
    insta::assert_snapshot!(RuleSet::Public.filter_xml().unwrap());
}
