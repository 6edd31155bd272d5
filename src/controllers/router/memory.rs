//! What is remembered of routers. All of it can be found anew.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::talk::{Hashes, Heard};
use crate::api::{PeerConsent, VirtualMachine};
use crate::controllers::cache::Key;
use crate::controllers::context::Context;
use crate::network::router::{Documents, Hash, PrivateKey};

/// The uid of each router, and its addresses, its own first.
pub type Given = HashMap<Key, (String, Vec<Ipv4Addr>)>;

/// A machine of a router, and what it was last heard to do.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The machine.
    pub machine: Arc<VirtualMachine>,
    /// What it was last heard to do.
    pub heard: Option<Heard>,
    /// Since when its agent hasn't answered.
    pub silent_since: Option<Timestamp>,
}

impl Replica {
    /// Whether it last said that it is its turn.
    #[must_use]
    pub fn leads(&self) -> bool {
        matches!(&self.heard, Some(Heard::InForce(working)) if working.leads == Some(true))
    }

    /// Whether it last said that it works by these documents.
    #[must_use]
    pub fn works_by(&self, documents: &Documents) -> bool {
        matches!(&self.heard, Some(Heard::InForce(working)) if working.hash == documents.hash())
    }
}

/// Keys by the uid of their router, with their generation.
type Keys = HashMap<String, (i32, PrivateKey)>;

/// What is remembered of routers. All of it can be found anew.
#[derive(Default)]
pub struct Memory {
    /// The addresses last given to each router, with its uid: what was sent and perhaps never arrived. Held while addresses are
    /// given, so that routers are asked one after another.
    pub(super) given: tokio::sync::Mutex<Given>,
    /// What the machine of each router was last heard to do, by its uid.
    machines: Mutex<HashMap<String, Acquaintance>>,
    keys: Mutex<Keys>,
    /// Which farms a farm means by the names of its peers, by its uid.
    pins: Mutex<HashMap<String, Vec<PeerConsent>>>,
}

/// What is remembered of a router's machine.
#[derive(Clone, Default)]
pub struct Acquaintance {
    /// What it was last heard to do, and when.
    pub heard: Option<(Heard, Timestamp)>,
    /// The files that it last said to work by.
    documents: Option<Arc<Documents>>,
    /// Since when its agent hasn't answered.
    pub silent_since: Option<Timestamp>,
    /// When what it counted was last asked for.
    counted: Option<Timestamp>,
}

impl Acquaintance {
    /// The hash of the files that it last said to work by.
    #[must_use]
    pub fn hash(&self) -> Option<(Hash, Timestamp)> {
        match self.heard {
            Some((Heard::InForce(ref working), time)) => Some((working.hash, time)),
            _ => None,
        }
    }

    /// The files that it last said to work by, if it said so after this time: the one hash of all, and that of each.
    #[must_use]
    pub fn in_force_since(&self, time: Option<Timestamp>) -> Option<(Hash, Hashes)> {
        let (hash, _) = self.hash().filter(|(_, heard)| time.is_none_or(|time| *heard > time))?;
        let files = self.documents.as_ref()?.hashes().into_iter();
        Some((hash, files.map(|(name, hash)| (name.file().to_owned(), hash.to_string())).collect()))
    }
}

impl Memory {
    /// What is remembered of a machine.
    pub fn recall(&self, machine: &VirtualMachine) -> Acquaintance {
        machine.uid().and_then(|uid| self.machines().get(&uid).cloned()).unwrap_or_default()
    }

    /// A machine as it is remembered.
    pub fn replica(&self, machine: &Arc<VirtualMachine>) -> Replica {
        let Acquaintance { heard, silent_since, .. } = self.recall(machine);
        Replica { machine: Arc::clone(machine), heard: heard.map(|(heard, _)| heard), silent_since }
    }

    /// Takes in what a machine was heard to do after it was told these documents.
    pub fn hear(&self, machine: &VirtualMachine, heard: &Heard, told: &Arc<Documents>, now: Timestamp) {
        let Some(uid) = machine.uid() else { return };
        let mut machines = self.machines();
        let known = machines.entry(uid).or_default();
        let silent = matches!(heard, Heard::Nothing);
        known.silent_since = silent.then(|| known.silent_since.unwrap_or(now));
        known.heard = Some((heard.clone(), now));
        known.documents = matches!(heard, Heard::InForce(_)).then(|| Arc::clone(told));
    }

    /// Whether what a machine counted was asked for longer ago than this; from now on it wasn't.
    pub fn is_time_to_count(&self, machine: &VirtualMachine, every: Duration, now: Timestamp) -> bool {
        let Some(uid) = machine.uid() else { return false };
        let mut machines = self.machines();
        let known = machines.entry(uid).or_default();
        let age = |time: Timestamp| Duration::try_from(now.duration_since(time)).unwrap_or_default();
        let due = known.counted.is_none_or(|time| age(time) >= every);
        if due {
            known.counted = Some(now);
        }
        due
    }

    /// The key of a router, if it is known in this generation.
    pub fn key(&self, uid: &str, generation: i32) -> Option<PrivateKey> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(uid).filter(|(known, _)| *known == generation).map(|(_, key)| key.clone())
    }

    /// This is the key of a router.
    pub fn remember_key(&self, uid: String, generation: i32, key: PrivateKey) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (generation, key));
    }

    /// A router has no key any more.
    pub fn forget_key(&self, uid: &str) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Which farms the farm of this uid means, if that was read.
    pub fn pins(&self, farm: &str) -> Option<Vec<PeerConsent>> {
        self.all_pins().get(farm).cloned()
    }

    /// The farm of this uid means these.
    pub fn remember_pins(&self, farm: &str, pins: Vec<PeerConsent>) {
        self.all_pins().insert(farm.to_owned(), pins);
    }

    /// It has to be read anew what the farm of this uid means.
    pub fn forget_pins(&self, farm: &str) {
        self.all_pins().remove(farm);
    }

    fn all_pins(&self) -> MutexGuard<'_, HashMap<String, Vec<PeerConsent>>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets machines and farms that are none any more.
    pub fn forget_the_gone(&self, context: &Context) {
        self.all_pins().retain(|uid, _| context.caches.farms.has_uid(uid));
        self.machines().retain(|uid, _| context.caches.machines.has_uid(uid));
    }

    fn machines(&self) -> MutexGuard<'_, HashMap<String, Acquaintance>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::talk::Working;
    use super::super::tests::{now, running, the_router, view};
    use super::*;

    #[test]
    fn what_a_machine_said_before_it_was_started_again_says_nothing_of_its_files() {
        let documents = Arc::new(view(the_router(), None).desired.unwrap().router.documents());
        let working = Working { hash: documents.hash(), leads: None, peers: BTreeMap::new() };
        let (machine, memory) = (running(), Memory::default());
        let ago = |seconds| Some(now() - Duration::from_secs(seconds));
        assert!(memory.recall(&machine).in_force_since(None).is_none(), "it was never heard");
        memory.hear(&machine, &Heard::InForce(working), &documents, now());
        let known = memory.recall(&machine);
        let (hash, files) = known.in_force_since(ago(1)).unwrap();
        assert_eq!((hash, files.len()), (documents.hash(), documents.iter().count()));
        assert!(known.in_force_since(None).is_some() && known.in_force_since(ago(0)).is_none());
        memory.hear(&machine, &Heard::Refuses("no".to_owned()), &documents, now());
        assert!(memory.recall(&machine).in_force_since(ago(1)).is_none(), "what it has then is asked");
    }
}
