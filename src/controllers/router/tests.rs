//! What a router does next, and what it is told, as tables.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};
use proptest::prelude::*;
use serde_json::json;

use super::addresses::Addresses;
use super::desired::{Desired, Ingredients, desired};
use super::memory::Replica;
use super::news::news;
use super::observe::View;
use super::peers::Neighbour;
use super::plan::{Plan, Step, Telling, is_owned_by, machine_name, plan};
use super::status::status;
use super::talk::{Heard, Peer, Working};
use super::testing::{public, router};
use crate::api::conditions::{READY, State, find, stamp};
use crate::api::site::Site;
use crate::api::{ElasticIp, GROUP_LABEL, Phase, RouterRole, RouterTemplate, VRouter, VirtualFarm, VirtualMachine};
use crate::controllers::cache::Key;
use crate::controllers::placement::plan::Wait;
use crate::controllers::placement::testing::{farm, machine};
use crate::network::RouterSeat;
use crate::network::router::{DocumentName, PrivateKey};

/// The keys of RFC 7748, section 6.1: a private one and another's public one.
const OWN_KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const OTHER_KEY: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

const UID: &str = "00000000-0000-0000-0000-0000000000aa";

pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1_000).unwrap()
}

fn site() -> Site {
    let mut site = Site::default();
    site.routers.public = Some(public());
    site.dns = vec!["192.0.2.53".parse().unwrap()];
    site
}

fn the_farm() -> VirtualFarm {
    let mut farm = farm("farm-a");
    farm.metadata.uid = Some("uid-farm".into());
    farm.status.as_mut().unwrap().network = Some("172.16.1.0/24".into());
    farm
}

/// The farm's own router, with its public address.
pub(super) fn the_router() -> VRouter {
    let mut router = router("farm-a", 0);
    router.metadata.owner_references = the_farm().controller_owner_ref(&()).map(|owner| vec![owner]);
    router
}

fn member(name: &str, address: &str, group: Option<&str>) -> Arc<VirtualMachine> {
    let mut member = machine(name, 0);
    member.status.as_mut().unwrap().address = Some(address.into());
    if let Some(group) = group {
        member.labels_mut().insert(GROUP_LABEL.into(), group.into());
    }
    Arc::new(member)
}

fn members() -> Vec<Arc<VirtualMachine>> {
    vec![member("login", "172.16.1.10", None), member("farm-a-workers-0", "172.16.1.2", Some("workers"))]
}

fn given(own: &str) -> Addresses {
    Addresses { own: Some(Ok(own.parse().unwrap())), ..Addresses::default() }
}

fn made_of(router: &VRouter, addresses: &Addresses) -> Result<Desired, Wait> {
    made_among(router, addresses, &members(), &BTreeMap::new())
}

fn made_among(
    router: &VRouter,
    addresses: &Addresses,
    machines: &[Arc<VirtualMachine>],
    neighbours: &BTreeMap<Key, Neighbour>,
) -> Result<Desired, Wait> {
    desired(&Ingredients {
        farm: &the_farm(),
        network: "172.16.1.0/24".parse().unwrap(),
        router,
        machines,
        addresses,
        site: &site(),
        key: Some(&OWN_KEY.parse().unwrap()),
        neighbours,
    })
}

/// A machine that nobody heard yet.
pub(super) fn replica(machine: VirtualMachine) -> Replica {
    Replica { machine: Arc::new(machine), heard: None, silent_since: None }
}

pub(super) fn view(router: VRouter, machine: Option<VirtualMachine>) -> View {
    let addresses = given("198.51.100.20");
    View {
        copies: Vec::new(),
        farm: Some(Arc::new(the_farm())),
        site: Arc::new(site()),
        replicas: machine.into_iter().map(replica).collect(),
        desired: made_of(&router, &addresses),
        addresses,
        router: Arc::new(router),
        consents: Vec::new(),
    }
}

