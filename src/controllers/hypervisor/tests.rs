//! What is decided about a host: when it is lost, what is given up on it then, and what is removed when it returns.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::copies::{Owners, Standing, Whereabouts};
use super::loss::{Fence, Leaves, MOST_OF_NAMESPACE, MOST_TOMBSTONES, Patience, leaves};
use super::orphans::Sweep;
use super::plan::{Placed, Plan, Reach, Refusal, Step, View, allocatable, expected_mark, plan};
use super::pool::PoolMates;
use super::status::{LISTED_COPIES, MOST_COPIES, status};
use crate::api::conditions::{State, find, stamp};
use crate::api::{
    Bytes, Capacity, EvictionStrategy, FENCED_ANNOTATION, Hypervisor, HypervisorNetwork, HypervisorNetworks,
    HypervisorPhase, HypervisorSpec, HypervisorStorage, MachineCopy, Maintenance, Overcommit, PoolMark, Resources,
    RunStrategy, Tombstone,
};
use crate::controllers::fleet::HostView;
use crate::controllers::observed::Observed;
use crate::controllers::placement::testing::{machine, running_on};
use crate::libvirt::{
    Certificates, DomainRun, DomainUuid, HostError, OwnershipTag, RuleSet, StopReason, Survey, SurveyedDomain,
};

const PATIENCE: Patience = Patience {
    unreachable_after: Duration::from_secs(40),
    evict_after: Some(Duration::from_secs(300)),
    deletion_deadline: Duration::from_secs(120),
};

const UID: &str = "6f0c6a5e-0000-4000-8000-00000000000a";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(super) fn hypervisor() -> Hypervisor {
    let mut hypervisor = Hypervisor::new(
        "worker-1",
        HypervisorSpec {
            uri: "qemu+tls://one/system".into(),
            host_uuid: None,
            credentials_secret_ref: None,
            insecure: false,
            class: crate::api::HypervisorClass::Worker,
            virtualization: crate::api::Virtualization::Kvm,
            networks: HypervisorNetworks { private: HypervisorNetwork { bridge: "br0".into() }, public: None },
            storage: HypervisorStorage { pool: "cascina".into(), shared: None },
            capacity: None,
            reserved: None,
            overcommit: Overcommit::default(),
            migration_address: None,
            maintenance: Maintenance::None,
            drift_policy: Default::default(),
        },
    );
    hypervisor.status = Some(crate::api::HypervisorStatus {
        phase: HypervisorPhase::Ready,
        conditions: stamp(vec![State::yes("IsolationVerified", "Verified", "")], &[], None, at(0)),
        ..Default::default()
    });
    hypervisor
}

fn answering(survey: Survey) -> HostView {
    HostView {
        survey: Observed::Present(Arc::new(survey)),
        last_contact: Some(at(100)),
        surveyed: Some(at(100)),
        error: None,
        doubt: None,
        answering_since: None,
    }
}

fn silent(last_contact: Option<i64>) -> HostView {
    HostView {
        survey: Observed::Unknown { why: "no route".into(), since: at(101) },
        last_contact: last_contact.map(at),
        surveyed: last_contact.map(at),
        error: Some(HostError::Unreachable { operation: "survey", message: "no route".into() }),
        doubt: None,
        answering_since: None,
    }
}

fn view(seen: HostView) -> View {
    View {
        refusal: None,
        seen: Some(seen),
        cached_images: Vec::new(),
        idle_volumes: BTreeSet::new(),
        placed: Vec::new(),
        absent: Vec::new(),
        pool_is_shared: false,
        pool_mates: PoolMates::default(),
        owners: Owners::default(),
        most_are_silent: false,
        sweep: Sweep::default(),
        certificates: Certificates::default(),
        rules_are_renewed: true,
        kept_back: Bytes::ZERO,
    }
}

fn placed() -> Placed {
    Placed {
        farm_is_gone: false,
        name: "farm-a/one".into(),
        holds: Resources { cpu: 1, memory: Bytes::mebi(256), storage: Bytes::ZERO },
        copy: copy(1),
        deleted: None,
        leaves: Leaves::WhenSilent,
    }
}

/// What a machine has on the host.
fn copy(epoch: i64) -> MachineCopy {
    MachineCopy {
        uid: UID.into(),
        namespace: "farm-a".into(),
        name: "one".into(),
        farm: Some("farm-a".into()),
        epoch,
        address: Some("172.16.1.2".into()),
        ..MachineCopy::default()
    }
}

fn tombstone(epoch: i64) -> Tombstone {
    Tombstone { copy: copy(epoch), departed: false, since: Time(at(0)) }
}

