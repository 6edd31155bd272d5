//! What the plan decides about canaries, and what is told of them.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::act::{Deeds, Outcome};
use super::evidence::{Evidence, Memory};
use super::plan::{Obstacle, Step, View, is_verified, pause, plan};
use super::recipe::{Stage, canary, canary_uuid};
use super::status::{admits_machines, news, status};
use super::verdict::{Check, Nonce, Verdict, judge};
use crate::api::conditions::find;
use crate::api::{Hypervisor, PinnedImage};
use crate::controllers::news::Attention;
use crate::controllers::observed::Observed;
use crate::controllers::placement::testing::{at, host};
use crate::libvirt::{DomainRun, DomainSpec, GuestOutput, HostError, StopReason, SurveyedDomain};

const INTERVAL: Duration = Duration::from_secs(20);
const ATTACK: [Step; 1] = [Step::Attack];
pub const MAKE: [Step; 3] = [Step::EnsureFilter, Step::Define, Step::Start];

fn hypervisor() -> Hypervisor {
    let mut hypervisor = host("worker-1", 4, "4Gi", "40Gi");
    hypervisor.metadata.uid = Some("6f0c6a5e-0000-4000-8000-00000000000a".into());
    hypervisor.status.as_mut().unwrap().conditions.retain(|condition| condition.type_ != "IsolationVerified");
    hypervisor
}

fn recipe(kernel: &str) -> DomainSpec {
    let image: PinnedImage = serde_json::from_value(serde_json::json!({
        "name": "appliance", "revision": "1", "kernel": {"kernel": kernel, "cmdline": "quiet"},
    }))
    .unwrap();
    canary("cluster", &hypervisor(), stage(0), &image).unwrap()
}

pub fn stage(slot: i32) -> Stage {
    Stage::of_slot("198.18.0.0/15".parse().unwrap(), slot).unwrap()
}

pub fn domain(run: DomainRun) -> SurveyedDomain {
    let made = recipe("img-a.kernel");
    SurveyedDomain {
        name: "casc-canary".into(),
        run,
        tag: None,
        canary: Some(made.tag),
        copied_tag: None,
        forms: None,
        memory: made.memory,
        cpus: 1,
    }
}

pub fn seen(canary: Observed<SurveyedDomain>) -> View {
    View {
        wanted: true,
        interval: INTERVAL,
        uuid: recipe("").uuid,
        slot: Some(0),
        stage: Some(stage(0)),
        recipe: Ok(recipe("img-a.kernel")),
        canary,
        strays: Vec::new(),
        evidence: Evidence::default(),
    }
}

fn running() -> View {
    seen(Observed::Present(domain(DomainRun::Running)))
}

fn off() -> Observed<SurveyedDomain> {
    Observed::Present(domain(DomainRun::Off(StopReason::NotStarted)))
}

pub fn unknown() -> Observed<SurveyedDomain> {
    Observed::Unknown { why: "no route".into(), since: at(0) }
}

fn ran(verdict: Verdict) -> Deeds {
    Deeds { outcome: Some(Outcome::Judged(verdict)), ..Deeds::default() }
}

fn leaked(checks: &[Check]) -> Verdict {
    Verdict::Leaked(checks.iter().copied().collect())
}

/// The view after this was done at this time.
fn after(mut view: View, deeds: &Deeds, time: Timestamp) -> View {
    view.evidence.look(&view.canary.clone(), time);
    view.evidence.learn(deeds, time);
    view
}

pub fn steps(view: &View, second: i64) -> Vec<Step> {
    plan(view, at(second)).steps
}

/// Status, reason and message of the condition.
fn told(view: &View, second: i64) -> (String, String, String) {
    let after = status(&hypervisor(), view, at(second));
    let condition = find(&after.conditions, "IsolationVerified").unwrap().clone();
    (condition.status, condition.reason, condition.message)
}

fn said(view: &View, second: i64) -> String {
    let (status, reason, _) = told(view, second);
    format!("{status} {reason}")
}