/// The machine that a view makes, at work.
pub(super) fn running() -> VirtualMachine {
    let Some(Step::Create(machine)) = plan(&view(the_router(), None), now()).steps.pop() else {
        panic!("none is made")
    };
    let mut machine = *machine;
    machine.metadata.uid = Some(UID.into());
    let status = machine.status.get_or_insert_default();
    status.router = Some(RouterRole { seat: RouterSeat::Only, public_ips: vec!["198.51.100.20".into()] });
    status.address = Some("172.16.1.1".into());
    status.hypervisor = Some("service-1".into());
    status.phase = Some(Phase::Running);
    status.conditions = stamp(vec![State::yes(READY, "AgentConnected", "")], &[], None, now());
    machine
}

fn changed(change: impl FnOnce(&mut VirtualMachine)) -> Option<VirtualMachine> {
    let mut machine = running();
    change(&mut machine);
    Some(machine)
}

pub(super) fn words(plan: &Plan) -> Vec<String> {
    let word = |step: &Step| match step {
        Step::Create(machine) => format!("create {}", machine.name_any()),
        Step::PutBack(machine) => format!("put back {}", machine.name_any()),
        Step::Appoint(_, role) => format!("appoint {}", role.public_ips.join(" ")),
        Step::Delete(_, why) => format!("delete: {}", why.reason),
    };
    plan.steps.iter().map(word).collect()
}

#[track_caller]
fn does(view: &View, steps: &[&str], waits: Option<&str>) {
    let plan = plan(view, now());
    assert_eq!(words(&plan), steps);
    let wait = plan.wait.or_else(|| plan.seats.into_iter().find_map(|seat| seat.wait));
    assert_eq!(wait.map(|wait| wait.reason), waits);
}

/// What the only machine is told.
fn told(view: &View) -> Option<Telling> {
    plan(view, now()).seats.pop().and_then(|seat| seat.tell)
}

#[test]
fn a_router_is_made_appointed_and_told() {
    does(&view(the_router(), None), &["create farm-a-router-0"], Some("MachineMissing"));
    let bare = changed(|machine| machine.status = None);
    does(&view(the_router(), bare), &["appoint 198.51.100.20"], Some("MachineNotReady"));
    let at_work = view(the_router(), Some(running()));
    does(&at_work, &[], None);
    let telling = told(&at_work).unwrap();
    assert_eq!((telling.host.as_str(), telling.uuid.to_string().as_str()), ("service-1", UID));
    assert_eq!(*telling.documents, at_work.desired.unwrap().router.documents());
}

#[test]
fn what_a_tenant_wrote_into_its_spec_is_put_back() {
    let edited = changed(|machine| {
        machine.spec.flavour = "m1.large".into();
        machine.spec.run_strategy = crate::api::RunStrategy::Halted;
    });
    does(&view(the_router(), edited), &["put back farm-a-router-0"], None);
    let Some(Step::PutBack(back)) = plan(&view(the_router(), changed(|m| m.spec.priority = 3)), now()).steps.pop()
    else {
        panic!("nothing is put back")
    };
    assert_eq!(back.spec, running().spec);
}

#[test]
fn a_machine_that_can_not_be_the_router_makes_way() {
    let other_image = changed(|machine| machine.spec.image = "debian".into());
    does(&view(the_router(), other_image), &["delete: MachineOutdated"], Some("MachineOutdated"));
    let other_address = changed(|machine| machine.status.as_mut().unwrap().address = Some("172.16.1.9".into()));
    does(&view(the_router(), other_address), &["delete: WrongAddress"], Some("WrongAddress"));
    let moved = changed(|m| {
        m.status.as_mut().unwrap().router =
            Some(RouterRole { seat: RouterSeat::Only, public_ips: vec!["198.51.100.21".into()] })
    });
    does(&view(the_router(), moved), &["delete: PublicAddressChanged"], Some("PublicAddressChanged"));
    let leaving = changed(|machine| machine.metadata.deletion_timestamp = Some(Time(now())));
    does(&view(the_router(), leaving), &[], Some("MachineLeaving"));
}

#[test]
fn before_it_has_a_host_its_address_is_merely_corrected() {
    let unplaced = changed(|machine| {
        let status = machine.status.as_mut().unwrap();
        status.hypervisor = None;
        status.router = Some(RouterRole::default());
    });
    does(&view(the_router(), unplaced), &["appoint 198.51.100.20"], None);
}