fn with_leftovers() -> Survey {
    let mut survey = Survey::default();
    survey.filters.insert("cascina-machine-000000000000".into());
    survey.volumes.insert("img-0123456789abcdef.qcow2".into());
    survey.volumes.insert("somebody-elses.qcow2".into());
    survey
}

#[test]
fn a_short_silence_is_not_a_loss_and_a_long_one_is() {
    let hypervisor = hypervisor();
    let short = plan(&hypervisor, &view(silent(Some(100))), &PATIENCE, at(120));
    assert_eq!(short.phase, HypervisorPhase::Ready);
    assert!(matches!(short.reach, Some(Reach::Quiet(_))));
    let long = plan(&hypervisor, &view(silent(Some(100))), &PATIENCE, at(141));
    assert_eq!(long.phase, HypervisorPhase::Unreachable);
    let never = plan(&hypervisor, &view(silent(None)), &PATIENCE, at(102));
    assert_eq!(never.phase, HypervisorPhase::Unreachable, "a host that never spoke isn't waited for");
}

#[test]
fn a_refused_host_is_rejected_even_while_it_answers() {
    let mut view = view(answering(Survey::default()));
    view.refusal = Some(Refusal::new("DuplicateUri", "two"));
    assert_eq!(plan(&hypervisor(), &view, &PATIENCE, at(100)).phase, HypervisorPhase::Rejected);
}

#[test]
fn guests_from_before_an_upgrade_get_the_rules_of_this_version_once() {
    let renews = |survey: Survey, rules_are_renewed: bool| {
        let seen = View { rules_are_renewed, ..view(answering(survey)) };
        plan(&hypervisor(), &seen, &PATIENCE, at(100)).renews_rules
    };
    assert!(renews(domain(1), false));
    assert!(!renews(domain(1), true));
    assert!(!renews(with_leftovers(), false), "no guest is behind these");
}

#[test]
fn filters_go_when_no_domain_of_ours_is_left_and_volumes_stay() {
    let steps = plan(&hypervisor(), &view(answering(with_leftovers())), &PATIENCE, at(100)).steps;
    assert_eq!(steps, [Step::DeleteFilter("cascina-machine-000000000000".into())]);
}

#[test]
fn a_host_with_machines_is_not_let_go() {
    let mut hypervisor = hypervisor();
    hypervisor.metadata.deletion_timestamp = Some(Time(at(100)));
    let mut view = view(answering(with_leftovers()));
    view.placed.push(placed());
    let waiting = plan(&hypervisor, &view, &PATIENCE, at(101));
    assert!(!waiting.release && waiting.steps.is_empty());
    assert_eq!(waiting.waits.unwrap().reason, "MachinesPresent");
    view.placed.clear();
    let cleaning = plan(&hypervisor, &view, &PATIENCE, at(101));
    assert_eq!(cleaning.steps.len(), 2, "our filter and our image, nobody else's volume");
    assert!(!cleaning.release);
    view.seen = Some(answering(Survey::default()));
    assert!(plan(&hypervisor, &view, &PATIENCE, at(101)).release);
    view.seen = Some(silent(None));
    assert!(plan(&hypervisor, &view, &PATIENCE, at(200)).release, "a dead host without machines holds nobody");
}

#[test]
fn a_host_that_goes_takes_nothing_from_the_one_that_has_the_same_machine_or_pool() {
    let mut hypervisor = hypervisor();
    let mut view = view(answering(with_leftovers()));
    view.refusal = Some(Refusal::new("DuplicateHost", "one machine under two addresses"));
    assert!(plan(&hypervisor, &view, &PATIENCE, at(101)).steps.is_empty(), "refused, it tidies nothing");
    hypervisor.metadata.deletion_timestamp = Some(Time(at(100)));
    let twin = plan(&hypervisor, &view, &PATIENCE, at(101));
    assert!(twin.steps.is_empty() && twin.release);
    view.refusal = None;
    view.pool_is_shared = true;
    let steps = plan(&hypervisor, &view, &PATIENCE, at(101)).steps;
    assert_eq!(steps, [Step::DeleteFilter("cascina-machine-000000000000".into())], "images stay in a shared pool");
}

