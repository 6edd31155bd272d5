//! `given(machine().…).plans([…])`: what is decided about a machine.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::host::HostStanding;
use super::plan::{LEFT_BEHIND, pause, plan};
use super::recipe::{Recipe, Refusal, SeedVolume};
use super::situation::*;
use crate::api::{Bytes, DriftPolicy, Phase, Readiness, RunStrategy, Virtualization};
use crate::controllers::observed::Observed;
use crate::guest;
use crate::libvirt::{
    ConsoleLog, DomainForm, DomainRole, DomainRun, DomainSpec, DomainUuid, Firmware, Forms, Kernel, Nic, NicForm,
    OwnershipTag, RuleSet, StopReason, SurveyedDomain, VolumeSpec, domain_name,
};
use crate::network::{Hold, MacAddress};

const UID: Uuid = Uuid::from_u128(0x6f0c_6a5e_0000_4000_8000_0000_0000_000a);
const NOW: i64 = 1_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn tag(epoch: i64) -> OwnershipTag {
    OwnershipTag {
        cluster: "cluster".into(),
        namespace: "farm-a".into(),
        name: "one".into(),
        uid: UID,
        epoch,
        spec_hash: "hash".into(),
    }
}

fn recipe() -> Recipe {
    let address = Ipv4Addr::new(172, 16, 1, 10);
    Recipe {
        domain: DomainSpec {
            uuid: DomainUuid(UID),
            title: "farm-a/one".into(),
            role: DomainRole::Machine,
            tag: tag(2),
            virtualization: Virtualization::Emulated,
            cpus: 1,
            memory: Bytes::mebi(256),
            firmware: Firmware::Kernel(Kernel { kernel: "img-a.kernel".into(), initrd: None, cmdline: String::new() }),
            root: None,
            data: None,
            seed: Some(format!("{UID}-seed-new.img")),
            nics: vec![Nic {
                bridge: "br0".into(),
                mac: MacAddress::of(address),
                hold: Hold::Machine(address),
                bandwidth: None,
            }],
            shared_storage: false,
            console: ConsoleLog::Pty,
            watchdog: false,
        },
        volumes: vec![data_disk()],
        seed: Some(SeedVolume {
            name: format!("{UID}-seed-new.img"),
            content: guest::seed(&guest::sample::guest(), guest::SeedForm::EachBoot).unwrap(),
        }),
        image_volumes: vec!["img-a.kernel".into()],
        bad_keys: Vec::new(),
    }
}

/// A domain that is as it was made.
fn forms(run: DomainRun) -> Arc<Forms> {
    let form = Some(DomainForm::of(&recipe().domain));
    let running = form.clone().filter(|_| !matches!(run, DomainRun::Off(_)));
    Arc::new(Forms { running, defined: form })
}

/// What is wanted and seen of a machine that runs, for tests of others.
pub fn a_machine_that_runs() -> (Want, View) {
    let Given { want, seen } = running();
    (want, seen)
}

/// The domain of a machine that runs as it was made, for tests of others.
pub fn running_as(made: &Recipe) -> SurveyedDomain {
    let form = Some(DomainForm::of(&made.domain));
    SurveyedDomain {
        name: domain_name(made.domain.uuid),
        run: DomainRun::Running,
        tag: Some(made.domain.tag.clone()),
        canary: None,
        copied_tag: None,
        memory: made.domain.memory,
        cpus: made.domain.cpus,
        forms: Some(Arc::new(Forms { running: form.clone(), defined: form })),
    }
}

fn data_disk() -> VolumeSpec {
    VolumeSpec::Blank { name: format!("{UID}-data.qcow2"), size: Bytes::gibi(1) }
}

/// A machine in some situation; admitted, with its image on its host and nothing else, unless told otherwise.
#[derive(Clone, Debug)]
struct Given {
    want: Want,
    seen: View,
}