#[test]
fn an_elastic_address_comes_and_goes_while_it_runs() {
    let mut with_elastic = view(the_router(), Some(running()));
    with_elastic.addresses.elastic = Some(Ok("198.51.100.21".parse().unwrap()));
    does(&with_elastic, &["appoint 198.51.100.20 198.51.100.21"], None);
    let had_it = changed(|machine| {
        let role = machine.status.as_mut().unwrap().router.as_mut().unwrap();
        role.public_ips.push("198.51.100.21".into());
    });
    does(&view(the_router(), had_it), &["appoint 198.51.100.20"], None);
}

#[test]
fn a_silent_router_is_made_anew_after_its_time() {
    let mut silent = view(the_router(), Some(running()));
    silent.replicas[0].silent_since = now().checked_sub(Duration::from_secs(59)).ok();
    does(&silent, &[], None);
    silent.replicas[0].silent_since = now().checked_sub(Duration::from_secs(60)).ok();
    does(&silent, &["delete: RouterSilent"], Some("RouterSilent"));
}

#[test]
fn only_its_farm_makes_a_router() {
    let mut stray = the_router();
    stray.metadata.owner_references = None;
    does(&view(stray, None), &[], Some("NotMadeByFarm"));
    let mut alone = view(the_router(), None);
    alone.farm = None;
    does(&alone, &[], Some("FarmNotFound"));
    let foreign = changed(|machine| {
        machine.metadata.owner_references = None;
        machine.status.as_mut().unwrap().router = None;
        machine.spec.flavour = "another".into();
    });
    does(&view(the_router(), foreign), &[], Some("NameTaken"));
    let restored = changed(|machine| {
        machine.metadata.owner_references = None;
        machine.status = None;
    });
    let planned = plan(&view(the_router(), restored), now());
    assert!(matches!(planned.steps.as_slice(), [Step::PutBack(machine)] if is_owned_by(machine, &the_router())));
}

#[test]
fn a_machine_that_was_appointed_stays_the_routers_whoever_its_metadata_says_owns_it() {
    let disowned = || changed(|machine| machine.metadata.owner_references = None);
    let planned = plan(&view(the_router(), disowned()), now());
    let [Step::PutBack(machine)] = planned.steps.as_slice() else { panic!("{:?}", planned.steps) };
    assert_eq!(machine.metadata.owner_references, running().metadata.owner_references);

    let mut leaving = the_router();
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    let leaves = plan(&view(leaving.clone(), disowned()), now());
    assert!(matches!(leaves.steps.as_slice(), [Step::Delete(..)]) && !leaves.release, "{leaves:?}");
    let mut left = view(leaving, None);
    left.copies = vec!["machine tenant/farm-a-router-0 on service-1".into()];
    let waits = plan(&left, now());
    assert!(!waits.release && waits.wait.unwrap().message.contains("service-1"));
    left.copies.clear();
    assert!(plan(&left, now()).release);
}

#[test]
fn without_a_public_address_it_waits() {
    let mut exhausted = view(the_router(), None);
    exhausted.addresses.own = Some(Err(Wait::new("PublicAddressesExhausted", "all are taken")));
    does(&exhausted, &[], Some("PublicAddressesExhausted"));
    let mut refused = view(the_router(), Some(running()));
    refused.addresses.own = exhausted.addresses.own.clone();
    refused.addresses.kept = "198.51.100.20".parse().ok();
    does(&refused, &[], None);
    assert!(told(&refused).is_some(), "one that has an address goes on with it");
    exhausted.addresses.own = None;
    does(&exhausted, &["create farm-a-router-0"], Some("MachineMissing"));
}

#[test]
fn it_goes_with_its_machine_and_not_before() {
    let mut leaving = the_router();
    leaving.metadata.deletion_timestamp = Some(Time(now()));
    does(&view(leaving.clone(), Some(running())), &["delete: Deleting"], Some("MachinePresent"));
    let going = changed(|machine| machine.metadata.deletion_timestamp = Some(Time(now())));
    does(&view(leaving.clone(), going), &[], Some("MachinePresent"));
    let gone = view(leaving, None);
    assert!(plan(&gone, now()).release);
}