#[test]
fn what_may_be_promised_is_less_what_is_kept_back_times_overcommit() {
    let mut hypervisor = hypervisor();
    hypervisor.spec.reserved = Some(Capacity { cpu: Some(1), memory: Some(Bytes::gibi(1)), storage: None });
    hypervisor.spec.overcommit = Overcommit { cpu: 2.0, memory: 1.0 };
    let there = Resources { cpu: 4, memory: Bytes::gibi(4), storage: Bytes::gibi(10) };
    let given = allocatable(&hypervisor, there, Bytes::ZERO);
    assert_eq!((given.cpu, given.memory, given.storage), (6, Bytes::gibi(3), Bytes::gibi(10)));
    assert_eq!(allocatable(&hypervisor, there, Bytes::mebi(128)).memory, Bytes::mebi(3 * 1024 - 128));
}

#[test]
fn a_host_is_let_go_when_its_canary_is_gone_and_keeps_the_canarys_filters() {
    let mut hypervisor = hypervisor();
    let with_canary_of = |uid: &str| {
        let mut survey = Survey::default();
        survey.filters.insert(RuleSet::Machine.filter_name());
        survey.domains.insert(DomainUuid(uuid::Uuid::from_u128(8)), canary_of(uid));
        view(answering(survey))
    };
    assert_eq!(plan(&hypervisor, &with_canary_of(UID), &PATIENCE, at(100)).steps, []);
    let mut survey = with_leftovers();
    survey.domains.insert(DomainUuid(uuid::Uuid::from_u128(8)), canary_of(UID));
    let steps = plan(&hypervisor, &view(answering(survey)), &PATIENCE, at(100)).steps;
    assert_eq!(
        steps,
        [Step::DeleteFilter("cascina-machine-000000000000".into())],
        "of rules that are not used any more"
    );
    hypervisor.metadata.uid = Some(UID.into());
    hypervisor.metadata.deletion_timestamp = Some(Time(at(100)));
    let waits = plan(&hypervisor, &with_canary_of(UID), &PATIENCE, at(101));
    assert!(!waits.release && waits.steps.is_empty());
    let anothers = "6f0c6a5e-0000-4000-8000-00000000000b";
    assert!(plan(&hypervisor, &with_canary_of(anothers), &PATIENCE, at(101)).release, "another cluster's is not ours");
}

fn canary_of(uid: &str) -> SurveyedDomain {
    let tag = OwnershipTag {
        cluster: String::new(),
        namespace: String::new(),
        name: "worker-1".into(),
        uid: uid.parse().unwrap(),
        epoch: 0,
        spec_hash: String::new(),
    };
    SurveyedDomain {
        name: "casc".into(),
        run: DomainRun::Running,
        tag: None,
        canary: Some(tag),
        copied_tag: None,
        forms: None,
        memory: Bytes::mebi(128),
        cpus: 1,
    }
}

/// The next look at a host, after what was decided has been written.
fn after(mut hypervisor: Hypervisor, view: &View, plan: &Plan, now: i64) -> Hypervisor {
    hypervisor.status = Some(status(&hypervisor, view, plan, "cascina-system", at(now)));
    hypervisor
}

/// A host with one machine, silent since second 100 and noticed at 141.
fn lost() -> (Hypervisor, View) {
    let mut view = view(silent(Some(100)));
    view.placed.push(placed());
    let seen = plan(&hypervisor(), &view, &PATIENCE, at(141));
    (after(hypervisor(), &view, &seen, 141), view)
}

fn given_up(plan: &Plan) -> Vec<(&str, i64)> {
    plan.loss.tombstones.iter().map(|tombstone| (tombstone.copy.name.as_str(), tombstone.copy.epoch)).collect()
}

fn fenced(mut hypervisor: Hypervisor) -> Hypervisor {
    hypervisor.annotations_mut().insert(FENCED_ANNOTATION.into(), "true".into());
    hypervisor
}

#[test]
fn machines_are_given_up_when_the_host_has_been_lost_for_long_enough() {
    let (hypervisor, view) = lost();
    assert_eq!(hypervisor.status.as_ref().unwrap().unreachable_since, Some(Time(at(141))));
    let early = plan(&hypervisor, &view, &PATIENCE, at(440));
    assert_eq!((given_up(&early), early.loss.again), (vec![], Some(Duration::from_secs(1))));
    let late = plan(&hypervisor, &view, &PATIENCE, at(441));
    assert_eq!(given_up(&late), [("one", 1)]);
    let never = Patience { evict_after: None, ..PATIENCE };
    assert!(given_up(&plan(&hypervisor, &view, &never, at(10_000))).is_empty());
    let again = after(hypervisor, &view, &late, 441);
    assert_eq!(given_up(&plan(&again, &view, &PATIENCE, at(500))), [("one", 1)], "once is enough");
}

