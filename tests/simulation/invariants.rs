//! What must never be, looked at whenever a host changes.

use cascina::api::HypervisorClass;
use cascina::libvirt::DomainUuid;

use crate::world::{World, is_active};

/// The cluster that the operator works for.
pub const CLUSTER: &str = "00000000-0000-4000-8000-c1a51e000000";

/// What was seen and must never be.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    /// In words.
    pub found: Vec<String>,
    /// Starts that the host refused, because a filter or a volume wasn't there.
    pub refused_starts: Vec<String>,
    /// Starts of a copy while a worker that nobody reaches may run another: the design admits these.
    pub admitted_doubles: u64,
}

impl World {
    /// Something is that must never be.
    pub fn violated(&mut self, what: String) {
        // What lasts is looked at again and again.
        if !self.violations.found.contains(&what) {
            self.violations.found.push(what);
        }
    }

    /// To be called right before a domain starts; what is missing for that, if anything is.
    pub fn check_start(&mut self, host: &str, uuid: DomainUuid) -> Result<(), String> {
        let Some(domain) = self.hosts.get(host).and_then(|host| host.domains.get(&uuid)).cloned() else {
            return Ok(());
        };
        let title = domain.spec.title.clone();
        self.check_addresses(uuid, &domain);
        for other in self.copies_elsewhere(host, uuid) {
            let unreached = self.host(&other).class == HypervisorClass::Worker && !self.host(&other).linked;
            if unreached {
                self.violations.admitted_doubles += 1;
            } else {
                self.violated(format!("two copies of {title}: starts on {host}, runs on {other}"));
            }
        }
        let filters = self.host(host).filters.clone();
        let mut missing = domain.filters().find(|filter| !filters.contains(filter));
        let (written, read) = domain.volumes();
        let volumes = &self.pool(host).volumes;
        missing = missing.or(written
            .iter()
            .chain(&read)
            .find(|volume| !volumes.contains_key(**volume))
            .map(|volume| (*volume).to_owned()));
        if let Some(missing) = missing {
            self.violations.refused_starts.push(format!("{title} on {host} without {missing}"));
            return Err(missing);
        }
        for volume in written {
            if let Some(writer) = self.writer_of(host, volume, uuid) {
                self.violated(format!("two writers on {volume}: {title} on {host} and {writer}"));
            }
        }
        if domain.spec.tag.cluster != CLUSTER {
            self.violated(format!("{title} of another cluster is started on {host}"));
        }
        Ok(())
    }

    /// To be called right before a domain is switched off, redefined or undefined.
    pub fn check_ours(&mut self, host: &str, uuid: DomainUuid, what: &str) {
        let foreign = self.hosts.get(host).and_then(|host| host.domains.get(&uuid));
        let foreign =
            foreign.filter(|domain| domain.spec.tag.cluster != CLUSTER).map(|domain| domain.spec.title.clone());
        if let Some(title) = foreign {
            self.violated(format!("{title} of another cluster is {what} on {host}"));
        }
    }

    /// To be called right before a volume is removed or replaced.
    pub fn check_unused(&mut self, host: &str, volume: &str) {
        let pool = self.host(host).pool.clone();
        let users: Vec<_> = self
            .hosts
            .iter()
            .filter(|(_, other)| other.pool == pool)
            .flat_map(|(name, other)| other.domains.values().map(move |domain| (name, domain)))
            .filter(|(_, domain)| is_active(domain.run))
            .filter(|(_, domain)| {
                let (written, read) = domain.volumes();
                written.contains(&volume) || read.contains(&volume)
            })
            .map(|(name, domain)| format!("{} on {name}", domain.spec.title))
            .collect();
        for user in users {
            self.violated(format!("{volume} is removed while {user} runs with it"));
        }
        let overlays: Vec<_> = self.pools[&pool]
            .volumes
            .iter()
            .filter(|(_, base)| base.as_deref() == Some(volume))
            .map(|(name, _)| name.clone())
            .collect();
        if let Some(overlay) = overlays.first() {
            self.violated(format!("{volume} is removed under its overlay {overlay}"));
        }
    }

    /// To be called right before an overlay is made.
    pub fn check_base(&mut self, host: &str, overlay: &str, base: &str) {
        if !self.pool(host).volumes.contains_key(base) {
            self.violated(format!("{overlay} is made on {host} without its base {base}"));
        }
    }

    fn copies_elsewhere(&self, host: &str, uuid: DomainUuid) -> Vec<String> {
        let runs = |domain: &crate::world::Domain| is_active(domain.run);
        let others = self.hosts.iter().filter(|(name, other)| *name != host && other.powered);
        others.filter(|(_, other)| other.domains.get(&uuid).is_some_and(runs)).map(|(name, _)| name.clone()).collect()
    }

    fn writer_of(&self, host: &str, volume: &str, except: DomainUuid) -> Option<String> {
        let pool = &self.hosts.get(host)?.pool;
        let sharing = self.hosts.iter().filter(|(_, other)| other.pool == *pool && other.powered);
        let domains =
            sharing.flat_map(|(name, other)| other.domains.iter().map(move |(uuid, domain)| (name, uuid, domain)));
        let mut writers = domains.filter(|(name, uuid, domain)| {
            let same = *name == host && **uuid == except;
            !same && is_active(domain.run) && domain.volumes().0.contains(&volume)
        });
        writers.next().map(|(name, _, domain)| format!("{} on {name}", domain.spec.title))
    }
}
