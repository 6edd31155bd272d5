//! The hosts, their pools and their guests, as they really are: what the operator can only ask about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use cascina::api::{Bytes, HypervisorClass};
use cascina::libvirt::{
    DomainForm, DomainRole, DomainRun, DomainSpec, DomainUuid, Forms, Nic, RuleSet, StopReason, SurveyedDomain,
    VolumeSpec,
};
use cascina::network::MacAddress;
use jiff::Timestamp;

use crate::invariants::Violations;
use crate::router::RouterGuest;

/// How guests behave.
#[derive(Clone, Debug)]
pub struct Guests {
    /// From the start to the first answer of the agent.
    pub boot: Duration,
    /// From the wish to shut down to the end.
    pub shutdown: Duration,
    /// Machines with this word in their name crash so long after each start.
    pub crash: Option<(String, Duration)>,
}

/// A domain.
#[derive(Clone, Debug)]
pub struct Domain {
    /// What it was made from.
    pub spec: DomainSpec,
    /// Whether it runs.
    pub run: DomainRun,
    /// When it was last started.
    pub started: Option<Timestamp>,
    /// When it was asked to shut down.
    pub asked: Option<Timestamp>,
    /// What its guest was told since its start, if it is a router.
    pub router: RouterGuest,
    /// Its cards whose cables are pulled.
    pub cut: BTreeSet<MacAddress>,
    /// What is read off it while it runs, and while it is off: like a real host's it is made once.
    forms: [Arc<Forms>; 2],
}

/// A host.
#[derive(Clone, Debug)]
pub struct SimulatedHost {
    /// Its class, which says what a lost one may still be doing.
    pub class: HypervisorClass,
    /// Name of its pool.
    pub pool: String,
    /// It has power.
    pub powered: bool,
    /// The operator reaches it.
    pub linked: bool,
    /// It takes calls and answers none.
    pub hung: bool,
    /// Every call takes so much longer.
    pub slow: Duration,
    /// Its domains.
    pub domains: BTreeMap<DomainUuid, Domain>,
    /// Its filters.
    pub filters: BTreeSet<String>,
}

/// A storage pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Volumes; of an overlay the name of its base.
    pub volumes: BTreeMap<String, Option<String>>,
    /// What a guest may write to each disk at most.
    pub sizes: BTreeMap<String, Bytes>,
    /// Nothing more goes in.
    pub full: bool,
}

/// All hosts.
#[derive(Clone, Debug)]
pub struct World {
    /// Hosts by name.
    pub hosts: BTreeMap<String, SimulatedHost>,
    /// Pools by name.
    pub pools: BTreeMap<String, Pool>,
    /// How guests behave.
    pub guests: Guests,
    /// The site's hosts have canaries.
    pub proves_isolation: bool,
    /// The farm of each machine that ever was, by uid.
    pub farms: BTreeMap<String, String>,
    /// What was seen and must never be.
    pub violations: Violations,
    /// When anything last changed.
    pub last_change: Timestamp,
    /// What happens next, where chance decides.
    pub chance: fastrand::Rng,
    /// How often each host was surveyed.
    pub surveys: BTreeMap<String, u64>,
    /// An operator that starts has no image file, and their source gives it none.
    pub mirror_is_away: bool,
}

impl World {
    /// No hosts.
    pub fn new(now: Timestamp) -> Self {
        let guests = Guests { boot: Duration::from_secs(3), shutdown: Duration::from_secs(2), crash: None };
        Self {
            hosts: BTreeMap::new(),
            pools: BTreeMap::new(),
            farms: BTreeMap::new(),
            guests,
            proves_isolation: false,
            violations: Violations::default(),
            last_change: now,
            chance: fastrand::Rng::with_seed(0),
            surveys: BTreeMap::new(),
            mirror_is_away: false,
        }
    }

    /// Puts up a host; hosts with one pool share it.
    pub fn add_host(&mut self, name: &str, class: HypervisorClass, pool: &str) {
        self.pools.entry(pool.to_owned()).or_default();
        let host = SimulatedHost {
            class,
            pool: pool.to_owned(),
            powered: true,
            linked: true,
            hung: false,
            slow: Duration::ZERO,
            domains: BTreeMap::new(),
            filters: BTreeSet::new(),
        };
        self.hosts.insert(name.to_owned(), host);
    }