#[test]
fn a_host_that_says_no_is_not_lost() {
    let (hypervisor, mut view) = lost();
    view.seen.as_mut().unwrap().error =
        Some(HostError::Refused { operation: "survey", message: "the pool is inactive".into() });
    let seen = plan(&hypervisor, &view, &PATIENCE, at(10_000));
    assert_eq!((given_up(&seen), seen.loss.since), (vec![], None));
    let again = after(hypervisor, &view, &seen, 10_000);
    view.seen = Some(silent(Some(100)));
    assert!(given_up(&plan(&again, &view, &PATIENCE, at(10_001))).is_empty(), "its silence begins now");
}

#[test]
fn when_most_hosts_are_silent_nobody_is_given_up_by_time() {
    let (hypervisor, mut view) = lost();
    view.most_are_silent = true;
    assert!(given_up(&plan(&hypervisor, &view, &PATIENCE, at(10_000))).is_empty());
    assert_eq!(given_up(&plan(&fenced(hypervisor), &view, &PATIENCE, at(10_000))), [("one", 1)]);
}

#[test]
fn a_machine_with_shared_disks_is_given_up_only_on_a_fenced_host() {
    let (hypervisor, mut view) = lost();
    view.placed[0].leaves = Leaves::WhenFenced;
    assert!(given_up(&plan(&hypervisor, &view, &PATIENCE, at(10_000))).is_empty());
    let hypervisor = fenced(hypervisor);
    let stated = plan(&hypervisor, &view, &PATIENCE, at(142));
    assert_eq!((given_up(&stated), stated.loss.fence), (vec![("one", 1)], Some(Fence::Holds)));
    view.placed[0].leaves = Leaves::Never;
    assert!(given_up(&plan(&hypervisor, &view, &PATIENCE, at(142))).is_empty());
}

#[test]
fn who_may_leave_a_lost_host() {
    let host = hypervisor();
    let mut one = running_on(machine("one", 0), "worker-1", 1, "512Mi");
    one.status.as_mut().unwrap().phase = Some(crate::api::Phase::Running);
    assert_eq!(leaves(&one, &host), Leaves::WhenSilent);
    let mut shared = host.clone();
    shared.spec.storage.shared = Some("san".into());
    assert_eq!(leaves(&one, &shared), Leaves::WhenFenced);
    let changed = |change: &dyn Fn(&mut crate::api::VirtualMachine)| {
        let mut other = one.clone();
        change(&mut other);
        leaves(&other, &host)
    };
    assert_eq!(changed(&|one| one.spec.class = crate::api::HypervisorClass::Service), Leaves::Never);
    assert_eq!(changed(&|one| one.spec.eviction_strategy = EvictionStrategy::None), Leaves::Never);
    assert_eq!(changed(&|one| one.spec.run_strategy = RunStrategy::Halted), Leaves::Never);
    assert_eq!(changed(&|one| one.spec.run_strategy = RunStrategy::Once), Leaves::Never);
}

#[test]
fn the_statement_that_a_host_is_off_is_about_one_outage() {
    let answers = view(answering(Survey::default()));
    let silent = view(silent(Some(100)));
    let lost = plan(&fenced(hypervisor()), &silent, &PATIENCE, at(141));
    assert_eq!(lost.loss.fence, Some(Fence::Holds));
    let hypervisor = after(fenced(hypervisor()), &silent, &lost, 141);

    let back = plan(&hypervisor, &answers, &PATIENCE, at(200));
    assert_eq!((back.loss.fence, back.phase), (Some(Fence::Answered), HypervisorPhase::Fenced));
    let mut hypervisor = after(hypervisor, &answers, &back, 200);
    let conditions = hypervisor.status.clone().unwrap().conditions;
    let closed = find(&conditions, "Schedulable").unwrap();
    assert_eq!((closed.status.as_str(), closed.reason.as_str()), ("False", "Fenced"));
    assert!(closed.message.ends_with("kubectl annotate hypervisor worker-1 cascina.dev/fenced-"), "{}", closed.message);

    let again = plan(&hypervisor, &silent, &PATIENCE, at(300));
    assert_eq!(again.loss.fence, Some(Fence::Answered), "it isn't said of this outage");
    hypervisor.annotations_mut().remove(FENCED_ANNOTATION);
    let taken_back = plan(&hypervisor, &answers, &PATIENCE, at(400));
    assert_eq!((taken_back.loss.fence, taken_back.phase), (None, HypervisorPhase::Ready));
    let hypervisor = after(hypervisor, &answers, &taken_back, 400);
    assert_eq!(plan(&fenced(hypervisor), &silent, &PATIENCE, at(500)).loss.fence, Some(Fence::Holds));
}