#[test]
fn a_canary_is_made_started_and_asked() {
    assert_eq!(steps(&seen(Observed::Absent), 0), MAKE);
    assert_eq!(steps(&seen(off()), 0), MAKE, "after a power loss");
    assert_eq!(steps(&running(), 0), ATTACK);
    assert_eq!(steps(&seen(Observed::Present(domain(DomainRun::Paused))), 0), [Step::Destroy]);
    assert_eq!(steps(&seen(unknown()), 0), []);
}

#[test]
fn a_host_is_verified_for_three_intervals_after_it_held_and_no_longer() {
    let held = after(running(), &ran(Verdict::Held), at(100));
    assert_eq!(said(&held, 100), "True Verified");
    assert_eq!(steps(&held, 119), []);
    assert_eq!(pause(&held, at(100)), INTERVAL);
    assert_eq!(steps(&held, 120), ATTACK);
    assert_eq!(said(&held, 159), "True Verified");
    assert_eq!(said(&held, 160), "Unknown NotRun");
}

#[test]
fn a_run_that_tells_nothing_neither_verifies_nor_accuses() {
    let trouble = ran(Verdict::Inconclusive("the canary's report makes no sense".into()));
    let fresh = after(running(), &trouble, at(100));
    assert_eq!(told(&fresh, 100), ("Unknown".into(), "NotRun".into(), "the canary's report makes no sense".into()));
    let held = after(running(), &ran(Verdict::Held), at(100));
    assert_eq!(said(&after(held, &trouble, at(120)), 159), "True Verified");
}

#[test]
fn lost_filters_are_put_back_at_once_and_then_once_an_interval() {
    let repair = [Step::RefreshFilters, Step::Attack];
    let leaks = after(running(), &ran(leaked(&[Check::IpSpoof])), at(100));
    assert_eq!(said(&leaks, 100), "False FramesLeaked");
    assert_eq!((steps(&leaks, 100), pause(&leaks, at(100))), (repair.to_vec(), Duration::ZERO));
    let in_vain = Deeds { refreshed: true, ..ran(leaked(&[Check::IpSpoof])) };
    let still = after(leaks.clone(), &in_vain, at(101));
    assert_eq!(steps(&still, 102), []);
    assert_eq!(steps(&still, 121), repair);
    let mut mended = leaks;
    let deeds = Deeds { refreshed: true, ..ran(Verdict::Held) };
    assert!(mended.evidence.learn(&deeds, at(102)), "worth an event");
    assert_eq!(said(&mended, 102), "True Verified");
}

#[test]
fn what_the_bridge_lets_happen_is_told_with_the_command_that_mends_it() {
    let stolen = after(running(), &ran(leaked(&[Check::StealByLinkLocal])), at(100));
    let (status, reason, message) = told(&stolen, 100);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "MacTableStolen"));
    assert!(message.ends_with("ip link set farms type bridge no_linklocal_learn 1"), "{message}");
    assert_eq!(steps(&stolen, 110), [], "no filter helps");
    assert_eq!(steps(&stolen, 120), ATTACK);
    let (_, reason, message) = told(&after(running(), &ran(leaked(&[Check::VlanTag])), at(100)), 100);
    assert_eq!(reason, "FramesLeaked");
    assert!(message.contains("vlan-tag"), "{message}");
}

#[test]
fn a_leak_stays_told_until_a_run_that_held() {
    let stolen = after(running(), &ran(leaked(&[Check::StealByLinkLocal])), at(100));
    assert_eq!(said(&stolen, 1000), "False MacTableStolen");
    let trouble = after(stolen.clone(), &ran(Verdict::Inconclusive("nothing".into())), at(120));
    assert_eq!(said(&trouble, 120), "False MacTableStolen");
    let rebooted = after(View { canary: off(), ..stolen.clone() }, &Deeds::default(), at(130));
    assert_eq!(said(&rebooted, 130), "False MacTableStolen");
    assert_eq!(said(&after(stolen, &ran(Verdict::Held), at(140)), 140), "True Verified");
}