fn machine() -> Given {
    Given {
        want: Want {
            deleted: false,
            run: RunStrategy::Always,
            readiness: Readiness::Agent,
            boot_deadline: Duration::from_secs(600),
            shutdown_grace: Duration::from_secs(60),
            drift: DriftPolicy::Repair,
        },
        seen: View {
            volume_prefix: format!("{UID}-"),
            placement: Placement::Admitted,
            wishes: true,
            waits: None,
            host: HostStanding::default(),
            domain: Observed::Absent,
            volumes: Observed::Present(BTreeSet::from(["img-a.kernel".to_owned(), "others.img".to_owned()])),
            volumes_are_fresh: true,
            disks_home: Some("worker-1".into()),
            disks_made: false,
            nics: recipe().domain.nics,
            farm_gone: None,
            recipe: Ok(recipe()),
            image_progress: None,
            outdated: None,
            kept_disks: None,
            agent: None,
            resumed: None,
            history: History::default(),
        },
    }
}

impl Given {
    fn deleted(mut self) -> Self {
        self.want.deleted = true;
        self
    }
    fn wants(mut self, run: RunStrategy) -> Self {
        self.want.run = run;
        self.seen.wishes = run != RunStrategy::Halted;
        self
    }
    fn placed(mut self, placement: Placement) -> Self {
        self.seen.placement = placement;
        self
    }
    fn domain(mut self, run: DomainRun, epoch: i64) -> Self {
        self.seen.domain = Observed::Present(SurveyedDomain {
            name: format!("casc-{UID}"),
            run,
            tag: Some(tag(epoch)),
            canary: None,
            copied_tag: None,
            memory: Bytes::mebi(256),
            cpus: 1,
            forms: Some(forms(run)),
        });
        self
    }
    fn with_forms(mut self, change: impl FnOnce(&mut Forms)) -> Self {
        if let Observed::Present(domain) = &mut self.seen.domain {
            change(Arc::make_mut(domain.forms.as_mut().unwrap()));
        }
        self
    }
    fn reports(mut self) -> Self {
        self.want.drift = DriftPolicy::Report;
        self
    }
    fn drifted(&self) -> Vec<DriftKind> {
        self.plan().drifts.iter().map(|drift| drift.kind).collect()
    }
    fn foreign_domain(self) -> Self {
        let mut given = self.domain(DomainRun::Running, 2);
        if let Observed::Present(domain) = &mut given.seen.domain {
            domain.tag = None;
        }
        given
    }
    fn silent_host(mut self) -> Self {
        self.seen.domain = Observed::Unknown { why: "no route".into(), since: at(0) };
        self.seen.volumes = Observed::Unknown { why: "no route".into(), since: at(0) };
        self
    }
    fn volumes(mut self, names: &[&str]) -> Self {
        self.seen.volumes = Observed::Present(names.iter().map(|name| (*name).to_owned()).collect());
        self
    }
    fn was(mut self, phase: Phase) -> Self {
        self.seen.history.phase = phase;
        self
    }
    fn finished(mut self) -> Self {
        self.seen.wishes = false;
        self
    }
    fn started(mut self, second: i64) -> Self {
        self.seen.history.started = Some(at(second));
        self
    }
    fn failed(mut self, count: i32, retry_after: i64) -> Self {
        let message = "crashed".into();
        self.seen.history.failure = Some(Failure { count, retry_after: at(retry_after), message });
        self
    }
    fn agent(mut self, answers: bool) -> Self {
        self.seen.agent = Some(answers);
        self
    }
    fn plan(&self) -> Plan {
        plan(&self.want, &self.seen, at(NOW))
    }
    fn plans(&self, steps: &[Step]) {
        assert_eq!(self.plan().steps, steps);
    }
    fn stands(&self, phase: Phase, reason: &str) {
        let standing = self.plan().standing;
        assert_eq!((standing.phase, standing.reason.as_str()), (phase, reason), "{}", standing.message);
    }
}

const OFF: DomainRun = DomainRun::Off(StopReason::Crashed);
const SHUT_DOWN: DomainRun = DomainRun::Off(StopReason::Shutdown);

#[test]
fn a_machine_without_a_host_waits_and_says_for_what() {
    let mut given = machine().placed(Placement::Nowhere);
    given.stands(Phase::Pending, "NotPlaced");
    given.seen.waits = Some(Refusal::new("QuotaExceeded", "2 of 2"));
    given.stands(Phase::Pending, "QuotaExceeded");
    given.plans(&[]);
}

#[test]
fn a_placed_machine_is_made_and_started() {
    let steps = [
        Step::EnsureFilter(RuleSet::Machine),
        Step::EnsureVolume(data_disk()),
        Step::WriteSeed,
        Step::Define,
        Step::Start,
    ];
    machine().plans(&steps);
}