#[test]
fn a_machine_that_is_deleted_is_given_up_after_its_deadline() {
    let (hypervisor, mut view) = lost();
    view.placed[0].leaves = Leaves::WhenFenced;
    view.placed[0].deleted = Some(at(150));
    let early = plan(&hypervisor, &view, &PATIENCE, at(269));
    assert_eq!((given_up(&early), early.loss.again), (vec![], Some(Duration::from_secs(1))));
    assert_eq!(given_up(&plan(&hypervisor, &view, &PATIENCE, at(270))), [("one", 1)]);
    view.seen = Some(silent(Some(260)));
    assert!(given_up(&plan(&hypervisor, &view, &PATIENCE, at(270))).is_empty(), "quiet for a moment is not lost");
}

#[test]
fn a_host_keeps_a_bounded_number_of_tombstones() {
    let (hypervisor, mut view) = lost();
    let of_namespace = |namespace: &'static str, count: usize| {
        (0..count).map(move |index| {
            let uid = format!("{namespace}-{index}");
            Placed { copy: MachineCopy { uid, namespace: namespace.into(), ..copy(1) }, ..placed() }
        })
    };
    view.placed = of_namespace("greedy", MOST_OF_NAMESPACE + 3).chain(of_namespace("modest", 2)).collect();
    let full = plan(&hypervisor, &view, &PATIENCE, at(441));
    assert_eq!((full.loss.tombstones.len(), full.loss.without), (MOST_OF_NAMESPACE + 2, 3));
    let many = ["a", "b", "c", "d", "e"].into_iter().flat_map(|name| of_namespace(name, MOST_OF_NAMESPACE));
    view.placed = many.collect();
    let full = plan(&hypervisor, &view, &PATIENCE, at(441));
    assert_eq!((full.loss.tombstones.len(), full.loss.without), (MOST_TOMBSTONES, MOST_OF_NAMESPACE));
}

#[test]
fn a_host_with_more_copies_than_its_status_has_room_for_takes_no_more_and_says_so() {
    let schedulable = |copies: usize| {
        let mut view = view(answering(Survey::default()));
        let one = |index| Placed { copy: MachineCopy { uid: format!("uid-{index}"), ..copy(1) }, ..placed() };
        view.placed = (0..copies).map(one).collect();
        let plan = plan(&hypervisor(), &view, &PATIENCE, at(600));
        let told = after(hypervisor(), &view, &plan, 600).status.unwrap();
        assert_eq!(told.copies.len(), copies.min(LISTED_COPIES));
        let schedulable = find(&told.conditions, "Schedulable").unwrap();
        (schedulable.reason.clone(), schedulable.message.clone())
    };
    assert_eq!(schedulable(MOST_COPIES - 1).0, "Open");
    assert_eq!(schedulable(MOST_COPIES).0, "TooManyCopies");
    let (reason, message) = schedulable(LISTED_COPIES + 3);
    assert!(reason == "TooManyCopies" && message.contains("3 of them are not in status.copies"), "{message}");
}

/// A host that answers with this; its status lists the machine, and there is no object of it.
fn bereft(survey: Survey, listed: Option<MachineCopy>) -> (Hypervisor, View) {
    let mut given = returned(survey, None, None);
    given.1.absent = listed.into_iter().collect();
    given
}

#[test]
fn what_the_api_server_once_knew_and_has_no_more_is_removed_while_the_host_takes_work() {
    let given = bereft(domain(1), Some(copy(1)));
    let plan = swept(&given);
    assert_eq!(plan.removals, all_of_it());
    assert_eq!((given_up(&plan), plan.residents.len()), (vec![("one", 1)], 0));
    let told = after(given.0, &given.1, &plan, 600).status.unwrap();
    assert_eq!(find(&told.conditions, "Schedulable").unwrap().status, "True");
    assert_eq!(given_up(&swept(&bereft(domain(3), Some(copy(1))))), [("one", 3)], "of whichever placement");
    let clean = swept(&bereft(Survey::default(), Some(copy(1))));
    assert!(clean.removals.is_empty() && clean.loss.tombstones.is_empty() && clean.residents.is_empty());
}