#[test]
fn a_host_that_was_away_or_off_proves_itself_anew() {
    let held = after(running(), &ran(Verdict::Held), at(100));
    let silent = after(View { canary: unknown(), ..held.clone() }, &Deeds::default(), at(101));
    assert_eq!(said(&silent, 101), "Unknown HostUnknown");
    let back = View { canary: running().canary, ..silent };
    assert!(!is_verified(&back, at(102)), "its bridge may be another one now");
    let rebooted = after(View { canary: off(), ..held }, &Deeds::default(), at(101));
    assert_eq!(said(&rebooted, 101), "Unknown CanaryBooting");
}

#[test]
fn another_image_other_rules_or_networks_are_another_canary() {
    let outdated = View { recipe: Ok(recipe("img-b.kernel")), ..running() };
    assert_eq!(steps(&outdated, 0), [&[Step::Destroy, Step::Undefine][..], &MAKE].concat());
    let held = after(outdated, &ran(Verdict::Held), at(100));
    let remade = after(held, &Deeds { made: true, ..Deeds::default() }, at(101));
    assert_eq!(said(&remade, 101), "Unknown CanaryBooting", "the new one has proved nothing yet");
    let hash = |spec: &DomainSpec| spec.tag.spec_hash.clone();
    let mut other = recipe("img-a.kernel");
    other.nics[0].hold = crate::network::Hold::Router(other.nics[0].hold.address());
    assert_ne!(other.content_hash(), hash(&recipe("img-a.kernel")));
}

#[test]
fn without_an_image_it_is_said_what_to_do_and_a_canary_that_runs_goes_on() {
    let obstacle = Obstacle::new("ImageMissing", "kubectl patch image");
    let without = View { recipe: Err(obstacle.clone()), ..seen(Observed::Absent) };
    assert_eq!(told(&without, 0), ("Unknown".into(), "ImageMissing".into(), "kubectl patch image".into()));
    assert_eq!(steps(&without, 0), []);
    assert_eq!(steps(&View { recipe: Err(obstacle), ..running() }, 0), ATTACK);
}

#[test]
fn a_canary_that_says_nothing_is_started_anew() {
    let mute = after(running(), &Deeds { outcome: Some(Outcome::NoAnswer), ..Deeds::default() }, at(100));
    assert_eq!(said(&mute, 101), "Unknown CanaryBooting");
    assert_eq!(pause(&mute, at(101)), Duration::from_secs(1));
    assert_eq!(steps(&mute, 279), ATTACK);
    assert_eq!(steps(&mute, 280), [Step::Destroy]);
}

#[test]
fn a_domain_that_is_not_ours_is_left_alone() {
    let foreign = SurveyedDomain { canary: None, ..domain(DomainRun::Running) };
    let view = seen(Observed::Present(foreign));
    assert_eq!(steps(&view, 0), []);
    assert_eq!(said(&view, 0), "Unknown ForeignDomain");
    assert_eq!(steps(&View { wanted: false, ..view }, 0), []);
}

#[test]
fn turned_off_the_canary_goes_and_machines_come_without_proof() {
    let view = View { wanted: false, ..running() };
    assert_eq!(steps(&view, 0), [Step::Destroy, Step::Undefine]);
    assert_eq!(said(&view, 0), "Unknown Disabled");
    assert!(admits_machines(&status(&hypervisor(), &view, at(0))));
    assert!(!admits_machines(&status(&hypervisor(), &running(), at(0))), "but not merely because nothing is known");
    assert!(!admits_machines(hypervisor().status.as_ref().unwrap()), "nor before anything is told");
}

#[test]
fn a_new_process_believes_what_was_written_down_for_a_little_while() {
    let mut known = hypervisor();
    known.status = Some(status(&known, &after(running(), &ran(Verdict::Held), at(100)), at(100)));
    let recalled =
        |known: &Hypervisor, second| View { evidence: Memory::default().recall(known, at(second)), ..running() };
    assert!(is_verified(&recalled(&known, 130), at(130)));
    assert!(!is_verified(&recalled(&known, 221), at(221)));
    let leaks = after(running(), &ran(leaked(&[Check::StealByLinkLocal])), at(100));
    known.status = Some(status(&known, &leaks, at(100)));
    assert_eq!(said(&recalled(&known, 130), 130), "False MacTableStolen");
}