#[test]
fn what_is_there_is_not_made_again() {
    let seed = format!("{UID}-seed-new.img");
    let given = machine().volumes(&["img-a.kernel", &format!("{UID}-data.qcow2"), &seed]);
    let filter = Step::EnsureFilter(RuleSet::Machine);
    given.clone().domain(DomainRun::Off(StopReason::NotStarted), 2).plans(&[filter.clone(), Step::Start]);
    given.plans(&[filter, Step::Define, Step::Start]);
}

#[test]
fn a_new_seed_replaces_the_old_one_after_the_start() {
    let old = format!("{UID}-seed-old.img");
    let steps = machine().volumes(&["img-a.kernel", &old]).plan().steps;
    assert_eq!(steps.last(), Some(&Step::DeleteVolume(old)));
}

#[test]
fn nothing_is_made_before_the_image_is_complete_on_the_host() {
    let given = machine().volumes(&["img-b.kernel"]);
    given.plans(&[]);
    given.stands(Phase::Scheduled, "ImageNotOnHost");
}

#[test]
fn bad_input_is_said_and_nothing_is_made() {
    let mut given = machine();
    given.seen.recipe = Err(Refusal::new("InvalidUserData", "too long"));
    given.plans(&[]);
    given.stands(Phase::Scheduled, "InvalidUserData");
}

#[test]
fn a_silent_host_holds_everything() {
    for given in [machine(), machine().deleted(), machine().wants(RunStrategy::Halted)] {
        let plan = given.silent_host().was(Phase::Running).plan();
        assert!(plan.steps.is_empty() && !plan.release);
        assert_eq!(plan.standing.phase, Phase::Unknown);
    }
}

#[test]
fn what_was_given_up_on_a_silent_host_is_let_go_only_when_it_is_deleted() {
    let mut given = machine().silent_host().was(Phase::Running);
    given.seen.host.given_up = true;
    let plan = given.clone().deleted().plan();
    assert!(plan.release && plan.steps.is_empty());
    assert_eq!(plan.standing.reason, LEFT_BEHIND);
    assert!(!given.plan().release);
    let mut back = machine().deleted().domain(DomainRun::Running, 2).volumes(&[]);
    back.seen.host.given_up = true;
    back.plans(&[Step::Destroy, Step::Undefine]);
}

#[test]
fn nothing_is_started_on_a_closed_host_and_what_runs_there_runs_on() {
    let mut given = machine();
    given.seen.host.closed = Some(Refusal::new("HostNotSwept", "first it is swept"));
    given.plans(&[]);
    given.stands(Phase::Scheduled, "HostNotSwept");
    let running = given.domain(DomainRun::Running, 2).started(NOW - 3).agent(true);
    assert!(running.plan().standing.ready);
}

#[test]
fn a_domain_that_is_not_ours_is_left_alone() {
    machine().foreign_domain().plans(&[]);
    machine().foreign_domain().stands(Phase::Failed, "ForeignDomain");
    let deleted = machine().foreign_domain().deleted().plan();
    assert!(deleted.steps.is_empty() && deleted.release);
}

#[test]
fn a_copy_from_an_earlier_placement_is_switched_off_first() {
    machine().domain(DomainRun::Running, 1).plans(&[Step::Destroy]);
    let steps = machine().domain(OFF, 1).plan().steps;
    assert!(steps.contains(&Step::Define), "a definition from an earlier placement is replaced: {steps:?}");
}

#[test]
fn a_guest_that_answers_is_ready_and_one_that_boots_is_not() {
    let running = machine().domain(DomainRun::Running, 2).started(NOW - 3);
    assert!(running.clone().agent(true).plan().standing.ready);
    running.clone().agent(false).stands(Phase::Booting, "Booting");
    assert_eq!(running.clone().agent(false).plan().again, Duration::from_millis(500));
    assert_eq!(running.clone().started(NOW - 20).agent(false).plan().again, Duration::from_secs(2));
    machine().domain(DomainRun::Running, 2).started(NOW - 601).agent(false).stands(Phase::Booting, "BootTimeout");
    let mut lost = running.clone().agent(false);
    lost.seen.history.answered = true;
    lost.stands(Phase::Running, "AgentLost");
    let mut careless = running.agent(false);
    careless.want.readiness = Readiness::None;
    assert!(careless.plan().standing.ready);
}

