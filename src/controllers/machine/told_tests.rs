//! What a machine's guest is told, and by which form of seed a machine is measured that runs.

use jiff::Timestamp;

use super::recipe::{Ingredients, Recipe, in_form, recipe};
use super::situation::{Plan, View};
use super::status::status;
use crate::api::conditions::find;
use crate::api::site::Site;
use crate::api::{Phase, RouterTemplate, VirtualFarm, VirtualMachine, Watchdog};
use crate::controllers::observed::Observed;
use crate::controllers::placement::testing::{farm, host, machine, running_on};
use crate::guest::{SeedForm, UserDataText};
use crate::libvirt::OwnershipTag;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

fn member() -> VirtualMachine {
    let mut member = running_on(machine("login", 0), "worker-1", 1, "256Mi");
    member.metadata.uid = Some("00000000-0000-0000-0000-0000000000aa".into());
    member
}

fn made_of(machine: &VirtualMachine, farm: &VirtualFarm, running: Option<&OwnershipTag>) -> Recipe {
    from(machine, farm, |from| recipe(from, running)).unwrap()
}

fn from<T>(machine: &VirtualMachine, farm: &VirtualFarm, make: impl FnOnce(&Ingredients<'_>) -> T) -> T {
    let (host, site) = (host("worker-1", 8, "8Gi", "80Gi"), Site::default());
    let user_data = UserDataText::parse(b"#!/bin/sh\n").ok();
    make(&Ingredients { machine, farm, hypervisor: &host, site: &site, user_data, cluster: "c" })
}

#[test]
fn a_bad_key_is_named_and_the_good_ones_are_given() {
    let (mut member, mut farm) = (member(), farm("farm-a"));
    farm.spec.ssh_keys = vec![[KEY, "farm"].join(" "), "ssh-rsa AAAA".into()];
    member.spec.ssh_keys = vec!["ssh-ed25519-cert-v01@openssh.com AAAA".into(), [KEY, "own"].join(" ")];
    let made = made_of(&member, &farm, None);
    let bad: Vec<_> = made.bad_keys.iter().map(ToString::to_string).collect();
    assert!(bad[0].starts_with("the farm's spec.sshKeys[1]: not an OpenSSH public key"), "{bad:?}");
    assert!(bad[1].starts_with("spec.sshKeys[0]: a certificate"), "{bad:?}");
    let image = String::from_utf8_lossy(&made.seed.unwrap().content.image().unwrap()).into_owned();
    assert!(image.contains(&[KEY, "farm"].join(" ")) && image.contains(&[KEY, "own"].join(" ")));
}

#[test]
fn a_machine_that_was_told_the_same_in_the_first_form_needs_no_restart() {
    let (member, mut farm) = (member(), farm("farm-a"));
    farm.spec.ssh_keys = vec![KEY.into()];
    let newest = made_of(&member, &farm, None);
    let first = from(&member, &farm, |from| in_form(from, SeedForm::First)).unwrap().domain.tag;
    assert_ne!(first.spec_hash, newest.domain.tag.spec_hash);
    let running = made_of(&member, &farm, Some(&first));
    assert_eq!(running.domain.tag, first);
    assert_eq!(running.seed.map(|seed| seed.name), running.domain.seed);
    farm.spec.ssh_keys.clear();
    let changed = made_of(&member, &farm, Some(&first));
    assert_eq!(changed.domain.tag, made_of(&member, &farm, None).domain.tag, "the next start is in the newest form");
}

/// What is said of a machine that runs as `before` was made, and is to be as `after`.
fn said_of_a_restart(machine: &VirtualMachine, before: &Recipe, after: Recipe) -> String {
    let domain = super::tests::running_as(before);
    let (want, seen) = super::tests::a_machine_that_runs();
    let seen = View { domain: Observed::Present(domain), recipe: Ok(after), ..seen };
    let plan = Plan::stay(Phase::Running, "AgentConnected", "");
    let told = status(machine, &seen, &plan, want.drift, &[], Timestamp::UNIX_EPOCH);
    find(&told.conditions, "RestartRequired").unwrap().message.clone()
}

#[test]
fn a_restart_that_is_due_says_what_for() {
    let (mut member, mut farm) = (member(), farm("farm-a"));
    let before = made_of(&member, &farm, None);
    let said = |member: &VirtualMachine, farm: &VirtualFarm| {
        said_of_a_restart(member, &before, made_of(member, farm, Some(&before.domain.tag)))
    };
    assert_eq!(said(&member, &farm), "a restart would change nothing");
    farm.spec.router = Some(RouterTemplate::default());
    assert_eq!(said(&member, &farm), "changed since it was started: its gateway, DNS servers or domain");
    farm.spec.router = None;
    farm.spec.ssh_keys = vec![KEY.into()];
    assert_eq!(said(&member, &farm), "changed since it was started: its keys");
    farm.spec.ssh_keys.clear();
    member.spec.watchdog = Watchdog::PowerOff;
    assert_eq!(said(&member, &farm), "changed since it was started: its watchdog, its host's bridge or its storage");
}

#[test]
fn a_watchdog_is_the_machines_choice() {
    let mut member = member();
    let farm = farm("farm-a");
    assert!(!made_of(&member, &farm, None).domain.watchdog);
    member.spec.watchdog = Watchdog::PowerOff;
    assert!(made_of(&member, &farm, None).domain.watchdog);
}