fn reasons(view: &View, heard: Option<&Heard>) -> Vec<String> {
    let told = status(view, &plan(view, now()), &[heard.cloned()], now());
    told.conditions.iter().map(|one| format!("{}={} {}", one.type_, one.status, one.reason)).collect()
}

#[test]
fn it_says_that_it_knows_nobody_to_ask_about_names_outside() {
    let condition = |view: &View| {
        let told = status(view, &plan(view, now()), &[Some(Heard::Nothing)], now());
        let found = find(&told.conditions, "NamesOutside").cloned();
        found.map(|condition| (condition.status, condition.reason))
    };
    let mut view = view(the_router(), Some(running()));
    assert_eq!(condition(&view), None, "it asks the site's servers");
    view.desired.as_mut().unwrap().router.dns.clear();
    assert_eq!(condition(&view), Some(("False".to_owned(), "NoDnsServer".to_owned())));
    view.desired.as_mut().unwrap().router.public = None;
    assert_eq!(condition(&view), None, "without a way out nobody answers anyway");
}

#[test]
fn it_says_what_it_works_by() {
    let at_work = view(the_router(), Some(running()));
    let hash = told(&at_work).unwrap().documents.hash();
    let works = Heard::InForce(Working { hash, leads: None, peers: BTreeMap::new() });
    assert_eq!(
        reasons(&at_work, Some(&works)),
        [
            "Ready=True Routing",
            "AddressesReady=True Assigned",
            "ConfigApplied=True Applied",
            "TargetsFound=True AllFound"
        ]
    );
    let told = status(&at_work, &plan(&at_work, now()), &[Some(works.clone())], now());
    let config = told.config.clone().unwrap();
    assert_eq!((config.generation, config.hash, config.time), (1, hash.to_string(), Time(now())));
    assert_eq!(news(None, &told)[0].reason, "ConfigApplied");
    assert_eq!(news(Some(&told), &told), []);
    assert_eq!(reasons(&at_work, Some(&Heard::Nothing))[2], "ConfigApplied=False Pending");
    let mut silent = view(the_router(), Some(running()));
    silent.replicas[0].silent_since = now().checked_sub(Duration::from_secs(5)).ok();
    assert_eq!(reasons(&silent, Some(&Heard::Nothing))[2], "ConfigApplied=Unknown RouterSilent");
    let refused = Heard::Refuses("nftables.conf: syntax error".into());
    assert_eq!(reasons(&at_work, Some(&refused))[..1], ["Ready=False Refused"]);
    assert_eq!(reasons(&at_work, None)[2], "ConfigApplied=False Pending");
}

fn template(template: serde_json::Value) -> VRouter {
    let mut router = the_router();
    router.spec.template = serde_json::from_value::<RouterTemplate>(template).unwrap();
    router
}

#[test]
fn forwards_lead_to_machines_and_those_that_can_not_wait() {
    let router = template(json!({"forwards": [
        {"port": 2222, "targetRef": {"name": "login"}, "targetPort": 22, "sourceRanges": ["192.0.2.77/24"]},
        {"port": 53, "protocol": "UDP", "address": "172.16.1.2"},
        {"port": 80, "targetRef": {"name": "nobody"}},
        {"port": 81, "address": "172.16.2.2"},
        {"port": 82, "address": "172.16.1.1"},
        {"port": 83, "targetRef": {"name": "login"}, "sourceRanges": ["everywhere"]},
    ]}));
    let made = made_of(&router, &given("198.51.100.20")).unwrap();
    let nftables = made.router.documents().content(DocumentName::Nftables).to_owned();
    for part in ["2222", "172.16.1.10", "192.0.2.0/24", "forward-udp-53"] {
        assert!(nftables.contains(part), "{part} is missing in\n{nftables}");
    }
    let waits: Vec<_> = made.waits.iter().map(|wait| (wait.reason, wait.message.as_str())).collect();
    assert_eq!(
        waits,
        [
            ("TargetNotFound", "forward tcp/80: no machine nobody has an address in this farm yet"),
            (
                "TargetOutsideFarm",
                "forward tcp/81: 172.16.2.2 is no machine's address in the farm's network 172.16.1.0/24"
            ),
            (
                "TargetOutsideFarm",
                "forward tcp/82: 172.16.1.1 is no machine's address in the farm's network 172.16.1.0/24"
            ),
            ("InvalidSource", "forward tcp/83: \"everywhere\" is no IPv4 network"),
        ]
    );
    let alone = made_of(&router, &Addresses::default()).unwrap().router;
    assert!(alone.public.is_none() && alone.forwards.is_empty(), "there is nothing to be reached at");
}