#[test]
fn a_guest_that_an_io_error_paused_is_resumed_now_and_then() {
    let mut given = machine().domain(DomainRun::PausedByIoError, 2).started(NOW - 100);
    given.plans(&[]);
    assert_eq!(given.plan().clock, Some(Clock::StandsStill), "which is written down before it may go on");
    given.seen.history.clock = Some(Clock::Behind);
    given.plans(&[Step::Resume]);
    given.stands(Phase::Running, "PausedByIOError");
    given.seen.resumed = Some(at(NOW - 4));
    given.plans(&[]);
    assert_eq!(given.plan().again, Duration::from_secs(6), "when its next turn comes");
    given.stands(Phase::Running, "PausedByIOError");
    given.seen.resumed = Some(at(NOW - 10));
    given.plans(&[Step::Resume]);
    given.clone().domain(DomainRun::PausedByIoError, 1).plans(&[Step::Destroy]);
    assert_eq!(given.clone().deleted().plan().steps.first(), Some(&Step::Destroy));
    given.domain(DomainRun::Paused, 2).plans(&[]);
}

#[test]
fn a_guest_that_stood_still_gets_its_clock_set_when_it_goes_on_and_its_agent_answers() {
    let mut given = machine().domain(DomainRun::Paused, 2).started(NOW - 100).agent(false);
    assert_eq!((given.plan().steps, given.plan().clock), (vec![], Some(Clock::StandsStill)));
    given.seen.history.clock = Some(Clock::Behind);
    let goes_on = given.domain(DomainRun::Running, 2);
    assert_eq!((goes_on.plan().steps, goes_on.plan().clock), (vec![], Some(Clock::Behind)));
    assert!(goes_on.plan().again <= Duration::from_secs(10));
    let mut answers = goes_on.agent(true);
    answers.plans(&[Step::SetClock]);
    assert!(answers.plan().standing.ready);
    answers.seen.history.clock = None;
    assert_eq!((answers.plan().steps, answers.plan().clock), (vec![], None));
    let mut unknown = answers.clone();
    unknown.seen.history.clock = Some(Clock::Behind);
    unknown.seen.domain = Observed::Unknown { why: "silent".into(), since: at(NOW) };
    assert_eq!(unknown.plan().clock, Some(Clock::Behind), "what isn't known isn't forgotten");
    let saved = machine().domain(DomainRun::Off(StopReason::Saved), 2).started(NOW - 5).was(Phase::Running).plan();
    assert!(saved.steps.contains(&Step::Start), "as hosts do with their guests when they are shut down: {saved:?}");
    assert_eq!(saved.clock, Some(Clock::Behind));
    let started_anew = machine().domain(OFF, 2).failed(1, NOW);
    assert_eq!(started_anew.plan().clock, None, "a start takes the time from the host");
}

#[test]
fn halting_asks_first_and_switches_off_when_the_time_is_over() {
    let mut given = machine().wants(RunStrategy::Halted).domain(DomainRun::Running, 2).agent(true);
    given.plans(&[Step::Shutdown]);
    given.seen.history.stop_asked = Some(at(NOW - 5));
    given.plans(&[]);
    given.seen.history.stop_asked = Some(at(NOW - 9));
    given.plans(&[Step::Shutdown]);
    given.seen.history.stop_asked = Some(at(NOW - 60));
    given.plans(&[Step::Destroy]);
    machine().wants(RunStrategy::Halted).domain(SHUT_DOWN, 2).stands(Phase::Stopped, "Halted");
}

