//! Filters on a host.

use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::nwfilter::NWFilter;

use super::error::Failure;
use super::link::Session;
use crate::network::RuleSet;
use crate::network::filters::{self, FILTER_PREFIX};

/// Defines the filter of a rule set. One of its name has its rules already: the name holds their hash.
pub(super) fn ensure(connection: &Connect, rules: RuleSet) -> Result<(), Failure> {
    let name = rules.filter_name();
    if find(connection, &name)?.is_some() {
        return Ok(());
    }
    match connection.define_nwfilter_xml(&rules.filter_xml()?).map_err(Failure::from) {
        Ok(_) => Ok(()),
        // Somebody else was faster, and libvirt doesn't redefine under another UUID.
        Err(failure) => find(connection, &name)?.map(drop).ok_or(failure),
    }
}

/// Puts the rules of our filters back for every card that has one. libvirt does so only when a filter changes, so each
/// is written in the other one of two ways that mean the same.
pub(super) fn refresh(session: &Session) -> Result<(), Failure> {
    for_each_of_ours(session, |connection, current, ours| {
        connection.define_nwfilter_xml(&in_the_other_way(current, &ours)).map(drop).map_err(Failure::from)
    })
}

/// Puts cards that have a filter of ours, of whatever version, behind the rules of this one: the filter gets them under
/// its own name. libvirt replaces rules that way without a gap. Giving a card another filter would take its rules away
/// first, and put the new ones in place half a second later. Returns the filters that had other rules.
pub(super) fn renew(session: &Session) -> Result<Vec<String>, Failure> {
    let mut renewed = Vec::new();
    for_each_of_ours(session, |connection, current, ours| {
        // What is so already is left alone by libvirt.
        let filter = connection.define_nwfilter_xml(&in_the_same_way(current, &ours))?;
        if filter.xml_desc(0)? != current {
            renewed.push(filter.name()?);
        }
        Ok(())
    })?;
    Ok(renewed)
}

/// Hands over each filter of ours as it is, and with the rules of this version. Those that later versions may have for
/// something else are left alone.
fn for_each_of_ours(
    session: &Session,
    mut work: impl FnMut(&Connect, &str, String) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let connection = session.connection();
    for filter in connection.list_all_nw_filters(0)? {
        let name = filter.name()?;
        if let Some(rules) = RuleSet::ALL.into_iter().find(|rules| rules.is_version(&name)) {
            work(connection, &filter.xml_desc(0)?, rules.filter_xml_as(&name, filter.uuid()?)?)?;
            // A filter of many cards takes long.
            session.beat()?;
        }
    }
    Ok(())
}

/// A filter's rules, written in the one of the two ways in which it isn't.
fn in_the_other_way(current: &str, ours: &str) -> String {
    if is_marked(current) { ours.to_owned() } else { filters::mark(ours) }
}

fn in_the_same_way(current: &str, ours: &str) -> String {
    if is_marked(current) { filters::mark(ours) } else { ours.to_owned() }
}

fn is_marked(xml: &str) -> bool {
    filters::unmark(xml) != xml
}

/// Removes a filter of ours.
pub(super) fn delete(connection: &Connect, name: &str) -> Result<(), Failure> {
    if !name.starts_with(FILTER_PREFIX) {
        return Err(Failure::Refused("that filter isn't ours".to_owned()));
    }
    let Some(filter) = find(connection, name)? else { return Ok(()) };
    match filter.undefine().map_err(Failure::from) {
        Err(failure) if failure.is(ErrorNumber::NoNwfilter) => Ok(()),
        // What libvirt says of a filter that a NIC or another filter refers to.
        undefined => undefined.map_err(|failure| failure.in_use_if(ErrorNumber::OperationInvalid)),
    }
}

fn find(connection: &Connect, name: &str) -> Result<Option<NWFilter>, Failure> {
    match connection.lookup_nwfilter_by_name(name).map_err(Failure::from) {
        Ok(filter) => Ok(Some(filter)),
        Err(failure) if failure.is(ErrorNumber::NoNwfilter) => Ok(None),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_written_in_turns_and_always_says_the_same() {
        let ours = RuleSet::Machine.filter_xml().unwrap();
        let once = in_the_other_way(&ours, &ours);
        assert_ne!(once, ours);
        assert_eq!(in_the_other_way(&once, &ours), ours);
        assert_eq!(once.replace("999", "1000"), ours, "only the place of the last rule differs");
    }

    #[test]
    fn what_somebody_made_of_a_filter_of_ours_is_not_kept() {
        let ours = RuleSet::Machine.filter_xml().unwrap();
        for theirs in ["<filter/>", "<rule action='accept' priority='1000'/>"] {
            assert_eq!(in_the_other_way(theirs, &ours), filters::mark(&ours));
            assert_eq!(in_the_same_way(theirs, &ours), ours);
        }
        assert_eq!(in_the_same_way("<rule action='accept' priority='999'/>", &ours), filters::mark(&ours));
    }

    #[test]
    fn a_filter_of_another_version_gets_these_rules_under_its_own_name() {
        let uuid = uuid::Uuid::from_u128(7);
        let theirs = RuleSet::Machine.filter_xml_as("cascina-machine-000000000000", uuid).unwrap();
        let ours = RuleSet::Machine.filter_xml().unwrap();
        let rules = |xml: &str| xml.split_once("</uuid>").unwrap().1.to_owned();
        assert_eq!(rules(&theirs), rules(&ours));
        assert!(theirs.contains("cascina-machine-000000000000") && theirs.contains(&uuid.to_string()));
    }
}