#[test]
fn an_elastic_address_belongs_to_a_machine_that_is_there() {
    let mut router = the_router();
    router.spec.elastic_ip = Some(ElasticIp { target: "login".into(), address: None });
    let mut addresses = given("198.51.100.20");
    addresses.elastic = Some(Ok("198.51.100.21".parse().unwrap()));
    assert_eq!(made_of(&router, &addresses).unwrap().router.elastic.len(), 1);
    router.spec.elastic_ip.as_mut().unwrap().target = "gone".into();
    let made = made_of(&router, &addresses).unwrap();
    assert_eq!((made.router.elastic.len(), made.waits[0].reason), (0, "TargetNotFound"));
}

#[test]
fn networks_of_farms_and_of_the_site_are_denied_whatever_the_farm_says() {
    let router = template(json!({"egress": [{"cidr": "0.0.0.0/0", "action": "Allow"}]}));
    let denied = made_of(&router, &given("198.51.100.20")).unwrap().router.denied;
    for network in ["172.16.0.0/16", "198.18.0.0/15", "10.0.0.0/8"] {
        assert!(denied.contains(&network.parse().unwrap()), "{network}");
    }
    let unreadable = template(json!({"egress": [{"cidr": "somewhere", "action": "Deny"}]}));
    assert_eq!(made_of(&unreadable, &given("198.51.100.20")).unwrap_err().reason, "InvalidEgress");
}

#[test]
fn of_two_machines_with_one_address_it_is_one_of_them() {
    let mut both = members();
    both.push(member("thief", "172.16.1.10", None));
    let made = made_among(&the_router(), &given("198.51.100.20"), &both, &BTreeMap::new());
    let machines = made.unwrap().router.machines;
    let names: Vec<_> = machines.into_values().map(|machine| machine.name.unwrap().to_string()).collect();
    assert_eq!(names, ["farm-a-workers-0", "login"]);
}

#[test]
fn a_machine_of_a_name_that_is_somebody_elses_has_its_address_and_is_told() {
    let named: Vec<_> =
        ["gateway", "11", "ignore"].into_iter().zip(["172.16.1.20", "172.16.1.21", "172.16.1.22"]).collect();
    let machines: Vec<_> = named.iter().map(|(name, address)| member(name, address, None)).collect();
    let made = made_among(&the_router(), &given("198.51.100.20"), &machines, &BTreeMap::new()).unwrap();
    let documents = made.router.documents();
    for (_, address) in &named {
        assert!(documents.content(DocumentName::Reservations).contains(&format!(",{address}\n")), "{address}");
    }
    let hosts = documents.content(DocumentName::Hosts);
    assert!(hosts.contains("172.16.1.22 ignore.") && !hosts.contains("172.16.1.20") && !hosts.contains("172.16.1.21"));
    let told: Vec<_> =
        made.waits.iter().filter(|wait| wait.reason == "InvalidName").map(|wait| &wait.message).collect();
    assert!(told.len() == 2 && told[0].contains("machine 11 ") && told[1].contains("machine gateway "), "{told:?}");
}

