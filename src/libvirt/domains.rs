//! What can be done with a domain. Runs on a thread that may block.

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::sys;

use super::agent;
use super::domain_xml::{self, Paths};
use super::error::Failure;
use super::host::DomainRun;
use super::reading::Reading;
use super::spec::{DomainSpec, DomainUuid};
use super::survey;
use super::volumes::Place;

/// Finds a domain; `None`: it is surely not there.
pub(super) fn find(connection: &Connect, uuid: DomainUuid) -> Result<Option<Domain>, Failure> {
    match connection.lookup_domain_by_uuid_string(&uuid.to_string()).map_err(Failure::from) {
        Ok(domain) => Ok(Some(domain)),
        Err(failure) if failure.is(ErrorNumber::NoDomain) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Defines a domain, under its name if it lost that. One that runs goes on as it is; it has to have the same tag.
pub(super) fn define(connection: &Connect, place: &Place, spec: &DomainSpec) -> Result<(), Failure> {
    if let Some(domain) = find(connection, spec.uuid)? {
        if domain.is_active()? {
            if Reading::of(&domain)?.tag != Some((spec.role, spec.tag.clone())) {
                return Err(Failure::InUse("it runs, and was made from something else".to_owned()));
            }
        } else if domain.name()? != domain_xml::name(spec.uuid) {
            // libvirt takes no definition that gives a UUID that it knows another name.
            domain.rename(&domain_xml::name(spec.uuid), 0)?;
        }
    }
    let mut paths = Paths::new();
    for name in domain_xml::volumes(spec) {
        if let (_, Some(volume)) = place.find(connection, name)? {
            paths.insert(name.to_owned(), volume.path()?);
        }
    }
    let document = domain_xml::document(spec, &paths).map_err(|error| Failure::Refused(error.to_string()))?;
    connection.define_domain_xml_flags(&document.to_xml()?, sys::VIR_DOMAIN_DEFINE_VALIDATE)?;
    Ok(())
}

/// Starts a domain; one that runs is left alone.
pub(super) fn start(connection: &Connect, uuid: DomainUuid) -> Result<(), Failure> {
    let domain = find(connection, uuid)?.ok_or_else(|| Failure::Refused("the domain isn't defined".to_owned()))?;
    if domain.is_active()? {
        return Ok(());
    }
    match domain.create().map_err(Failure::from) {
        // Somebody else was faster.
        Err(failure) if failure.is(ErrorNumber::OperationInvalid) && domain.is_active()? => Ok(()),
        started => started,
    }
}

/// Lets a guest go on that an I/O error stopped. One that somebody suspended is left alone.
pub(super) fn resume(connection: &Connect, uuid: DomainUuid) -> Result<(), Failure> {
    let Some(domain) = running(connection, uuid)? else { return Ok(()) };
    if survey::state(&domain)? != DomainRun::PausedByIoError {
        return Ok(());
    }
    unless_off(&domain, domain.resume().map_err(Failure::from))
}

/// Asks the guest to shut down, by its agent and by its power button: an agent can say yes and do nothing. A domain that
/// is off is left alone.
pub(super) fn shutdown(connection: &Connect, uuid: DomainUuid) -> Result<(), Failure> {
    let Some(domain) = running(connection, uuid)? else { return Ok(()) };
    agent::shut_down(&domain)?;
    unless_off(&domain, domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN).map_err(Failure::from))
}

/// Switches a domain off.
pub(super) fn destroy(connection: &Connect, uuid: DomainUuid) -> Result<(), Failure> {
    let Some(domain) = running(connection, uuid)? else { return Ok(()) };
    unless_off(&domain, domain.destroy().map_err(Failure::from))
}

/// Removes the definition of a domain, with all that libvirt keeps for it. A domain that runs is refused: libvirt would
/// let it run on without a definition.
pub(super) fn undefine(connection: &Connect, uuid: DomainUuid) -> Result<(), Failure> {
    let Some(domain) = find(connection, uuid)? else { return Ok(()) };
    if domain.is_active()? {
        return Err(Failure::InUse("the domain runs".to_owned()));
    }
    let everything = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    match domain.undefine_flags(everything).map_err(Failure::from) {
        Err(failure) if failure.is(ErrorNumber::NoDomain) => Ok(()),
        undefined => undefined,
    }
}

/// Finds a domain that has a QEMU.
pub(super) fn running(connection: &Connect, uuid: DomainUuid) -> Result<Option<Domain>, Failure> {
    let Some(domain) = find(connection, uuid)? else { return Ok(None) };
    Ok(domain.is_active()?.then_some(domain))
}

/// Success, if the domain went off meanwhile: that is what was wanted.
fn unless_off(domain: &Domain, result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.is_any(&[ErrorNumber::OperationInvalid, ErrorNumber::NoDomain]) => {
            match domain.is_active().map_err(Failure::from) {
                Ok(false) => Ok(()),
                Err(gone) if gone.is(ErrorNumber::NoDomain) => Ok(()),
                Ok(true) | Err(_) => Err(failure),
            }
        }
        result => result,
    }
}
