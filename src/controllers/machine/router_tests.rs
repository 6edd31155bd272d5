//! How the machine is made that is its farm's router, and what follows its addresses.

use std::collections::BTreeSet;

use super::drift::correct;
use super::recipe::{Ingredients, Recipe, Refusal, recipe};
use super::situation::{Plan, Step, View, Want};
use crate::api::site::Site;
use crate::api::{
    HypervisorNetwork, Phase, PinnedFlavour, PinnedImage, PinnedKernel, RouterRole, RouterTemplate, UserData,
    VirtualMachine,
};
use crate::controllers::observed::Observed;
use crate::controllers::placement::testing::{farm, host, machine, running_on};
use crate::libvirt::RuleSet;
use crate::network::{Hold, RouterSeat};

const UID: &str = "00000000-0000-0000-0000-0000000000aa";

fn router(public_ips: &[&str]) -> VirtualMachine {
    let mut router = running_on(machine("farm-a-router-0", 0), "service-1", 1, "256Mi");
    router.metadata.uid = Some(UID.into());
    let status = router.status.as_mut().unwrap();
    status.address = Some("172.16.1.1".into());
    status.router =
        Some(RouterRole { seat: RouterSeat::Only, public_ips: public_ips.iter().map(ToString::to_string).collect() });
    let flavour = PinnedFlavour { name: "router".into(), ..status.flavour.clone().unwrap() };
    let kernel = PinnedKernel { kernel: "img-router".into(), initrd: None, cmdline: String::new() };
    status.flavour = Some(flavour);
    status.image =
        Some(PinnedImage { name: "router".into(), revision: "one".into(), disk: None, kernel: Some(kernel) });
    router
}

fn made_of(machine: &VirtualMachine, public_bridge: Option<&str>) -> Result<Recipe, Refusal> {
    let mut host = host("service-1", 8, "8Gi", "80Gi");
    host.spec.networks.public = public_bridge.map(|bridge| HypervisorNetwork { bridge: bridge.into() });
    let (farm, site) = (farm("farm-a"), Site::default());
    recipe(&Ingredients { machine, farm: &farm, hypervisor: &host, site: &site, user_data: None, cluster: "c" }, None)
}

fn reason(machine: &VirtualMachine) -> String {
    made_of(machine, Some("br-public")).unwrap_err().reason
}

#[test]
fn a_router_has_a_card_on_either_side_and_no_seed() {
    let made = made_of(&router(&["198.51.100.20", "198.51.100.21"]), Some("br-public")).unwrap();
    assert!(made.seed.is_none() && made.volumes.is_empty());
    let holds: Vec<_> = made.domain.nics.iter().map(|nic| nic.hold.clone()).collect();
    let elastic = BTreeSet::from(["198.51.100.21".parse().unwrap()]);
    let public = Hold::Public { own: "198.51.100.20".parse().unwrap(), elastic };
    assert_eq!(holds, [Hold::Router("172.16.1.1".parse().unwrap()), public]);
    assert_eq!(made_of(&router(&[]), None).unwrap().domain.nics.len(), 1, "without a public address it has one card");
    assert_eq!(made_of(&router(&["198.51.100.20"]), None).unwrap_err().reason, "NoPublicNetwork");
}

#[test]
fn what_a_tenant_wrote_makes_no_router() {
    let mut other = router(&["198.51.100.20"]);
    other.spec.user_data = Some(UserData { inline: Some("#!/bin/sh".into()), ..UserData::default() });
    other.spec.ssh_keys = vec!["ssh-ed25519 AAAA".into()];
    assert!(made_of(&other, Some("br-public")).unwrap().seed.is_none(), "nothing of it reaches the guest");
    let changed = |change: &dyn Fn(&mut crate::api::VirtualMachineStatus)| {
        let mut machine = router(&["198.51.100.20"]);
        change(machine.status.as_mut().unwrap());
        reason(&machine)
    };
    assert_eq!(changed(&|status| status.image.as_mut().unwrap().name = "mine".into()), "NotTheSitesRouter");
    assert_eq!(changed(&|status| status.flavour.as_mut().unwrap().name = "m1.large".into()), "NotTheSitesRouter");
    assert_eq!(changed(&|status| status.image.as_mut().unwrap().kernel = None), "NotTheSitesRouter");
    assert_eq!(changed(&|status| status.address = Some("172.16.1.9".into())), "WrongAddress");
    assert_eq!(
        changed(&|status| status.router = Some(RouterRole { seat: RouterSeat::Only, public_ips: vec!["x".into()] })),
        "WrongAddress"
    );
    let mut plain = router(&[]);
    plain.status.as_mut().unwrap().router = None;
    assert_eq!(reason(&plain), "WrongAddress", "the gateway's address is no machine's");
}

#[test]
fn machines_of_a_farm_with_a_router_are_told_of_it() {
    let mut member = running_on(machine("login", 0), "service-1", 1, "256Mi");
    member.metadata.uid = Some(UID.into());
    let (mut with_router, host) = (farm("farm-a"), host("service-1", 8, "8Gi", "80Gi"));
    let site = Site { dns: vec!["192.0.2.53".parse().unwrap()], ..Site::default() };
    let network_of = |farm: &crate::api::VirtualFarm| {
        let from =
            Ingredients { machine: &member, farm, hypervisor: &host, site: &site, user_data: None, cluster: "c" };
        String::from_utf8_lossy(&recipe(&from, None).unwrap().seed.unwrap().content.image().unwrap()).into_owned()
    };
    let alone = network_of(&with_router);
    assert!(alone.contains("192.0.2.53") && !alone.contains("0.0.0.0/0"), "{alone}");
    with_router.spec.router = Some(RouterTemplate::default());
    let routed = network_of(&with_router);
    assert!(routed.contains("via: 172.16.1.1") && !routed.contains("192.0.2.53"), "{routed}");
}

/// A router that runs as `before` was made, and is to be as `after`.
fn moving(before: &Recipe, after: Recipe) -> Plan {
    let domain = super::tests::running_as(before);
    let (want, seen): (Want, View) = super::tests::a_machine_that_runs();
    let nics = after.domain.nics.clone();
    let seen = View { domain: Observed::Present(domain), nics, recipe: Ok(after), ..seen };
    correct(Plan::stay(Phase::Running, "AgentConnected", ""), &want, &seen)
}

#[test]
fn the_public_card_follows_the_addresses_and_nobody_is_told_of_drift() {
    let made = |addresses: &[&str]| made_of(&router(addresses), Some("br-public")).unwrap();
    let with_elastic = moving(&made(&["198.51.100.20"]), made(&["198.51.100.20", "198.51.100.21"]));
    let [farm, public] = [RuleSet::Router, RuleSet::Public].map(Step::EnsureFilter);
    assert_eq!(with_elastic.repairs, [farm, public, Step::MendNics, Step::Define]);
    assert_eq!(with_elastic.drifts, []);
    let same = moving(&made(&["198.51.100.20"]), made(&["198.51.100.20"]));
    assert_eq!((same.repairs, same.drifts), (vec![], vec![]));
    let one = made(&["198.51.100.20"]).domain.content_hash();
    assert_eq!(made(&["198.51.100.20", "198.51.100.21"]).domain.content_hash(), one, "no restart is due");
    assert_ne!(made(&["198.51.100.22"]).domain.content_hash(), one, "another address of its own is another card");
}