#[test]
fn a_machine_whose_name_is_too_long_below_its_farms_domain_has_its_address_and_is_told() {
    let mut farm = the_farm();
    let domain = ["d".repeat(63), "d".repeat(63), "d".repeat(62)].join(".");
    farm.spec.network = serde_json::from_value(json!({"domain": domain})).unwrap();
    let [fits, long] = [62, 63].map(|length| "m".repeat(length));
    let made = desired(&Ingredients {
        farm: &farm,
        network: "172.16.1.0/24".parse().unwrap(),
        router: &the_router(),
        machines: &[member(&fits, "172.16.1.20", None), member(&long, "172.16.1.21", None)],
        addresses: &given("198.51.100.20"),
        site: &site(),
        key: None,
        neighbours: &BTreeMap::new(),
    })
    .unwrap();
    let names: Vec<_> = made.router.machines.values().map(|machine| machine.name.is_some()).collect();
    assert_eq!(names, [true, false]);
    let told: Vec<_> = made.waits.iter().filter(|wait| wait.reason == "InvalidName").collect();
    assert!(told.len() == 1 && told[0].message.contains("253 characters"), "{told:?}");
}

fn peers(peers: serde_json::Value) -> VRouter {
    template(json!({"vpn": {"peers": peers}}))
}

fn far(name: &str, networks: &[&str]) -> serde_json::Value {
    json!({"name": name, "publicKey": OTHER_KEY, "endpoint": "203.0.113.5:51820", "networks": networks})
}

/// What the router is told of tunnels, and what of them can't be had.
fn tunnels_to(router: &VRouter, neighbours: &BTreeMap<Key, Neighbour>) -> (String, Vec<&'static str>) {
    let made = made_among(router, &given("198.51.100.20"), &members(), neighbours).unwrap();
    let wireguard = made.router.documents().content(DocumentName::Wireguard).to_owned();
    (wireguard, made.peer_waits.iter().map(|wait| wait.reason).collect())
}

#[test]
fn a_tunnel_leads_to_a_farm_of_another_cloud() {
    let (wireguard, waits) = tunnels_to(&peers(json!([far("far", &["172.20.3.7/24"])])), &BTreeMap::new());
    for part in [OWN_KEY, OTHER_KEY, "Endpoint = 203.0.113.5:51820", "AllowedIPs = 172.20.3.0/24"] {
        assert!(wireguard.contains(part), "{part} is missing in\n{wireguard}");
    }
    assert_eq!(waits, Vec::<&str>::new());
}

#[test]
fn tunnels_that_can_not_be_had_wait_and_say_why() {
    let mut inside = far("inside", &["172.20.3.0/24"]);
    inside["endpoint"] = "10.0.0.5:51820".into();
    let mut own_key = far("self", &["172.20.3.0/24"]);
    own_key["publicKey"] = OWN_KEY.parse::<PrivateKey>().unwrap().public().to_string().into();
    let named = json!({"name": "near", "peerRef": {"namespace": "other", "name": "farm-b"}});
    for (peer, reason) in [
        (far("near", &["172.16.1.128/25"]), "NetworksOverlap"),
        (far("all", &["0.0.0.0/0"]), "NetworksOverlap"),
        (inside, "EndpointDenied"),
        (own_key, "InvalidPeer"),
        (named, "NoConsent"),
    ] {
        let (wireguard, waits) = tunnels_to(&peers(json!([peer])), &BTreeMap::new());
        assert_eq!(waits, [reason], "{peer}");
        assert!(!wireguard.contains("[Peer]"), "{wireguard}");
    }
    let mut twice = far("twice", &["172.20.4.0/24"]);
    twice["publicKey"] = OTHER_KEY.into();
    let (_, waits) = tunnels_to(&peers(json!([far("far", &["172.20.3.0/24"]), twice])), &BTreeMap::new());
    assert_eq!(waits, ["InvalidPeer"], "one key is one peer");
}