#[test]
fn ready_is_what_is_as_its_spec_wants_it_be_that_off() {
    let ready = |given: Given| {
        let standing = given.plan().standing;
        (standing.phase, standing.ready)
    };
    let halted = || machine().wants(RunStrategy::Halted);
    assert_eq!(ready(halted().domain(SHUT_DOWN, 2)), (Phase::Stopped, true));
    assert_eq!(ready(halted().placed(Placement::Resting)), (Phase::Stopped, true));
    assert_eq!(ready(halted().placed(Placement::Nowhere)), (Phase::Stopped, true), "it never ran");
    assert_eq!(ready(halted().domain(DomainRun::Running, 2).agent(true)), (Phase::Stopping, false));
    let ended = |run, how| machine().wants(run).domain(how, 2).was(Phase::Running).started(NOW - 100);
    assert_eq!(ready(ended(RunStrategy::Once, SHUT_DOWN)), (Phase::Stopped, true));
    assert_eq!(ready(ended(RunStrategy::RerunOnFailure, SHUT_DOWN)), (Phase::Stopped, true));
    assert_eq!(ready(ended(RunStrategy::Once, OFF)), (Phase::Failed, false));
    let failed = machine().wants(RunStrategy::Once).domain(OFF, 2).was(Phase::Failed).finished();
    assert_eq!(ready(failed), (Phase::Failed, false));
    assert_eq!(ready(machine().placed(Placement::Resting)), (Phase::Pending, false));
}

#[test]
fn the_run_strategy_decides_what_follows_an_end() {
    let ended = |run, how| machine().wants(run).domain(how, 2).was(Phase::Running).started(NOW - 100);
    let starts = |given: Given| given.plan().steps.contains(&Step::Start);
    assert!(starts(ended(RunStrategy::Always, SHUT_DOWN)));
    assert!(starts(ended(RunStrategy::Always, OFF)));
    assert!(starts(ended(RunStrategy::RerunOnFailure, OFF)));
    ended(RunStrategy::RerunOnFailure, SHUT_DOWN).stands(Phase::Stopped, "Finished");
    ended(RunStrategy::Once, SHUT_DOWN).stands(Phase::Stopped, "Finished");
    assert_eq!(ended(RunStrategy::Once, OFF).plan().standing.phase, Phase::Failed);
    assert!(starts(ended(RunStrategy::Once, DomainRun::Off(StopReason::NotStarted)).was(Phase::Scheduled)));
}

#[test]
fn what_ended_stays_ended() {
    for run in [RunStrategy::Once, RunStrategy::RerunOnFailure] {
        let given = machine().wants(run).domain(SHUT_DOWN, 2).was(Phase::Stopped).finished();
        given.plans(&[]);
        given.stands(Phase::Stopped, "Finished");
        given.placed(Placement::Resting).stands(Phase::Stopped, "Finished");
    }
}

#[test]
fn what_was_halted_and_called_back_waits_to_be_admitted_again() {
    let given = machine().domain(SHUT_DOWN, 2).was(Phase::Stopped);
    given.plans(&[]);
    given.stands(Phase::Stopped, "Restarting");
}

#[test]
fn what_was_halted_and_is_admitted_again_runs_again() {
    for run in [RunStrategy::Always, RunStrategy::Once, RunStrategy::RerunOnFailure] {
        let steps = machine().wants(run).domain(SHUT_DOWN, 1).was(Phase::Stopped).plan().steps;
        assert!(steps.contains(&Step::Start), "{run:?}: {steps:?}");
    }
}

#[test]
fn a_machine_that_ends_soon_after_its_start_waits_longer_each_time() {
    let crashed = machine().domain(OFF, 2).was(Phase::Booting).started(NOW - 5);
    let first = crashed.plan();
    assert!(first.steps.is_empty());
    let failure = first.standing.failure.unwrap();
    assert_eq!((failure.count, failure.retry_after), (1, at(NOW + 10)));
    let third = crashed.failed(2, NOW - 100).plan().standing.failure.unwrap();
    assert_eq!((third.count, third.retry_after), (3, at(NOW + 40)));
    machine().domain(OFF, 2).failed(1, NOW + 1).stands(Phase::Pending, "BackOff");
    let steps = machine().domain(OFF, 2).failed(1, NOW).plan().steps;
    assert!(steps.contains(&Step::Start), "its time has come: {steps:?}");
}

#[test]
fn pauses_between_starts_are_bounded() {
    assert_eq!(pause(0), Duration::ZERO);
    assert_eq!(pause(1), Duration::from_secs(10));
    assert_eq!(pause(i32::MAX), Duration::from_secs(300));
}

