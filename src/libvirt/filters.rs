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
/// is written in the other one of two ways that mean the same. Those of other versions of Cascina are taken as they are.
pub(super) fn refresh(session: &Session) -> Result<(), Failure> {
    let connection = session.connection();
    for filter in connection.list_all_nw_filters(0)? {
        let name = filter.name()?;
        if name.starts_with(FILTER_PREFIX) {
            let ours = RuleSet::ALL.into_iter().find(|rules| rules.filter_name() == name);
            let ours = ours.map(RuleSet::filter_xml).transpose()?;
            connection.define_nwfilter_xml(&rewritten(&filter.xml_desc(0)?, ours))?;
            // A filter of many cards takes long.
            session.beat()?;
        }
    }
    Ok(())
}

/// A filter in the other one of the two ways.
fn rewritten(current: &str, ours: Option<String>) -> String {
    let marked = filters::mark(current);
    match (ours, marked == current) {
        (Some(ours), true) => ours,
        (Some(ours), false) => filters::mark(&ours),
        (None, true) => filters::unmark(current),
        (None, false) => marked,
    }
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
        let once = rewritten(&ours, Some(ours.clone()));
        assert_ne!(once, ours);
        assert_eq!(rewritten(&once, Some(ours.clone())), ours);
        assert_eq!(once.replace("999", "1000"), ours, "only the place of the last rule differs");
    }

    #[test]
    fn what_somebody_made_of_a_filter_of_ours_is_not_kept() {
        let ours = RuleSet::Machine.filter_xml().unwrap();
        assert_eq!(rewritten("<filter/>", Some(ours.clone())), ours);
        assert_eq!(rewritten("<rule action='accept' priority='1000'/>", Some(ours.clone())), filters::mark(&ours));
    }

    #[test]
    fn a_filter_of_another_version_keeps_its_rules() {
        let theirs = "<filter name='cascina-machine-0'><rule action='drop' priority='1000'/></filter>";
        let once = rewritten(theirs, None);
        assert_eq!(once, theirs.replace("1000", "999"));
        assert_eq!(rewritten(&once, None), theirs);
    }
}
