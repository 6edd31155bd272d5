//! Filters on a host.

use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::nwfilter::NWFilter;

use super::error::Failure;
use crate::network::RuleSet;
use crate::network::filters::FILTER_PREFIX;

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
