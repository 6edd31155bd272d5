//! The network cards of a domain that runs. Runs on a thread that may block.

use virt::connect::Connect;
use virt::sys;

use super::domain_xml;
use super::domains;
use super::error::Failure;
use super::form::NicForm;
use super::spec::{DomainUuid, Nic};
use crate::xml::Element;

/// Puts cards back to what they should be. A card that the domain shouldn't have loses its cable: to take it out needs
/// the guest, which may not want to. So does a card that can't be put back.
pub(super) fn mend(connection: &Connect, uuid: DomainUuid, nics: &[Nic]) -> Result<(), Failure> {
    let Some(domain) = domains::running(connection, uuid)? else { return Ok(()) };
    let unreadable = || Failure::Refused("the domain's document can't be read".to_owned());
    let document = Element::parse(&domain.xml_desc(0)?).ok_or_else(unreadable)?;
    let cards = document.find("devices").into_iter().flat_map(|devices| devices.every("interface"));
    let update = |card: &Element| -> Result<(), Failure> {
        Ok(domain.update_device_flags(&card.to_xml()?, sys::VIR_DOMAIN_AFFECT_LIVE)?)
    };
    let mut outcome = Ok(());
    for (card, wanted) in cards.filter_map(|card| Some((card, change(card, nics)?))) {
        if let Err(failure) = update(&wanted) {
            // Behind the wrong filter it must not speak. If this fails too, the first failure says more.
            let _ = update(&cut(card));
            outcome = Err(failure);
        }
    }
    outcome
}

/// The card as it should be; `None`: it is so.
fn change(card: &Element, nics: &[Nic]) -> Option<Element> {
    let seen = NicForm::read(card);
    match nics.iter().find(|nic| nic.mac.to_string() == seen.mac) {
        Some(nic) => {
            let wanted = domain_xml::interface(nic);
            // Only a cable that is told to be plugged in is plugged in again.
            let plugged = || wanted.clone().child(Element::new("link").attribute("state", "up"));
            (NicForm::read(&wanted) != seen).then(plugged)
        }
        None if seen.is_cut => None,
        None => Some(cut(card)),
    }
}

/// The card as it is, without its cable.
fn cut(card: &Element) -> Element {
    card.clone().replacing(Element::new("link").attribute("state", "down"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Hold, MacAddress, RuleSet};

    fn nic() -> Nic {
        let address = "172.16.1.10".parse().unwrap();
        Nic { bridge: "br0".into(), mac: MacAddress::of(address), hold: Hold::Machine(address), bandwidth: None }
    }

    #[test]
    fn a_card_as_it_should_be_is_left_alone() {
        assert_eq!(change(&domain_xml::interface(&nic()), &[nic()]), None);
    }

    #[test]
    fn a_card_without_its_filter_gets_it_back_and_its_cable_with_it() {
        let bare = domain_xml::interface(&nic()).replacing(Element::new("filterref"));
        let mended = change(&bare, &[nic()]).unwrap();
        assert_eq!(mended.get_at("filterref", "filter"), Some(RuleSet::Machine.filter_name().as_str()));
        assert_eq!(mended.get_at("link", "state"), Some("up"));
    }

    #[test]
    fn a_card_of_another_address_is_cut_off_once() {
        let mut other = nic();
        other.mac = "02:00:ac:10:02:0b".parse().unwrap();
        let cut = change(&domain_xml::interface(&other), &[nic()]).unwrap();
        assert_eq!(cut.get_at("link", "state"), Some("down"));
        assert_eq!(cut.get_at("mac", "address"), Some("02:00:ac:10:02:0b"));
        assert_eq!(change(&cut, &[nic()]), None);
    }
}