#[test]
fn deletion_removes_all_of_it_and_nothing_else_and_then_lets_go() {
    let root = format!("{UID}-root.qcow2");
    let seed = format!("{UID}-seed-old.img");
    let given =
        machine().deleted().domain(DomainRun::Running, 2).volumes(&[&root, &seed, "img-a.kernel", "others.img"]);
    given.plans(&[Step::Destroy, Step::Undefine, Step::DeleteVolume(root), Step::DeleteVolume(seed)]);
    assert!(!given.plan().release);
    assert!(machine().deleted().plan().release, "nothing is left");
    assert!(machine().deleted().placed(Placement::Nowhere).silent_host().plan().release, "it never was anywhere");
}

/// A card is put back behind a filter that is there.
const FILTER: Step = Step::EnsureFilter(RuleSet::Machine);
const MEND_NICS: [Step; 2] = [FILTER, Step::MendNics];

/// Runs, all of it there.
fn running() -> Given {
    let data = format!("{UID}-data.qcow2");
    let seed = format!("{UID}-seed-new.img");
    let mut given = machine().domain(DomainRun::Running, 2).started(NOW - 100).agent(true).was(Phase::Running);
    given = given.volumes(&["img-a.kernel", &data, &seed]);
    given.seen.disks_made = true;
    given
}

#[test]
fn a_machine_whose_farm_is_gone_is_told_and_goes_on() {
    let mut given = running();
    let refusal = Refusal::new("FarmGone", "its cards are cut off");
    given.seen.farm_gone = Some(refusal.clone());
    (given.seen.recipe, given.seen.nics) = (Err(refusal), Vec::new());
    let plan = plan(&given.want, &given.seen, at(NOW));
    assert_eq!((plan.steps.as_slice(), plan.repairs.as_slice()), ([].as_slice(), [].as_slice()));
    assert_eq!((plan.standing.ready, plan.standing.reason.as_str()), (false, "FarmGone"));
}

fn card(forms: &mut Forms) -> &mut NicForm {
    &mut forms.running.as_mut().unwrap().nics[0]
}

#[test]
fn a_machine_as_it_was_made_has_not_drifted() {
    for given in [running(), running().reports(), running().domain(OFF, 2)] {
        assert_eq!(given.drifted(), []);
        assert_eq!(given.plan().repairs, []);
    }
}

#[test]
fn a_card_that_may_not_be_behind_its_filter_is_put_right_under_either_policy() {
    let changes: [fn(&mut NicForm); 4] = [
        |card| card.filter = None,
        |card| card.filter = Some("clean-traffic".into()),
        |card| _ = card.parameters.insert(("IP".into(), "172.16.1.11".into())),
        |card| card.bridge = Some("br1".into()),
    ];
    for change in changes {
        let given = running().with_forms(|forms| change(card(forms)));
        for given in [given.clone(), given.reports()] {
            assert_eq!(given.drifted(), [DriftKind::NetworkCard]);
            assert_eq!(given.plan().repairs, MEND_NICS);
            assert!(given.plan().standing.ready, "it goes on meanwhile");
        }
    }
}

#[test]
fn a_card_is_put_back_whatever_else_cannot_be_made() {
    let mut given = running().with_forms(|forms| card(forms).filter = None);
    given.seen.recipe = Err(Refusal::new("UserDataNotFound", "gone"));
    assert_eq!(given.plan().repairs, MEND_NICS);
}

#[test]
fn a_card_too_many_is_cut_off_and_one_too_few_needs_a_restart() {
    let other = |card: &NicForm| NicForm { mac: "02:00:ac:10:02:0b".into(), ..card.clone() };
    let two = running().with_forms(|forms| {
        let second = other(card(forms));
        forms.running.as_mut().unwrap().nics.push(second);
    });
    assert_eq!(two.drifted()[0], DriftKind::NetworkCard);
    assert_eq!(two.plan().repairs, MEND_NICS);
    let none = running().with_forms(|forms| forms.running.as_mut().unwrap().nics.clear());
    assert_eq!((none.drifted(), none.plan().repairs), (vec![DriftKind::Device], vec![]));
}

#[test]
fn a_pulled_cable_is_plugged_in_unless_it_is_only_to_be_reported() {
    let given = running().with_forms(|forms| card(forms).is_cut = true);
    assert_eq!(given.drifted(), [DriftKind::CableCut]);
    assert_eq!(given.plan().repairs, MEND_NICS);
    assert_eq!(given.reports().plan().repairs, []);
}