#[test]
fn the_time_is_told_once_a_minute() {
    let mut known = hypervisor();
    let held = |second| after(running(), &ran(Verdict::Held), at(second));
    known.status = Some(status(&known, &held(100), at(100)));
    let told = |second| status(&known, &held(second), at(second)).isolation.unwrap().last_verified.unwrap().0;
    assert_eq!((told(159), told(160)), (at(100), at(160)));
    assert_eq!(Some(status(&known, &held(120), at(120))), known.status, "a good run alone is no write");
}

#[test]
fn events_tell_of_changes_and_repairs() {
    let mut known = hypervisor();
    let mut tell = |view: &View, second, repaired| {
        let after = status(&known, view, at(second));
        let told: Vec<_> =
            news(&known, &after, repaired).into_iter().map(|news| (news.attention, news.reason)).collect();
        known.status = Some(after);
        told
    };
    let word = |attention, reason: &str| vec![(attention, reason.to_owned())];
    let (nobody, somebody) = (Attention::Nobody, Attention::Somebody);
    assert_eq!(tell(&running(), 0, false), [], "booting is no news");
    let held = after(running(), &ran(Verdict::Held), at(10));
    assert_eq!(tell(&held, 10, false), word(nobody.clone(), "Verified"));
    assert_eq!(tell(&held, 11, false), []);
    assert_eq!(
        tell(&after(held.clone(), &ran(leaked(&[Check::MacSpoof])), at(30)), 30, false),
        word(somebody.clone(), "FramesLeaked")
    );
    let mended = tell(&after(held.clone(), &ran(Verdict::Held), at(31)), 31, true);
    assert_eq!(mended, [word(somebody, "FiltersPutBack"), word(nobody.clone(), "Verified")].concat());
    assert_eq!(tell(&held, 95, false), word(Attention::if_it_lasts("IsolationVerified", "NotRun"), "IsolationNotRun"));
}

#[test]
fn a_host_that_refuses_is_quoted() {
    let refused = HostError::Refused { operation: "start", message: "no memory".into() };
    let view = after(seen(Observed::Absent), &Deeds { error: Some(refused), ..Deeds::default() }, at(0));
    assert_eq!(told(&view, 0), ("Unknown".into(), "CanaryBooting".into(), "start: no memory".into()));
}

#[test]
fn hosts_have_networks_of_their_own_and_canaries_uuids() {
    assert_eq!(Stage::of_slot("198.18.0.0/23".parse().unwrap(), 1), None);
    assert_eq!(Stage::of_slot("198.18.0.0/15".parse().unwrap(), -1), None);
    let arguments = stage(255).attack(Nonce::random()).arguments;
    assert_eq!(arguments[2..], ["198.19.254.2", "198.19.254.3", "198.19.254.4", "198.19.255.2"]);
    let uid = |number| uuid::Uuid::from_u128(number);
    assert_ne!(canary_uuid("one", uid(1)), canary_uuid("two", uid(1)));
    assert_ne!(canary_uuid("one", uid(1)), canary_uuid("one", uid(2)));
    assert_eq!(recipe("img").nics.len(), 4);
}

fn report(nonce: &str, change: impl Fn(&mut serde_json::Value)) -> GuestOutput {
    let check = |check: Check| {
        let arrives = matches!(check, Check::Good | Check::StealByFrame | Check::StealByLinkLocal);
        serde_json::json!({"name": check.name(), "sent": 3, "arrived": if arrives { 3 } else { 0 }, "strayed": 0})
    };
    let mut report = serde_json::json!({"nonce": nonce, "checks": Check::ALL.map(check)});
    change(&mut report);
    GuestOutput { exit_code: Some(0), output: report.to_string().into_bytes(), errors: Vec::new() }
}

