//! What the documents of a domain tell, read now and then and not at every survey. Runs on a thread that may block.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::sys;

use super::error::Failure;
use super::form::{DomainForm, Forms};
use super::spec::DomainUuid;
use super::tag::{self, Tag};
use crate::xml::Element;

/// How long readings are believed: what somebody changes on a host by hand is seen within this time.
const BELIEVED_FOR: Duration = Duration::from_secs(25);

/// What the documents of a domain tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// The tag in it, whosever it is.
    pub(super) tag: Option<Tag>,
    /// What it consists of.
    pub(super) forms: Arc<Forms>,
}

impl Reading {
    /// Reads a domain.
    pub(super) fn of(domain: &Domain) -> Result<Self, Failure> {
        let is_active = domain.is_active()?;
        let now = document(domain, 0)?;
        let tag = now.as_ref().and_then(tag::of_document);
        let now = now.as_ref().map(DomainForm::read);
        let forms = match (is_active, domain.is_persistent()?) {
            (false, _) => Forms { running: None, defined: now },
            (true, false) => Forms { running: now, defined: None },
            (true, true) => {
                let defined = document(domain, sys::VIR_DOMAIN_XML_INACTIVE)?;
                Forms { running: now, defined: defined.as_ref().map(DomainForm::read) }
            }
        };
        Ok(Self { tag, forms: Arc::new(forms) })
    }

    /// Whether it was read from a domain that ran.
    pub(super) fn is_of_active(&self) -> bool {
        self.forms.running.is_some()
    }
}

fn document(domain: &Domain, flags: sys::virDomainXMLFlags) -> Result<Option<Element>, Failure> {
    Ok(Element::parse(&domain.xml_desc(flags)?))
}

/// The readings of a host's domains, so that a survey needs no call per domain.
#[derive(Debug, Default)]
pub(super) struct Readings(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    known: HashMap<DomainUuid, Reading>,
    since: Option<Instant>,
    changes: u64,
}

/// The readings as they were when a survey began; put back what was read only if nothing was changed meanwhile.
#[derive(Debug)]
pub(super) struct Remembered {
    known: HashMap<DomainUuid, Reading>,
    changes: u64,
}

impl Remembered {
    /// What was read of a domain, if it was, and was running or off as it is now.
    pub(super) fn get(&self, uuid: DomainUuid, is_active: bool) -> Option<&Reading> {
        self.known.get(&uuid).filter(|reading| reading.is_of_active() == is_active)
    }
}

impl Readings {
    /// What may still be believed.
    pub(super) fn remembered(&self) -> Remembered {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.since.is_none_or(|since| since.elapsed() >= BELIEVED_FOR) {
            kept.known.clear();
            kept.since = Some(Instant::now());
        }
        Remembered { known: kept.known.clone(), changes: kept.changes }
    }

    /// Keeps what a survey read.
    pub(super) fn keep(&self, before: &Remembered, known: HashMap<DomainUuid, Reading>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.changes == before.changes {
            kept.known = known;
        }
    }

    /// Forgets a domain that is changed. To be called before and after the change.
    pub(super) fn forget(&self, uuid: DomainUuid) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.known.remove(&uuid);
        kept.changes += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn reading(is_active: bool) -> Reading {
        let form = Some(DomainForm::default());
        let forms = Forms { running: form.clone().filter(|_| is_active), defined: form };
        Reading { tag: None, forms: Arc::new(forms) }
    }

    #[test]
    fn a_survey_that_overlaps_a_definition_keeps_nothing() {
        let readings = Readings::default();
        let uuid = DomainUuid(Uuid::from_u128(1));
        let before = readings.remembered();
        readings.forget(uuid);
        readings.keep(&before, HashMap::from([(uuid, reading(false))]));
        assert!(readings.remembered().get(uuid, false).is_none());
        let before = readings.remembered();
        readings.keep(&before, HashMap::from([(uuid, reading(false))]));
        assert!(readings.remembered().get(uuid, false).is_some());
        assert!(readings.remembered().get(uuid, true).is_none(), "it was started since");
    }

    #[test]
    fn the_test_drivers_domain_is_read() {
        super::super::link::initialise().unwrap();
        let connection = virt::connect::Connect::open(Some("test:///default")).unwrap();
        let domain = connection.lookup_domain_by_name("test").unwrap();
        let read = Reading::of(&domain).unwrap();
        assert!(read.is_of_active() && read.tag.is_none());
        assert_eq!(read.forms.running.as_ref().unwrap().mebibytes, 8192);
        assert!(read.forms.defined.is_some());
    }
}
