//! What somebody changed by hand about a machine on its host, and what is done about it. Pure.

use crate::api::DriftPolicy;
use crate::libvirt::{
    DomainForm, DomainRun, DomainSpec, Forms, Nic, NicForm, RuleSet, SurveyedDomain, VolumeSpec, domain_name,
};

use super::recipe::Recipe;
use super::situation::{Drift, DriftKind, Plan, Step, View, Want};

impl DriftKind {
    /// One CamelCase word.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::DiskDeleted => "DiskDeleted",
            Self::NetworkCard => "NetworkCardChanged",
            Self::CableCut => "CableCut",
            Self::Device => "DeviceChanged",
            Self::Undefined => "DomainUndefined",
            Self::Renamed => "DomainRenamed",
            Self::Definition => "DefinitionChanged",
            Self::SeedDeleted => "SeedDeleted",
        }
    }

    /// What puts it right; nothing: a person has to decide.
    const fn remedy(self) -> Option<Step> {
        match self {
            Self::NetworkCard | Self::CableCut => Some(Step::MendNics),
            Self::Undefined | Self::Renamed | Self::Definition => Some(Step::Define),
            Self::SeedDeleted => Some(Step::WriteSeed),
            Self::DiskDeleted | Self::Device => None,
        }
    }

    /// What puts it right under this policy. A card that may not be behind its filter is no matter of policy.
    pub fn repair(self, policy: DriftPolicy) -> Option<Step> {
        self.remedy().filter(|_| policy == DriftPolicy::Repair || self == Self::NetworkCard)
    }

    /// What a person does about it under this policy.
    pub fn advice(self, policy: DriftPolicy) -> &'static str {
        match self {
            Self::DiskDeleted => {
                "what was on it is lost unless it is put back under its name; to do without it, delete the machine"
            }
            Self::Device => "halt the machine and start it again",
            _ if self.repair(policy).is_some() => "it is put right",
            _ => "its Hypervisor's driftPolicy is Report: it stays so until the machine's next start",
        }
    }
}

/// Adds what is to be said and done about drift to the plan of a machine that is left as it is.
pub fn correct(mut plan: Plan, want: &Want, seen: &View) -> Plan {
    let drifts = drifts(seen);
    if plan.steps.is_empty() {
        let follows = follows_its_addresses(seen).then_some([Step::MendNics, Step::Define]);
        let mut repairs = Vec::new();
        for step in drifts.iter().filter_map(|drift| drift.kind.repair(want.drift)).chain(follows.into_iter().flatten())
        {
            if !repairs.contains(&step) {
                repairs.push(step);
            }
        }
        if repairs.contains(&Step::MendNics) {
            repairs.splice(0..0, seen.nics.iter().map(|nic| Step::EnsureFilter(nic.hold.rules())));
        }
        plan.repairs = repairs;
    }
    plan.drifts = drifts;
    plan
}

/// What differs on the host from what the machine was made from, the worst first.
pub fn drifts(seen: &View) -> Vec<Drift> {
    let Some(domain) = seen.domain.present() else { return Vec::new() };
    let (Some(tag), Some(forms)) = (&domain.tag, &domain.forms) else { return Vec::new() };
    let recipe = seen.recipe.as_ref().ok().filter(|recipe| recipe.domain.tag.epoch == tag.epoch);
    // Made from something else than the spec says now: that is no drift, and its next start changes it.
    let current = recipe.filter(|recipe| recipe.domain.tag.spec_hash == tag.spec_hash);
    let mut drifts = Vec::new();
    drifts.extend(recipe.map(|recipe| lost_disks(recipe, seen)).filter(|lost| !lost.is_empty()).map(disk_deleted));
    drifts.extend(network_cards(&seen.nics, forms, current.is_some()));
    drifts.extend(current.and_then(|recipe| device(&recipe.domain, forms)));
    drifts.extend(definition(domain, forms, current));
    drifts.extend(current.and_then(|recipe| seed_deleted(recipe, seen)));
    drifts
}

/// Its disks that were there and aren't any more.
pub fn lost_disks<'a>(recipe: &'a Recipe, seen: &View) -> Vec<&'a str> {
    let Some(volumes) = seen.volumes.present().filter(|_| seen.disks_made && seen.volumes_are_fresh) else {
        return Vec::new();
    };
    recipe.volumes.iter().map(VolumeSpec::name).filter(|name| !volumes.contains(*name)).collect()
}

/// Whether its definition on the host is the one that it would get now.
pub fn is_defined_as_wanted(domain: &SurveyedDomain, recipe: &Recipe) -> bool {
    let defined = domain.forms.as_ref().and_then(|forms| forms.defined.as_ref());
    domain.tag.as_ref() == Some(&recipe.domain.tag)
        && domain.name == domain_name(recipe.domain.uuid)
        && defined == Some(&DomainForm::of(&recipe.domain))
}

fn disk_deleted(lost: Vec<&str>) -> Drift {
    Drift::new(DriftKind::DiskDeleted, format!("volume {} is gone from the host's pool", lost.join(", ")))
}

fn seed_deleted(recipe: &Recipe, seen: &View) -> Option<Drift> {
    let volumes = seen.volumes.present().filter(|_| seen.volumes_are_fresh)?;
    let gone = recipe.seed.as_ref().map(|seed| &seed.name).filter(|name| !volumes.contains(*name))?;
    Some(Drift::new(DriftKind::SeedDeleted, format!("volume {gone} is gone from the host's pool")))
}

