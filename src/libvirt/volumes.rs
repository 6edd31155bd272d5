//! Volumes of the pool, except what fills them (see [`super::upload`]). Runs on a thread that may block.

use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use super::domain_xml::format_name;
use super::error::Failure;
use super::spec::VolumeSpec;
use crate::api::{Bytes, DiskFormat};
use crate::xml::Element;

/// Beside a volume whose content isn't all there lies an empty one of its name with this ending. It is made before the
/// volume and removed after the last byte was seen to be there, so that a writer that dies leaves no volume that looks
/// complete.
pub(super) const INCOMPLETE: &str = ".incomplete";

/// A pool is full before nothing is left: an empty disk takes a little, and file systems keep some megabytes to
/// themselves.
const AS_GOOD_AS_FULL: Bytes = Bytes::mebi(64);

/// What the name of the empty volume starts with by which a pool is known again.
pub const POOL_MARK: &str = "cascina-pool-";

/// Where volumes are looked for.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Name of the pool.
    pub(super) pool: String,
    /// Whether other hosts write into it, so that what this host's libvirt knows of it may be old.
    pub(super) shared: bool,
}

impl Place {
    /// The pool. That it isn't there says nothing of its volumes, so it is an error.
    pub(super) fn open(&self, connection: &Connect) -> Result<StoragePool, Failure> {
        Ok(connection.lookup_storage_pool_by_name(&self.pool)?)
    }

    /// The pool, and a volume of it. Only after looking at the storage itself is a volume absent.
    pub(super) fn find(&self, connection: &Connect, name: &str) -> Result<(StoragePool, Option<StorageVol>), Failure> {
        let pool = self.open(connection)?;
        let volume = match find(&pool, name)? {
            None if self.shared => {
                refresh(&pool)?;
                find(&pool, name)?
            }
            found => found,
        };
        Ok((pool, volume))
    }
}

/// A volume that libvirt knows of.
pub(super) fn find(pool: &StoragePool, name: &str) -> Result<Option<StorageVol>, Failure> {
    match pool.lookup_storage_vol_by_name(name).map_err(Failure::from) {
        Ok(volume) => Ok(Some(volume)),
        Err(failure) if failure.is(ErrorNumber::NoStorageVolume) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Reads the pool's storage anew. libvirt refuses while an upload runs, and reads it itself when that ends.
pub(super) fn refresh(pool: &StoragePool) -> Result<(), Failure> {
    match pool.refresh(0).map_err(Failure::from) {
        Err(failure) if failure.is(ErrorNumber::InternalError) && !failure.is_silence() => Ok(()),
        refreshed => refreshed,
    }
}

/// Makes an empty volume or an overlay, unless it is there.
pub(super) fn create(connection: &Connect, place: &Place, spec: &VolumeSpec) -> Result<(), Failure> {
    let name = spec.name();
    let (pool, volume) = place.find(connection, name)?;
    if volume.is_some() {
        return Ok(());
    }
    let document = match spec {
        VolumeSpec::Blank { size, .. } => qcow2(name, *size, None),
        VolumeSpec::Overlay { base, base_format, size, .. } => {
            let missing = || Failure::Refused(["the base volume isn't in the pool: ", base].concat());
            let base = place.find(connection, base)?.1.ok_or_else(missing)?;
            qcow2(name, *size, Some((&base.path()?, *base_format)))
        }
    };
    match StorageVol::create_xml(&pool, &document.to_xml()?, 0).map_err(Failure::from) {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_silence() => Err(failure),
        Err(failure) => match place.find(connection, name)?.1 {
            // Somebody else was faster.
            Some(_) => Ok(()),
            None if is_full(&pool) => Err(Failure::NoSpace(failure.message())),
            None => Err(failure),
        },
    }
}

/// Whether that is why a volume could not be made: where `qemu-img` failed, libvirt has no code for it, only words.
fn is_full(pool: &StoragePool) -> bool {
    refresh(pool).is_ok() && pool.info().is_ok_and(|space| space.available < AS_GOOD_AS_FULL.get())
}

/// Removes a volume, and only then the mark that it is incomplete.
pub(super) fn delete(connection: &Connect, place: &Place, name: &str) -> Result<(), Failure> {
    for name in [name, &incomplete(name)] {
        if let (_, Some(volume)) = place.find(connection, name)? {
            remove(&volume)?;
        }
    }
    Ok(())
}

/// Removes a volume; one that is gone meanwhile is well.
pub(super) fn remove(volume: &StorageVol) -> Result<(), Failure> {
    match volume.delete(0).map_err(Failure::from) {
        Err(failure) if failure.is(ErrorNumber::NoStorageVolume) => Ok(()),
        // What libvirt says of a volume that is being written or copied.
        removed => removed.map_err(|failure| failure.in_use_if(ErrorNumber::OperationInvalid)),
    }
}

/// The space that volumes take.
pub(super) fn allocation(connection: &Connect, place: &Place, names: &[String]) -> Result<Bytes, Failure> {
    let pool = place.open(connection)?;
    let mut sum = Bytes::ZERO;
    for name in names {
        if let Some(volume) = find(&pool, name)? {
            sum += Bytes::new(volume.info()?.allocation);
        }
    }
    Ok(sum)
}

/// The name of the mark of an incomplete volume.
pub(super) fn incomplete(name: &str) -> String {
    [name, INCOMPLETE].concat()
}

/// A raw volume of this size, without space set aside for it.
pub(super) fn raw(name: &str, size: Bytes) -> Element {
    volume(name, size, Element::new("target").child(format("raw")))
        .child(Element::new("allocation").attribute("unit", "bytes").text(0))
}

pub(super) fn qcow2(name: &str, size: Bytes, base: Option<(&str, DiskFormat)>) -> Element {
    let target = Element::new("target").child(format("qcow2")).child(Element::new("compat").text("1.1"));
    let backing = base.map(|(path, base_format)| {
        Element::new("backingStore").child(Element::new("path").text(path)).child(format(format_name(base_format)))
    });
    volume(name, size, target).children(backing)
}

fn volume(name: &str, size: Bytes, target: Element) -> Element {
    Element::new("volume")
        .attribute("type", "file")
        .child(Element::new("name").text(name))
        .child(Element::new("capacity").attribute("unit", "bytes").text(size.get()))
        .child(target)
}

fn format(name: &str) -> Element {
    Element::new("format").attribute("type", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_names_its_base_and_the_bases_format() {
        let overlay = qcow2("a.qcow2", Bytes::gibi(3), Some(("/pool/b.raw", DiskFormat::Raw)));
        insta::assert_snapshot!(overlay.to_xml().unwrap());
    }

    #[test]
    fn a_raw_volume_has_exactly_its_size() {
        insta::assert_snapshot!(raw("seed & co.img", Bytes::new(1_234_567)).to_xml().unwrap());
    }
}
