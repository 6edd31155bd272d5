//! What on a host looks like ours and belongs to no object. Pure.
//!
//! That an object isn't there says only that the API server doesn't know it now: it may be restored from a backup, and
//! then its disks had better be there. So nothing goes for that alone. What goes are things whose machine was seen to be
//! deleted, and those that a person names by a code which stands for exactly this list.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::plan::Step;
use crate::api::conditions::State;
use crate::api::{Bytes, DriftPolicy, SWEEP_ANNOTATION};
use crate::images::is_image_volume;
use crate::libvirt::{OwnershipTag, POOL_MARK, Survey, is_domain_name};

/// Condition of a host on which there is something that belongs to no object.
pub const ORPHANS: &str = "Orphans";

/// How many of them a message names.
const NAMED: usize = 5;

/// What on a host belongs to no object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Domains of ours without a machine.
    pub domains: Vec<OwnershipTag>,
    /// Volumes named like those of a machine that isn't there, and that machine.
    pub volumes: BTreeMap<String, Uuid>,
    /// What can't be ours to remove: volumes with other names, domains with a copied tag or without one.
    pub strangers: BTreeSet<String>,
}

/// What a sweep of a host found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// What was there for a while and belongs to no object that the API server knows.
    pub orphans: Orphans,
    /// Machines among their owners that were seen to be deleted.
    pub deleted: BTreeSet<Uuid>,
    /// Volumes that domains use.
    pub used: BTreeSet<String>,
    /// What the volumes take.
    pub bytes: Bytes,
    /// Machines whose farm is gone, cut off the network; their objects are there.
    pub farmless: BTreeSet<String>,
    /// Something came up that has to be looked at again soon.
    pub is_unsure: bool,
}

/// What on a host belongs to no object; `is_known` tells whether there is a machine of a uid.
pub fn find(survey: &Survey, cluster: &str, volumes_too: bool, is_known: impl Fn(Uuid) -> bool) -> Orphans {
    let mut orphans = Orphans::default();
    for (uuid, domain) in &survey.domains {
        match (&domain.tag, &domain.copied_tag) {
            (Some(tag), _) if tag.cluster == cluster && !is_known(tag.uid) => orphans.domains.push(tag.clone()),
            (None, Some(copy)) if copy.cluster == cluster => {
                let of = format!("{}/{}", copy.namespace, copy.name);
                orphans.strangers.insert(format!("domain {:?} with the tag of {of}", domain.name));
            }
            (None, None) if domain.canary.is_none() && is_domain_name(&domain.name) && !is_known(uuid.0) => {
                orphans.strangers.insert(format!("domain {:?} without a tag", domain.name));
            }
            _ => {}
        }
    }
    let of_the_host = |name: &str| is_image_volume(name) || name.starts_with(POOL_MARK);
    let volumes = survey.volumes.iter().chain(&survey.incomplete_volumes).filter(|name| !of_the_host(name));
    for volume in volumes.filter(|_| volumes_too) {
        match owner(volume) {
            Some(owner) if is_known(owner) => {}
            Some(owner) => drop(orphans.volumes.insert(volume.clone(), owner)),
            None => drop(orphans.strangers.insert(format!("volume {volume}"))),
        }
    }
    orphans
}

/// The machine that a volume's name speaks of.
fn owner(volume: &str) -> Option<Uuid> {
    let (uid, rest) = volume.split_at_checked(36)?;
    let is_ours = matches!(rest, "-root.qcow2" | "-data.qcow2") || rest.starts_with("-seed-");
    uid.parse().ok().filter(|_| is_ours)
}

impl Orphans {
    /// What they are called, each once.
    pub fn names(&self) -> BTreeSet<String> {
        let domains = self.domains.iter().map(domain_name);
        let volumes = self.volumes.keys().map(|name| format!("volume {name}"));
        domains.chain(volumes).chain(self.strangers.iter().cloned()).collect()
    }