#[test]
fn what_it_never_knew_is_listed_and_stays() {
    let mut given = bereft(domain(1), None);
    given.1.owners.disks.insert(UID.parse().unwrap(), Bytes::gibi(20));
    let plan = swept(&given);
    assert!(plan.removals.is_empty() && plan.loss.tombstones.is_empty());
    let [unknown] = plan.residents.as_slice() else { panic!("{:?}", plan.residents) };
    assert_eq!((unknown.uid.as_str(), &unknown.farm), (UID, &None));
    assert_eq!(unknown.holds.unwrap().storage, Bytes::gibi(20), "what is known of its disks outlives the operator");
    let again = swept(&bereft(domain(1), Some(unknown.clone())));
    assert!(again.removals.is_empty() && again.residents == plan.residents, "to be listed makes it no machine");
    let mut seen = bereft(domain(1), None);
    seen.1.owners.deleted.insert(UID.parse().unwrap());
    assert_eq!(swept(&seen).removals, all_of_it(), "its deletion was seen");
}

#[test]
fn what_has_its_name_given_to_another_stays_and_is_cut_off_with_its_farm() {
    let mut given = bereft(domain(1), Some(copy(1)));
    given.1.owners.replaced.insert(UID.parse().unwrap());
    let kept = MachineCopy { kept: true, ..copy(1) };
    let plan = swept(&given);
    assert!(plan.removals.is_empty() && plan.loss.tombstones.is_empty());
    assert_eq!(plan.residents, std::slice::from_ref(&kept));
    let plan = swept(&bereft(domain(1), Some(kept.clone())));
    assert!(
        plan.removals.is_empty() && plan.residents == std::slice::from_ref(&kept),
        "also when the other one is gone"
    );
    assert_eq!(swept(&bereft(Survey::default(), Some(kept.clone()))).residents, [], "until nothing is left of it");
    given.1.owners.deleted.insert(UID.parse().unwrap());
    assert_eq!(swept(&given).removals, all_of_it(), "unless its deletion was seen");

    let (uuid, on_the_wire) = crate::controllers::ledger::samples::domain(10, "us", &["172.16.1.2"]);
    let survey = Survey { domains: [(uuid, on_the_wire)].into(), ..Survey::default() };
    let mut given = bereft(survey, Some(MachineCopy { uid: uuid.to_string(), ..kept }));
    assert_eq!(swept(&given).cut_offs, [Step::CutOff(uuid)]);
    for (network, cut) in [("172.16.1.0/24", 0), ("172.16.2.0/24", 1)] {
        let farm = ("farm-a".to_owned(), "farm-a".to_owned());
        given.1.owners.networks = [(farm, network.parse().unwrap())].into();
        assert_eq!(swept(&given).cut_offs.len(), cut, "{network}");
    }
}

#[test]
fn a_host_that_does_not_answer_keeps_what_its_status_lists() {
    let mut given = bereft(domain(1), Some(copy(1)));
    given.1.seen = Some(silent(Some(100)));
    assert_eq!(swept(&given).residents, [copy(1)]);
    given.1.seen = Some(answering(domain(1)));
    given.1.refusal = Some(Refusal::new("HostReplaced", "another machine"));
    assert_eq!(swept(&given).residents, [copy(1)]);
}

fn tag(epoch: i64) -> OwnershipTag {
    OwnershipTag {
        cluster: "cluster".into(),
        namespace: "farm-a".into(),
        name: "one".into(),
        uid: UID.parse().unwrap(),
        epoch,
        spec_hash: "hash".into(),
    }
}

fn domain(epoch: i64) -> Survey {
    let mut survey = Survey::default();
    let off = DomainRun::Off(StopReason::NotStarted);
    let domain = SurveyedDomain {
        name: "casc".into(),
        run: off,
        tag: Some(tag(epoch)),
        canary: None,
        copied_tag: None,
        memory: Bytes::mebi(256),
        cpus: 1,
        forms: None,
    };
    survey.domains.insert(DomainUuid(UID.parse().unwrap()), domain);
    survey.volumes.insert(format!("{UID}-data.qcow2"));
    survey
}

/// A host that returns with this, having given up so many placements of the machine, whose object says where it is.
fn returned(survey: Survey, given_up: Option<i64>, object: Option<(&str, i64)>) -> (Hypervisor, View) {
    let mut hypervisor = hypervisor();
    hypervisor.status.as_mut().unwrap().tombstones.extend(given_up.map(tombstone));
    let mut view = view(answering(survey));
    view.owners = Owners { here: "worker-1".into(), cluster: "cluster".into(), ..Owners::default() };
    let whereabouts = object.map(|(host, epoch)| Whereabouts { host: Some(host.into()), epoch, deleted: false });
    view.owners.machines.extend(whereabouts.map(|found| (UID.parse().unwrap(), found)));
    (hypervisor, view)
}

fn swept(given: &(Hypervisor, View)) -> Plan {
    plan(&given.0, &given.1, &PATIENCE, at(600))
}