/// What the farm reaches without the tunnel stays where it is, and the message says what that is.
#[test]
fn no_tunnel_takes_a_way_that_the_farm_has_without_it() {
    for (networks, what) in [
        ("172.16.1.0/24", "this farm's own network"),
        ("198.51.100.0/24", "the site's public network"),
        ("198.51.0.0/16", "the site's public network"),
        ("198.51.100.1/32", "the site's public network"),
        ("192.0.2.0/24", "a DNS server of the site's"),
        ("203.0.113.0/24", "where peer far is"),
        ("10.1.0.0/16", "to which the site admits farms"),
        ("127.0.0.0/8", "loopback addresses"),
        ("169.254.169.254/32", "link-local addresses"),
        ("224.0.0.0/4", "multicast addresses"),
        ("128.0.0.0/1", "overlaps"),
        ("0.0.0.0/0", "overlaps"),
    ] {
        let mut site = site();
        site.dns = vec!["192.0.2.53".parse().unwrap()];
        site.routers.admitted_networks = vec!["10.1.2.0/24".parse().unwrap()];
        let router = peers(json!([far("far", &["172.20.3.0/24", networks])]));
        let from = Ingredients {
            farm: &the_farm(),
            network: "172.16.1.0/24".parse().unwrap(),
            router: &router,
            machines: &members(),
            addresses: &given("198.51.100.20"),
            site: &site,
            key: Some(&OWN_KEY.parse().unwrap()),
            neighbours: &BTreeMap::new(),
        };
        let made = desired(&from).unwrap();
        let [Wait { reason, message }] = &made.peer_waits[..] else { panic!("{networks}: {:?}", made.peer_waits) };
        assert_eq!(*reason, "NetworksOverlap", "{networks}");
        assert!(message.contains(what) && message.contains("peer far: ") && message.contains(networks), "{message}");
        assert!(made.router.vpn.unwrap().peers.is_empty(), "{networks}");
    }
}

#[test]
fn a_farms_own_dns_server_may_be_behind_its_tunnel() {
    let mut farm = the_farm();
    farm.spec.network = serde_json::from_value(json!({"dns": ["10.20.0.53"]})).unwrap();
    let router = peers(json!([far("far", &["10.20.0.0/16"])]));
    let from = Ingredients {
        farm: &farm,
        network: "172.16.1.0/24".parse().unwrap(),
        router: &router,
        machines: &members(),
        addresses: &given("198.51.100.20"),
        site: &site(),
        key: Some(&OWN_KEY.parse().unwrap()),
        neighbours: &BTreeMap::new(),
    };
    let made = desired(&from).unwrap();
    assert_eq!(made.peer_waits, [], "it is reached by that tunnel");
    assert!(made.router.dns.contains(&"10.20.0.53".parse().unwrap()));
}

#[test]
fn where_nobody_can_be_there_is_no_other_end() {
    for endpoint in ["127.0.0.1:51820", "0.0.0.0:51820", "224.0.0.1:51820", "255.255.255.255:51820"] {
        let mut nobody = far("far", &["172.20.3.0/24"]);
        nobody["endpoint"] = endpoint.into();
        assert_eq!(tunnels_to(&peers(json!([nobody])), &BTreeMap::new()).1, ["InvalidPeer"], "{endpoint}");
    }
}

#[test]
fn a_farm_of_this_cloud_is_joined_if_both_say_so() {
    let router = peers(json!([{"name": "near", "peerRef": {"namespace": "other", "name": "farm-b"}}]));
    let farm = ("other".to_owned(), "farm-b".to_owned());
    let mut neighbour = Neighbour {
        farm_uid: "b".into(),
        network: "172.16.2.0/24".parse().ok(),
        key: OTHER_KEY.parse().ok(),
        endpoint: "198.51.100.21:51820".parse().ok(),
    };
    let (wireguard, waits) = tunnels_to(&router, &BTreeMap::from([(farm.clone(), neighbour.clone())]));
    assert!(wireguard.contains("AllowedIPs = 172.16.2.0/24") && waits.is_empty(), "{wireguard} {waits:?}");
    neighbour.key = None;
    assert_eq!(tunnels_to(&router, &BTreeMap::from([(farm.clone(), neighbour.clone())])).1, ["PeerNotReady"]);

    let mut router = router;
    let meant = json!({"consents": [{"name": "near", "namespace": "other", "farm": "farm-b", "uid": "before"}]});
    router.status = serde_json::from_value(meant).unwrap();
    neighbour.key = OTHER_KEY.parse().ok();
    let (wireguard, waits) = tunnels_to(&router, &BTreeMap::from([(farm, neighbour)]));
    assert_eq!(waits, ["PeerChanged"], "another farm of that name isn't the one that was joined");
    assert!(!wireguard.contains("[Peer]"), "{wireguard}");
}