#[test]
fn a_card_behind_a_filter_of_another_version_is_behind_the_rules_of_this_one() {
    let given = running().with_forms(|forms| {
        card(forms).filter = Some("cascina-machine-000000000000".into());
        forms.defined.as_mut().unwrap().nics[0].filter = Some("cascina-machine-000000000000".into());
    });
    assert_eq!((given.drifted(), given.plan().repairs), (vec![], vec![]));
}

#[test]
fn a_machine_made_from_an_earlier_spec_has_not_drifted_as_long_as_its_card_is_held() {
    let mut given = running();
    if let Observed::Present(domain) = &mut given.seen.domain {
        domain.tag.as_mut().unwrap().spec_hash = "earlier".into();
    }
    let earlier = given.with_forms(|forms| {
        forms.running.as_mut().unwrap().cpus = 7;
        card(forms).filter = Some("cascina-machine-000000000000".into());
        card(forms).bridge = Some("br-old".into());
    });
    assert_eq!(earlier.drifted(), []);
    let bare = earlier.with_forms(|forms| card(forms).filter = Some("cascina-router-000000000000".into()));
    assert_eq!(bare.drifted(), [DriftKind::NetworkCard]);
}

#[test]
fn a_definition_is_put_back_and_what_runs_is_left_to_its_owner() {
    let edited = running().with_forms(|forms| forms.defined.as_mut().unwrap().cpus = 9);
    assert_eq!((edited.drifted(), edited.plan().repairs), (vec![DriftKind::Definition], vec![Step::Define]));
    assert_eq!(edited.reports().plan().repairs, []);
    let undefined = running().with_forms(|forms| forms.defined = None);
    assert_eq!((undefined.drifted(), undefined.plan().repairs), (vec![DriftKind::Undefined], vec![Step::Define]));
    let resized = running().with_forms(|forms| forms.running.as_mut().unwrap().cpus = 9);
    assert_eq!((resized.drifted(), resized.plan().repairs), (vec![DriftKind::Device], vec![]));
    assert!(resized.plan().drifts[0].what.contains("9 CPUs instead of 1"), "{:?}", resized.plan().drifts);
}

#[test]
fn a_renamed_domain_gets_its_name_back() {
    let mut given = running().domain(SHUT_DOWN, 2).wants(RunStrategy::Halted).was(Phase::Stopped);
    if let Observed::Present(domain) = &mut given.seen.domain {
        domain.name = "mine".into();
    }
    assert_eq!((given.drifted(), given.plan().repairs), (vec![DriftKind::Renamed], vec![Step::Define]));
    let started = given.wants(RunStrategy::Always).was(Phase::Pending).plan().steps;
    assert_eq!(started, [FILTER, Step::Define, Step::Start], "and before it starts in any case");
}

#[test]
fn an_edited_definition_is_not_started() {
    let given = running().domain(DomainRun::Off(StopReason::NotStarted), 2);
    given.plans(&[FILTER, Step::Start]);
    let edited = given.with_forms(|forms| forms.defined.as_mut().unwrap().nics[0].filter = None);
    edited.reports().plans(&[FILTER, Step::Define, Step::Start]);
}

#[test]
fn a_seed_is_written_again_and_a_disk_is_not_replaced() {
    let data = format!("{UID}-data.qcow2");
    let seed = format!("{UID}-seed-new.img");
    let seedless = running().volumes(&["img-a.kernel", &data]);
    assert_eq!((seedless.drifted(), seedless.plan().repairs), (vec![DriftKind::SeedDeleted], vec![Step::WriteSeed]));
    let diskless = running().volumes(&["img-a.kernel", &seed]);
    assert_eq!((diskless.drifted(), diskless.plan().repairs), (vec![DriftKind::DiskDeleted], vec![]));
    for run in [OFF, DomainRun::Off(StopReason::NotStarted)] {
        let off = diskless.clone().domain(run, 2);
        off.plans(&[]);
        off.stands(Phase::Failed, "DiskDeleted");
    }
}

#[test]
fn a_look_from_before_the_disks_were_made_says_nothing_of_them() {
    let mut early = running().volumes(&["img-a.kernel"]);
    early.seen.volumes_are_fresh = false;
    assert_eq!(early.drifted(), []);
    let off = early.domain(DomainRun::Off(StopReason::NotStarted), 2);
    off.plans(&[]);
    assert_eq!(off.plan().standing.reason, "Looking");
}