#[test]
fn a_report_counts_if_it_is_of_this_run_and_complete() {
    let nonce = Nonce::random();
    let judged = |change: &dyn Fn(&mut serde_json::Value)| judge(&report(&nonce.to_string(), change), nonce);
    assert_eq!(judged(&|_| ()), Verdict::Held);
    assert_eq!(judged(&|report| report["checks"][4]["strayed"] = 1.into()), leaked(&[Check::IpSpoof]));
    assert_eq!(
        judged(&|report| {
            report["checks"][7]["strayed"] = 3.into();
            report["checks"][7]["arrived"] = 0.into();
        }),
        leaked(&[Check::StealByFrame])
    );
    let doubts: [&dyn Fn(&mut serde_json::Value); 9] = [
        &|report| report["nonce"] = "0011223344556677".into(),
        &|report| report["checks"][0]["arrived"] = 0.into(),
        &|report| report["checks"][8]["arrived"] = 0.into(),
        &|report| report["checks"][1]["sent"] = 0.into(),
        &|report| drop(report["checks"].as_array_mut().unwrap().pop()),
        &|report| report["checks"].as_array_mut().unwrap().swap(1, 2),
        &|report| report["checks"][1]["name"] = "good".into(),
        &|report| report["checks"][1]["arrived"] = (-1).into(),
        &|report| report["verified"] = true.into(),
    ];
    for (number, doubt) in doubts.into_iter().enumerate() {
        assert!(matches!(judged(doubt), Verdict::Inconclusive(_)), "{number}: {:?}", judged(doubt));
    }
    let answers = [
        GuestOutput { exit_code: Some(1), ..report(&nonce.to_string(), |_| ()) },
        GuestOutput { exit_code: None, ..report(&nonce.to_string(), |_| ()) },
        GuestOutput { exit_code: Some(0), output: vec![b' '; 1 << 20], errors: vec![] },
        GuestOutput { exit_code: Some(1), output: vec![], errors: "\u{1b}[2Jno".repeat(1 << 16).into_bytes() },
    ];
    for answer in answers {
        let Verdict::Inconclusive(why) = judge(&answer, nonce) else { panic!("taken") };
        assert!(why.len() < 400 && !why.contains('\u{1b}'), "{why}");
    }
}

#[test]
fn names_of_checks_are_those_of_the_canary() {
    let names: BTreeSet<_> = Check::ALL.iter().map(|check| check.name()).collect();
    assert_eq!(names.len(), Check::ALL.len());
    for check in Check::ALL {
        assert_eq!(Check::named(check.name()), Some(check));
        assert_eq!(serde_json::from_value::<Check>(check.name().into()).unwrap(), check);
    }
}

proptest! {
    #[test]
    fn no_answer_of_a_canary_makes_us_stumble(output: Vec<u8>, errors: Vec<u8>, exit_code: Option<i32>) {
        let verdict = judge(&GuestOutput { exit_code, output, errors }, Nonce::random());
        prop_assert!(matches!(verdict, Verdict::Inconclusive(_)));
    }

    #[test]
    fn nothing_but_a_run_that_held_verifies(kinds in prop::collection::vec(0..5_u8, 1..20)) {
        let mut view = running();
        let mut good = None;
        for (index, kind) in kinds.iter().enumerate() {
            let time = at(i64::try_from(index).unwrap() * 10);
            let deeds = match kind {
                0 => ran(Verdict::Held),
                1 => ran(leaked(&[Check::StealByLinkLocal])),
                2 => ran(leaked(&[Check::MacSpoof])),
                3 => ran(Verdict::Inconclusive("nothing".into())),
                _ => Deeds { outcome: Some(Outcome::NoAnswer), ..Deeds::default() },
            };
            good = match kind { 0 => Some(time), 1 | 2 => None, _ => good };
            view = after(view, &deeds, time);
            let fresh = good.is_some_and(|good| time.duration_since(good).as_secs() < 60);
            prop_assert_eq!(is_verified(&view, time), fresh);
        }
    }
}