#[test]
fn where_tunnels_end_no_forward_begins() {
    let mut router = peers(json!([]));
    router.spec.template.forwards = serde_json::from_value(json!([
        {"port": 51820, "protocol": "UDP", "targetRef": {"name": "login"}},
        {"port": 51820, "targetRef": {"name": "login"}},
    ]))
    .unwrap();
    let made = made_of(&router, &given("198.51.100.20")).unwrap();
    assert_eq!((made.router.forwards.len(), made.waits[0].reason), (1, "PortTaken"));
}

#[test]
fn a_router_tells_its_key_and_who_is_at_the_other_ends() {
    let at_work = view(peers(json!([far("far", &["172.20.3.0/24"])])), Some(running()));
    let hash = told(&at_work).unwrap().documents.hash();
    let heard = |peers| vec![Some(Heard::InForce(Working { hash, leads: None, peers }))];
    let told = |peers| status(&at_work, &plan(&at_work, now()), &heard(peers), now());
    let never = told(BTreeMap::new());
    let vpn = never.vpn.as_ref().unwrap();
    assert_eq!(vpn.public_key.as_deref(), Some("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="));
    assert_eq!(vpn.endpoint.as_deref(), Some("198.51.100.20:51820"));
    assert_eq!(find(&never.conditions, "PeersJoined").unwrap().reason, "NoHandshake");
    let peer = Peer { handshake: 955, received: 10, sent: 20 };
    let joined = told(BTreeMap::from([(OTHER_KEY.to_owned(), peer)]));
    assert_eq!(find(&joined.conditions, "PeersJoined").unwrap().status, "True");
    let shown = &joined.vpn.unwrap().peers[0];
    assert_eq!((shown.name.as_str(), shown.received.get(), shown.sent.get()), ("far", 10, 20));
    assert_eq!(shown.last_handshake, Timestamp::from_second(900).ok().map(Time), "to the minute");
    let stale = told(BTreeMap::from([(OTHER_KEY.to_owned(), Peer { handshake: 800, ..peer })]));
    assert_eq!(find(&stale.conditions, "PeersJoined").unwrap().reason, "NoHandshake");
    let text = format!("{:?} {:?}", at_work.desired, never);
    assert!(!text.contains(OWN_KEY), "the private key is shown to nobody");
}

proptest! {
    /// Whatever the API server admits can be told, and what is told depends on nothing but the objects.
    #[test]
    fn every_router_can_be_told_what_to_do(
        ports in proptest::collection::vec((1i32..=65535, any::<bool>(), "[a-z0-9-]{1,20}", any::<bool>()), 0..20),
        egress in proptest::collection::vec((any::<[u8; 4]>(), 0u8..=32, any::<bool>()), 0..8),
    ) {
        let forwards: Vec<_> = ports.iter().map(|(port, udp, name, real)| json!({
            "port": port,
            "protocol": if *udp { "UDP" } else { "TCP" },
            "targetRef": {"name": if *real { "login" } else { name }},
        })).collect();
        let rules: Vec<_> = egress.iter().map(|([a, b, c, d], prefix, deny)| json!({
            "cidr": format!("{a}.{b}.{c}.{d}/{prefix}"),
            "action": if *deny { "Deny" } else { "Allow" },
        })).collect();
        let router = template(json!({"forwards": forwards, "egress": rules}));
        let one = made_of(&router, &given("198.51.100.20")).unwrap();
        let other = made_of(&router, &given("198.51.100.20")).unwrap();
        prop_assert_eq!(one.router.documents().hash(), other.router.documents().hash());
        prop_assert_eq!(one.router.egress.len(), egress.len());
    }
}

#[test]
fn the_machines_name_is_none_that_a_group_gives() {
    assert_eq!(machine_name("farm-a", RouterSeat::Only), "farm-a-router-0");
    assert!(find(&running().status.unwrap().conditions, READY).is_some());
}