/// The cards of a domain that runs, the first that isn't as it should be.
fn network_cards(nics: &[Nic], forms: &Forms, is_current: bool) -> Option<Drift> {
    let running = forms.running.as_ref()?;
    let wanted: Vec<_> = nics.iter().map(|nic| (nic, NicForm::of(nic))).collect();
    let is_wanted = |mac: &str| wanted.iter().any(|(_, wanted)| wanted.mac == mac);
    let strangers = running.nics.iter().filter(|card| !is_wanted(&card.mac) && !card.is_cut);
    let strangers: Vec<_> = strangers.map(|card| card.mac.as_str()).collect();
    if !nics.is_empty() && !strangers.is_empty() {
        let what = format!("it has a card that it shouldn't have, {}", strangers.join(", "));
        return Some(Drift::new(DriftKind::NetworkCard, what));
    }
    wanted.iter().find_map(|(nic, wanted)| network_card(nic, wanted, &running.nics, is_current))
}

/// A card of a domain that runs. One that was made from an earlier spec may be at another bridge.
fn network_card(nic: &Nic, wanted: &NicForm, running: &[NicForm], is_current: bool) -> Option<Drift> {
    let Some(card) = running.iter().find(|card| card.mac == wanted.mac) else {
        return Some(Drift::new(DriftKind::Device, format!("its card {} is gone", wanted.mac)));
    };
    let what = match &card.filter {
        None => "its card is behind no filter".to_owned(),
        // One of another version has the rules of this one.
        Some(filter) if !nic.hold.rules().is_version(filter) => format!("its card is behind the filter {filter}"),
        Some(_) if card.parameters != wanted.parameters && !nic.hold.changes_while_it_runs() => {
            "the parameters of its card's filter are others".to_owned()
        }
        Some(_) if is_current && card.bridge != wanted.bridge => {
            format!("its card is at {} instead of the bridge {}", card.bridge.as_deref().unwrap_or("none"), nic.bridge)
        }
        Some(_) if card.is_cut => return Some(Drift::new(DriftKind::CableCut, "its card's link is down")),
        Some(_) => return None,
    };
    Some(Drift::new(DriftKind::NetworkCard, what))
}

/// Whether a router's public card is to answer to other addresses than it does: those that it has change while it runs.
fn follows_its_addresses(seen: &View) -> bool {
    let forms = seen.domain.present().filter(|domain| domain.tag.is_some()).and_then(|domain| domain.forms.as_ref());
    let Some(running) = forms.and_then(|forms| forms.running.as_ref()) else { return false };
    let changing = seen.nics.iter().filter(|nic| nic.hold.changes_while_it_runs()).map(NicForm::of);
    changing
        .into_iter()
        .any(|wanted| running.nics.iter().any(|card| card.mac == wanted.mac && card.parameters != wanted.parameters))
}

/// Everything else of a domain that runs.
fn device(spec: &DomainSpec, forms: &Forms) -> Option<Drift> {
    let changes = changes(forms.running.as_ref()?, &DomainForm::of(spec));
    (!changes.is_empty()).then(|| Drift::new(DriftKind::Device, format!("it runs with {}", changes.join(", "))))
}

fn definition(domain: &SurveyedDomain, forms: &Forms, current: Option<&Recipe>) -> Option<Drift> {
    let Some(defined) = &forms.defined else {
        return Some(Drift::new(DriftKind::Undefined, "it runs and its definition is gone: off, it would be too"));
    };
    let uuid = current?.domain.uuid;
    if domain.name != domain_name(uuid) {
        return Some(Drift::new(DriftKind::Renamed, format!("its domain is called {:?}", domain.name)));
    }
    let wanted = DomainForm::of(&current?.domain);
    let mut changes = changes(defined, &wanted);
    if nics_but_for_versions(defined) != nics_but_for_versions(&wanted) {
        changes.push("another network card".to_owned());
    }
    // A domain that is off is defined anew before its next start anyway.
    let matters = !matches!(domain.run, DomainRun::Off(_)) && !changes.is_empty();
    matters.then(|| Drift::new(DriftKind::Definition, format!("it would start again with {}", changes.join(", "))))
}

/// The cards, each with the set of rules that its filter is a version of, and without the addresses that change while it runs.
fn nics_but_for_versions(form: &DomainForm) -> Vec<NicForm> {
    let mut nics = form.nics.clone();
    for nic in &mut nics {
        let version = |name: &String| RuleSet::ALL.into_iter().find(|rules| rules.is_version(name));
        if let Some(rules) = nic.filter.as_ref().and_then(version) {
            nic.filter = Some(rules.filter_name());
            if rules == RuleSet::Public {
                nic.parameters.clear();
            }
        }
    }
    nics
}

/// How a form differs from what it should be, its cards left out.
fn changes(seen: &DomainForm, wanted: &DomainForm) -> Vec<String> {
    let mut changes = Vec::new();
    let mut differs = |what: String, is: bool| changes.extend(is.then_some(what));
    differs(format!("{} CPUs instead of {}", seen.cpus, wanted.cpus), seen.cpus != wanted.cpus);
    differs(
        format!("{} MiB of memory instead of {}", seen.mebibytes, wanted.mebibytes),
        seen.mebibytes != wanted.mebibytes,
    );
    differs("another kernel".to_owned(), seen.kernel != wanted.kernel);
    differs(format!("the disks {}", listed(seen)), seen.disks != wanted.disks);
    let strange: Vec<_> = seen.strange.difference(&wanted.strange).map(String::as_str).collect();
    differs(format!("the devices {}", strange.join(" and ")), !strange.is_empty());
    changes
}

fn listed(form: &DomainForm) -> String {
    let disks: Vec<_> = form.disks.iter().map(|(device, volume)| format!("{device}={volume}")).collect();
    if disks.is_empty() { "none".to_owned() } else { disks.join(" ") }
}