    /// A host.
    pub fn host(&mut self, name: &str) -> &mut SimulatedHost {
        self.hosts.get_mut(name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// The pool of a host.
    pub fn pool(&mut self, host: &str) -> &mut Pool {
        let name = self.host(host).pool.clone();
        self.pools.get_mut(&name).unwrap_or_else(|| panic!("no pool {name}"))
    }

    /// Guests die at once; definitions and disks stay.
    pub fn cut_power(&mut self, name: &str, now: Timestamp) {
        let host = self.host(name);
        host.powered = false;
        for domain in host.domains.values_mut() {
            domain.run = DomainRun::Off(StopReason::NotStarted);
        }
        self.last_change = now;
    }

    /// Guests go on to where they are by now: crashed, or shut down.
    pub fn settle(&mut self, name: &str, now: Timestamp) {
        let guests = self.guests.clone();
        let host = self.host(name);
        let mut changed = false;
        for domain in host.domains.values_mut().filter(|domain| is_active(domain.run)) {
            let since = |then: Timestamp| Duration::try_from(now.duration_since(then)).unwrap_or_default();
            let crashes = guests.crash.as_ref().filter(|(word, _)| domain.spec.title.contains(word.as_str()));
            let crashed = crashes.zip(domain.started).is_some_and(|((_, after), started)| since(started) >= *after);
            if domain.asked.is_some_and(|asked| since(asked) >= guests.shutdown) {
                domain.run = DomainRun::Off(StopReason::Shutdown);
                changed = true;
            } else if crashed {
                domain.run = DomainRun::Off(StopReason::Crashed);
                changed = true;
            }
        }
        if changed {
            self.last_change = now;
        }
    }

    /// Whether a guest's agent answers.
    pub fn answers(&self, host: &str, uuid: DomainUuid, now: Timestamp) -> bool {
        let domain = self.hosts.get(host).and_then(|host| host.domains.get(&uuid));
        domain.filter(|domain| domain.run == DomainRun::Running).and_then(|domain| domain.started).is_some_and(
            |started| Duration::try_from(now.duration_since(started)).unwrap_or_default() >= self.guests.boot,
        )
    }
}

impl Domain {
    /// A domain that is made from this.
    pub fn new(spec: DomainSpec, run: DomainRun) -> Self {
        let form = DomainForm::of(&spec);
        let off = Forms { running: None, defined: Some(form.clone()) };
        let forms = [Forms { running: Some(form), ..off.clone() }, off].map(Arc::new);
        Self { spec, run, started: None, asked: None, router: RouterGuest::default(), cut: BTreeSet::new(), forms }
    }

    /// As a survey tells of it.
    pub fn surveyed(&self) -> SurveyedDomain {
        let [running, off] = &self.forms;
        SurveyedDomain {
            name: format!("casc-{}", self.spec.uuid),
            run: self.run,
            tag: (self.spec.role == DomainRole::Machine).then(|| self.spec.tag.clone()),
            canary: (self.spec.role == DomainRole::Canary).then(|| self.spec.tag.clone()),
            copied_tag: None,
            memory: self.spec.memory,
            cpus: self.spec.cpus,
            forms: Some(Arc::clone(if is_active(self.run) { running } else { off })),
        }
    }

    /// The same with its cards put right; those that it shouldn't have lose their cables.
    pub fn mended(self, nics: &[Nic]) -> Self {
        let Self { mut spec, run, started, asked, router, .. } = self;
        let mut cut = BTreeSet::new();
        for card in &mut spec.nics {
            match nics.iter().find(|nic| nic.mac == card.mac) {
                Some(nic) => card.clone_from(nic),
                None => drop(cut.insert(card.mac)),
            }
        }
        let mut mended = Self { started, asked, router, ..Self::new(spec, run) };
        let forms = Arc::make_mut(&mut mended.forms[0]);
        for card in forms.running.iter_mut().flat_map(|form| &mut form.nics) {
            card.is_cut = cut.iter().any(|mac| mac.to_string() == card.mac);
        }
        mended.cut = cut;
        mended
    }

    /// The addresses of its cards that are on the wire.
    pub fn addresses_on_the_wire(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let plugged = self.spec.nics.iter().filter(|card| is_active(self.run) && !self.cut.contains(&card.mac));
        plugged.map(|card| card.hold.address())
    }

    /// The volumes that it has open while it runs, those that it writes to first.
    pub fn volumes(&self) -> (Vec<&str>, Vec<&str>) {
        let root = self.spec.root.as_ref();
        let data = self.spec.data.as_ref();
        let written = root.map(|root| root.volume.as_str()).into_iter().chain(data.map(|data| data.volume.as_str()));
        let read = root.map(|root| root.base.as_str()).into_iter().chain(self.spec.seed.as_deref());
        (written.collect(), read.collect())
    }

    /// The filters that its cards refer to.
    pub fn filters(&self) -> impl Iterator<Item = String> + '_ {
        self.spec.nics.iter().map(|nic| RuleSet::filter_name(nic.hold.rules()))
    }
}

/// Whether there is a QEMU.
pub fn is_active(run: DomainRun) -> bool {
    !matches!(run, DomainRun::Off(_))
}

/// Name, base and size of a volume to make.
pub fn parts(volume: &VolumeSpec) -> (&str, Option<&str>, Bytes) {
    match volume {
        VolumeSpec::Overlay { name, base, size, .. } => (name, Some(base), *size),
        VolumeSpec::Blank { name, size } => (name, None, *size),
    }
}