    /// The machines that they belonged to.
    pub fn owners(&self) -> BTreeSet<Uuid> {
        self.domains.iter().map(|tag| tag.uid).chain(self.volumes.values().copied()).collect()
    }

    /// Those that are called so.
    pub fn only(mut self, names: &BTreeSet<String>) -> Self {
        self.domains.retain(|tag| names.contains(&domain_name(tag)));
        self.volumes.retain(|name, _| names.contains(&format!("volume {name}")));
        self.strangers.retain(|name| names.contains(name));
        self
    }

    /// Without what belongs to these machines after all.
    pub fn without(mut self, owners: &BTreeSet<Uuid>) -> Self {
        self.domains.retain(|tag| !owners.contains(&tag.uid));
        self.volumes.retain(|_, owner| !owners.contains(owner));
        self
    }

    /// Stands for exactly those that could be removed, so that a consent can't be stretched.
    fn code(&self) -> String {
        let mut digest = Sha256::new();
        for name in self.clone().names().difference(&self.strangers) {
            digest.update(name);
            digest.update([0]);
        }
        digest.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn domain_name(tag: &OwnershipTag) -> String {
    format!("domain of {}/{} ({})", tag.namespace, tag.name, tag.uid)
}

impl Sweep {
    /// What goes: domains first, and no volume that a domain uses.
    pub fn removals(&self, policy: DriftPolicy, consent: Option<&str>) -> Vec<Step> {
        let consented = consent == Some(&self.orphans.code());
        let may_go = |owner| consented || policy == DriftPolicy::Repair && self.deleted.contains(&owner);
        let domains = self.orphans.domains.iter().filter(|tag| may_go(tag.uid)).cloned().map(Step::RemoveCopy);
        let volumes = self.orphans.volumes.iter().filter(|(name, owner)| may_go(**owner) && !self.used.contains(*name));
        domains.chain(volumes.map(|(name, _)| Step::DeleteVolume(name.clone()))).collect()
    }

    /// What is told of it.
    pub fn state(&self, host: &str) -> State {
        let mut names = self.orphans.names();
        let farmless = self.farmless.iter().map(|name| format!("machine {name}, cut off since its farm is gone"));
        names.extend(farmless);
        if names.is_empty() {
            return State::no(ORPHANS, "None", "everything of ours on it belongs to an object");
        }
        let mut listed: Vec<_> = names.iter().take(NAMED).map(String::as_str).collect();
        let more = format!("{} more", names.len().saturating_sub(NAMED));
        if names.len() > NAMED {
            listed.push(&more);
        }
        let mut message =
            format!("belongs to no object, or to no farm: {}; volumes of {}", listed.join(", "), self.bytes);
        if !self.orphans.owners().is_empty() {
            let code = self.orphans.code();
            message.push_str(&format!(
                ". Images stay meanwhile. Restore the machines, or remove what they left: kubectl annotate --overwrite hypervisor {host} {SWEEP_ANNOTATION}={code}"
            ));
        }
        if !self.orphans.strangers.is_empty() {
            message.push_str(". What never was a machine's is removed by hand only");
        }
        State::yes(ORPHANS, "Found", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::{DomainRun, DomainUuid, StopReason, SurveyedDomain};

    const KNOWN: Uuid = Uuid::from_u128(1);
    const GONE: Uuid = Uuid::from_u128(2);

    fn tag(uid: Uuid, cluster: &str) -> OwnershipTag {
        OwnershipTag {
            cluster: cluster.into(),
            namespace: "farm".into(),
            name: "one".into(),
            uid,
            epoch: 1,
            spec_hash: String::new(),
        }
    }

    fn domain(name: &str, tag: Option<OwnershipTag>, copied_tag: Option<OwnershipTag>) -> SurveyedDomain {
        let run = DomainRun::Off(StopReason::Shutdown);
        let (name, memory) = (name.to_owned(), Bytes::ZERO);
        SurveyedDomain { name, run, tag, canary: None, copied_tag, memory, cpus: 1, forms: None }
    }

    fn survey(volumes: &[&str], domains: Vec<(Uuid, SurveyedDomain)>) -> Survey {
        let mut survey = Survey::default();
        survey.volumes.extend(volumes.iter().map(|name| (*name).to_owned()));
        survey.domains.extend(domains.into_iter().map(|(uuid, domain)| (DomainUuid(uuid), domain)));
        survey
    }

    fn found(survey: &Survey) -> Orphans {
        find(survey, "us", true, |uid| uid == KNOWN)
    }

    fn left() -> Sweep {
        let root = format!("{GONE}-root.qcow2");
        let domains = vec![(GONE, domain("casc-gone", Some(tag(GONE, "us")), None))];
        Sweep { orphans: found(&survey(&[&root], domains)), ..Sweep::default() }
    }

    #[test]
    fn what_belongs_to_a_machine_an_image_or_another_cluster_is_no_orphan() {
        let other = Uuid::from_u128(3);
        let volumes = [&format!("{KNOWN}-root.qcow2"), &format!("{KNOWN}-seed-1.img"), "img-0123456789abcdef.qcow2"];
        let domains = vec![
            (KNOWN, domain("casc-known", Some(tag(KNOWN, "us")), None)),
            (other, domain("casc-other", Some(tag(other, "them")), None)),
            (Uuid::from_u128(4), domain("windows", None, None)),
        ];
        assert_eq!(found(&survey(&volumes, domains)), Orphans::default());
    }

    #[test]
    fn what_nobody_knows_is_reported_and_stays() {
        let sweep = left();
        assert_eq!((sweep.orphans.domains.len(), sweep.orphans.volumes.len()), (1, 1));
        assert_eq!(sweep.removals(DriftPolicy::Repair, None), []);
        let state = sweep.state("worker-1");
        assert_eq!(state.status, "True");
        assert!(state.message.contains(&format!("worker-1 {SWEEP_ANNOTATION}=")), "{}", state.message);
    }

    #[test]
    fn what_was_seen_to_be_deleted_goes_unless_it_is_only_to_be_reported() {
        let mut sweep = left();
        sweep.deleted.insert(GONE);
        let steps = sweep.removals(DriftPolicy::Repair, None);
        assert_eq!(steps, [Step::RemoveCopy(tag(GONE, "us")), Step::DeleteVolume(format!("{GONE}-root.qcow2"))]);
        assert_eq!(sweep.removals(DriftPolicy::Report, None), []);
        sweep.used.insert(format!("{GONE}-root.qcow2"));
        assert_eq!(sweep.removals(DriftPolicy::Repair, None).len(), 1, "a volume that a domain uses stays");
    }

    #[test]
    fn a_consent_is_for_exactly_what_was_listed() {
        let sweep = left();
        let code = sweep.orphans.code();
        assert_eq!(sweep.removals(DriftPolicy::Report, Some(&code)).len(), 2);
        assert_eq!(sweep.removals(DriftPolicy::Repair, Some("true")), []);
        let mut more = sweep;
        more.orphans.volumes.insert(format!("{GONE}-data.qcow2"), GONE);
        assert_eq!(more.removals(DriftPolicy::Repair, Some(&code)), []);
    }

    #[test]
    fn strangers_are_never_removed() {
        let domains = vec![
            (Uuid::from_u128(5), domain("rescue", None, Some(tag(KNOWN, "us")))),
            (Uuid::from_u128(6), domain("casc-00000000-0000-0000-0000-000000000006", None, None)),
        ];
        let sweep = Sweep { orphans: found(&survey(&["backup.qcow2"], domains)), ..Sweep::default() };
        assert_eq!(sweep.orphans.strangers.len(), 3, "{:?}", sweep.orphans);
        assert_eq!(sweep.removals(DriftPolicy::Repair, Some(&sweep.orphans.code())), []);
        assert!(!sweep.state("h").message.contains("kubectl"));
    }
}
