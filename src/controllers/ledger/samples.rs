//! Domains and what they hold, for tests.

use std::sync::Arc;

use uuid::Uuid;

use super::Holding;
use crate::api::Bytes;
use crate::libvirt::{DomainForm, DomainRun, DomainUuid, Forms, Nic, NicForm, OwnershipTag, SurveyedDomain};
use crate::network::{Hold, MacAddress};

/// A domain that runs, with a card for each of these addresses.
pub fn domain(number: u128, cluster: &str, addresses: &[&str]) -> (DomainUuid, SurveyedDomain) {
    let uuid = Uuid::from_u128(number);
    let card = |address: &&str| {
        let address = address.parse().unwrap();
        let hold = Hold::Machine(address);
        NicForm::of(&Nic { bridge: "farms".into(), mac: MacAddress::of(address), hold, bandwidth: None })
    };
    let form = DomainForm { nics: addresses.iter().map(card).collect(), ..DomainForm::default() };
    let tag = OwnershipTag {
        cluster: cluster.into(),
        namespace: "tenant".into(),
        name: format!("machine-{number}"),
        uid: uuid,
        epoch: 1,
        spec_hash: String::new(),
    };
    let domain = SurveyedDomain {
        name: format!("casc-{uuid}"),
        run: DomainRun::Running,
        tag: Some(tag),
        canary: None,
        copied_tag: None,
        memory: Bytes::gibi(1),
        cpus: 1,
        forms: Some(Arc::new(Forms { running: Some(form.clone()), defined: Some(form) })),
    };
    (DomainUuid(uuid), domain)
}

/// What such a domain holds.
pub fn holding(number: u128, addresses: &[&str]) -> Holding {
    let (uuid, domain) = domain(number, "us", addresses);
    Holding::of_domain(uuid, &domain, "us").unwrap()
}