fn all_of_it() -> [Step; 2] {
    [Step::RemoveCopy(tag(1)), Step::DeleteVolume(format!("{UID}-data.qcow2"))]
}

#[test]
fn a_copy_of_a_placement_that_is_over_is_removed_before_the_host_takes_work() {
    let mut given = returned(domain(1), Some(1), Some(("worker-2", 2)));
    let sweeping = swept(&given);
    assert_eq!(sweeping.removals, all_of_it());
    assert_eq!(given_up(&sweeping), [("one", 1)]);
    let told = after(given.0.clone(), &given.1, &sweeping, 600).status.unwrap();
    assert_eq!(find(&told.conditions, "Schedulable").unwrap().reason, "RemovingStaleCopies");
    assert_eq!(find(&told.conditions, "StrayCopies").unwrap().reason, "Removing");

    let mut rest = domain(1);
    rest.domains.clear();
    given = returned(rest, Some(1), Some(("worker-2", 2)));
    assert_eq!(swept(&given).removals, all_of_it()[1..]);
    given = returned(Survey::default(), Some(1), Some(("worker-2", 2)));
    let clean = swept(&given);
    assert!(clean.removals.is_empty() && clean.loss.tombstones.is_empty());
    let mut unproved = given.0.clone();
    unproved.status.as_mut().unwrap().conditions.clear();
    let told = after(unproved, &given.1, &clean, 600).status.unwrap();
    assert_eq!(find(&told.conditions, "Schedulable").unwrap().reason, "IsolationNotVerified");
    let told = after(given.0, &given.1, &clean, 600).status.unwrap();
    assert_eq!(find(&told.conditions, "Schedulable").unwrap().status, "True");
    assert_eq!(
        swept(&returned(domain(1), None, Some(("worker-2", 2)))).removals,
        all_of_it(),
        "without a tombstone, too"
    );
}

#[test]
fn what_is_left_of_a_machine_that_is_gone_is_removed_only_with_a_tombstone() {
    assert_eq!(swept(&returned(domain(1), Some(1), None)).removals, all_of_it());
    let unknown = swept(&returned(domain(1), None, None));
    assert!(unknown.removals.is_empty());
    assert_eq!(unknown.copies[0].standing, Standing::Unclaimed);
    let later = swept(&returned(domain(2), Some(1), None));
    assert!(later.removals.is_empty(), "a later placement than the one that was given up");
    assert_eq!(later.copies[0].standing, Standing::Unclaimed);
    let mut foreign = returned(domain(1), None, None);
    foreign.1.owners.cluster = "another".into();
    assert!(swept(&foreign).copies.is_empty(), "another cluster's");
}

#[test]
fn a_machine_that_stayed_is_not_touched() {
    let stayed = swept(&returned(domain(1), Some(1), Some(("worker-1", 1))));
    assert!(stayed.removals.is_empty() && stayed.loss.tombstones.is_empty());
    assert_eq!(stayed.copies[0].standing, Standing::AtHome);
}

#[test]
fn what_the_api_server_has_forgotten_is_left_alone_and_told() {
    for object in [("worker-1", 1), ("worker-2", 1), ("worker-2", 2)] {
        let given = returned(domain(2), Some(1), Some(object));
        let restored = swept(&given);
        assert!(restored.removals.is_empty(), "{object:?}");
        assert_eq!(restored.copies[0].standing, Standing::Newer);
        let told = after(given.0, &given.1, &restored, 600).status.unwrap();
        assert_eq!(find(&told.conditions, "StrayCopies").unwrap().reason, "Newer");
    }
}

#[test]
fn volumes_of_a_shared_pool_belong_to_the_copy_that_runs_elsewhere() {
    let mut moved = returned(domain(1), Some(1), Some(("service-2", 2)));
    moved.1.owners.pool_is_shared = true;
    assert_eq!(swept(&moved).removals, [Step::RemoveCopy(tag(1))]);
    moved.1.seen.as_mut().unwrap().survey = Observed::Present(Arc::new({
        let mut survey = domain(1);
        survey.domains.clear();
        survey
    }));
    assert!(swept(&moved).loss.tombstones.is_empty(), "nothing is left that is the host's own");
    let mut deleted = returned(domain(1), Some(1), None);
    deleted.1.owners.pool_is_shared = true;
    assert_eq!(swept(&deleted).removals, all_of_it());
}