#[test]
fn a_domain_that_vanished_is_made_again_as_its_run_strategy_says() {
    let vanished = || {
        let mut given = running();
        given.seen.domain = Observed::Absent;
        given
    };
    vanished().plans(&[FILTER, Step::Define, Step::Start]);
    assert_eq!(vanished().wants(RunStrategy::Once).plan().standing.phase, Phase::Failed);
    assert_eq!(vanished().started(NOW - 5).plan().standing.reason, "BackOff");
    vanished().reports().plans(&[]);
    vanished().reports().stands(Phase::Failed, "DomainUndefined");
    let mut told = vanished().reports();
    told.seen.history.started = None;
    told.seen.history.vanished = true;
    told.stands(Phase::Failed, "DomainUndefined");
}

fn any_domain() -> impl Strategy<Value = Observed<SurveyedDomain>> {
    let runs = prop_oneof![
        Just(DomainRun::Running),
        Just(DomainRun::Paused),
        Just(DomainRun::PausedByIoError),
        Just(DomainRun::ShuttingDown),
        Just(OFF),
        Just(SHUT_DOWN),
        Just(DomainRun::Off(StopReason::NotStarted)),
        Just(DomainRun::Off(StopReason::Destroyed)),
    ];
    (runs, prop::option::of(1..4_i64), 0..3).prop_map(|(run, epoch, kind)| match kind {
        0 => Observed::Unknown { why: "no route".into(), since: at(0) },
        1 => Observed::Absent,
        _ => Observed::Present(SurveyedDomain {
            name: "casc".into(),
            run,
            tag: epoch.map(tag),
            canary: None,
            copied_tag: None,
            memory: Bytes::mebi(256),
            cpus: 1,
            forms: Some(forms(run)),
        }),
    })
}

prop_compose! {
    fn any_given()(
        deleted: bool,
        run in prop_oneof![
            Just(RunStrategy::Always), Just(RunStrategy::Halted), Just(RunStrategy::RerunOnFailure), Just(RunStrategy::Once)
        ],
        placement in prop_oneof![Just(Placement::Nowhere), Just(Placement::Resting), Just(Placement::Admitted)],
        domain in any_domain(),
        phase in prop_oneof![Just(Phase::Pending), Just(Phase::Booting), Just(Phase::Running), Just(Phase::Stopping), Just(Phase::Stopped)],
        started in prop::option::of(0..NOW),
        agent in prop::option::of(any::<bool>()),
    ) -> Given {
        let mut given = machine().wants(run).placed(placement).was(phase);
        given.want.deleted = deleted;
        if matches!(domain, Observed::Unknown { .. }) {
            given = given.silent_host();
        }
        given.seen.domain = domain;
        given.seen.history.started = started.map(at);
        given.seen.agent = agent;
        given
    }
}

proptest! {
    #[test]
    fn ignorance_never_acts(given in any_given()) {
        let plan = given.plan();
        if matches!(given.seen.domain, Observed::Unknown { .. }) && given.seen.placement != Placement::Nowhere {
            prop_assert!(plan.steps.is_empty() && !plan.release);
        }
    }

    #[test]
    fn only_an_admitted_machine_starts_and_only_one_that_is_off(given in any_given()) {
        if given.plan().steps.contains(&Step::Start) {
            prop_assert_eq!(&given.seen.placement, &Placement::Admitted);
            let off = given.seen.domain.present().is_none_or(|domain| matches!(domain.run, DomainRun::Off(_)));
            prop_assert!(off && !given.want.deleted && given.want.run != RunStrategy::Halted);
        }
    }

    #[test]
    fn disks_are_removed_only_with_their_machine(given in any_given()) {
        let disks = |steps: &[Step]| steps.iter().any(|step| matches!(step, Step::DeleteVolume(name) if !name.contains("-seed-")));
        prop_assert!(given.want.deleted || !disks(&given.plan().steps));
    }

    #[test]
    fn what_is_not_ours_is_never_touched(given in any_given()) {
        if given.seen.domain.present().is_some_and(|domain| domain.tag.is_none()) {
            prop_assert!(given.plan().steps.is_empty());
        }
    }
}