#[test]
fn a_silent_or_refused_host_keeps_its_tombstones() {
    let mut given = returned(domain(1), Some(1), None);
    given.1.refusal = Some(Refusal::new("HostReplaced", "another machine"));
    let refused = swept(&given);
    assert!(refused.removals.is_empty());
    assert_eq!(given_up(&refused), [("one", 1)]);
    given.1.refusal = None;
    given.1.seen = Some(silent(Some(100)));
    assert_eq!(given_up(&swept(&given)), [("one", 1)]);
}

#[test]
fn a_pool_is_marked_once_and_known_by_its_mark() {
    let mut hypervisor = hypervisor();
    hypervisor.metadata.uid = Some("7".into());
    let mark = || Step::MarkPool("cascina-pool-7".into());
    let seen = |volumes: &[&str]| {
        let volumes = volumes.iter().map(|name| (*name).to_owned()).collect();
        view(answering(Survey { volumes, ..Survey::default() }))
    };
    let plan = |hypervisor: &Hypervisor, seen: &View| plan(hypervisor, seen, &PATIENCE, at(100));
    assert_eq!(plan(&hypervisor, &seen(&[])).steps, [mark()]);
    assert!(plan(&hypervisor, &view(silent(None))).steps.is_empty());
    // One who shares the pool was faster: that mark is as good.
    let marked = seen(&["cascina-pool-3"]);
    assert!(plan(&hypervisor, &marked).steps.is_empty());
    let after = status(&hypervisor, &marked, &plan(&hypervisor, &marked), "cascina-system", at(100));
    assert_eq!(after.pool_mark.as_ref().unwrap().volume, "cascina-pool-3");
    hypervisor.status = Some(after);
    assert!(plan(&hypervisor, &seen(&[])).steps.is_empty(), "a pool that lacks it isn't marked anew");
    hypervisor.spec.storage.pool = "another".into();
    assert_eq!(plan(&hypervisor, &seen(&[])).steps, [mark()], "another pool is another matter");
}

#[test]
fn a_host_that_is_left_may_lack_its_mark() {
    let mut hypervisor = hypervisor();
    let mark = PoolMark { pool: hypervisor.spec.storage.pool.clone(), volume: "cascina-pool-7".into() };
    hypervisor.status.as_mut().unwrap().pool_mark = Some(mark);
    let is_expected = |hypervisor: &Hypervisor, is_empty| expected_mark(hypervisor, is_empty).is_some();
    assert!(is_expected(&hypervisor, true) && is_expected(&hypervisor, false));
    hypervisor.metadata.deletion_timestamp = Some(Time(at(50)));
    assert!(is_expected(&hypervisor, false), "its machines have their disks there still");
    assert!(!is_expected(&hypervisor, true));
}

#[test]
fn a_host_without_its_storage_is_neither_used_nor_given_up() {
    let mut seen = silent(Some(100));
    seen.error = Some(HostError::StorageMissing { mark: "cascina-pool-7".into() });
    let plan = plan(&hypervisor(), &view(seen), &PATIENCE, at(10_000));
    assert_eq!(plan.phase, HypervisorPhase::Unreachable);
    assert!(matches!(plan.reach, Some(Reach::Lost { reason: "StorageMissing", silent: false, .. })));
    assert_eq!(plan.loss.since, None, "its machines run on, so none is made anew elsewhere");
}

#[test]
fn a_guest_whose_farm_is_gone_is_cut_off_once_and_whatever_the_policy_is() {
    let (uuid, domain) = crate::controllers::ledger::samples::domain(10, "us", &["172.16.1.2"]);
    let survey = |domain: SurveyedDomain| Survey { domains: [(uuid, domain)].into(), ..Survey::default() };
    let cut_offs = |farm_is_gone: bool, survey: Survey| {
        let mut seen = view(answering(survey));
        let copy = MachineCopy { uid: uuid.to_string(), ..copy(1) };
        seen.placed = vec![Placed { farm_is_gone, copy, ..placed() }];
        let mut hypervisor = hypervisor();
        hypervisor.spec.drift_policy = crate::api::DriftPolicy::Report;
        plan(&hypervisor, &seen, &PATIENCE, at(100)).cut_offs
    };
    assert_eq!(cut_offs(true, survey(domain.clone())), [Step::CutOff(uuid)]);
    assert_eq!(cut_offs(false, survey(domain.clone())), []);
    let mut cut = domain.clone();
    Arc::make_mut(cut.forms.as_mut().unwrap()).running.as_mut().unwrap().nics[0].is_cut = true;
    assert_eq!(cut_offs(true, survey(cut)), []);
    assert_eq!(cut_offs(true, survey(SurveyedDomain { tag: None, ..domain })), [], "it isn't ours");
}
