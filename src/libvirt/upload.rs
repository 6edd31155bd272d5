//! Filling a volume from here, byte for byte. Runs on a thread that may block.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;
use virt::sys;

use super::error::Failure;
use super::link::Session;
use super::volumes::{self, Place};
use crate::api::Bytes;

/// Bytes in one message: what libvirt sends at once.
const CHUNK: usize = 256 * 1024 - 24;

/// Makes a raw volume with this content; one of that name is replaced.
pub(super) fn content(session: &Session, place: &Place, name: &str, content: &[u8]) -> Result<(), Failure> {
    replace(session, place, name, content.len() as u64, content, &AtomicU64::new(0))
}

/// Makes a volume from a file; one of that name is replaced. `sent` counts the bytes that the host took.
pub(super) fn file(
    session: &Session,
    place: &Place,
    name: &str,
    path: &Path,
    sent: &Arc<AtomicU64>,
) -> Result<(), Failure> {
    let unreadable = |error: io::Error| Failure::Refused(format!("{} can't be read: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    replace(session, place, name, length, file, sent)
}

fn replace(
    session: &Session,
    place: &Place,
    name: &str,
    length: u64,
    source: impl Read,
    sent: &AtomicU64,
) -> Result<(), Failure> {
    if name.ends_with(volumes::INCOMPLETE) {
        return Err(Failure::Refused("that name marks incomplete volumes".to_owned()));
    }
    let connection = session.connection();
    mark(session, place, name)?;
    let (pool, old) = place.find(connection, name)?;
    if let Some(old) = old {
        volumes::remove(&old)?;
    }
    let uploaded = upload(session, &pool, name, length, source, sent);
    match uploaded {
        Ok(()) => {}
        Err(failure) if failure.is_silence() => return Err(failure),
        Err(failure) => {
            let full = is_full(&pool, length.saturating_sub(sent.load(Ordering::Relaxed)));
            // If this fails too, the mark stays and tells that the volume is no good.
            let _ = volumes::delete(connection, place, name);
            let message = "the pool has less space than the volume needs".to_owned();
            return Err(if full { Failure::NoSpace(message) } else { failure });
        }
    }
    match volumes::find(&pool, &volumes::incomplete(name))? {
        Some(mark) => volumes::remove(&mark),
        None => Ok(()),
    }
}

fn mark(session: &Session, place: &Place, name: &str) -> Result<(), Failure> {
    let name = volumes::incomplete(name);
    let (pool, mark) = place.find(session.connection(), &name)?;
    if mark.is_none() {
        StorageVol::create_xml(&pool, &volumes::raw(&name, Bytes::new(0)).to_xml()?, 0)?;
    }
    Ok(())
}

fn upload(
    session: &Session,
    pool: &StoragePool,
    name: &str,
    length: u64,
    source: impl Read,
    sent: &AtomicU64,
) -> Result<(), Failure> {
    if is_full(pool, length) {
        return Err(Failure::NoSpace("the pool has less space than the volume needs".to_owned()));
    }
    let volume = StorageVol::create_xml(pool, &volumes::raw(name, Bytes::new(length)).to_xml()?, 0)?;
    if length > 0 {
        let stream = Stream::new(session.connection(), 0)?;
        // With a length of nothing libvirt would take what comes.
        volume.upload(&stream, 0, length, 0)?;
        if let Err(failure) = send(session, &stream, source.take(length), sent) {
            let _ = stream.abort();
            return Err(failure);
        }
        stream.finish()?;
    }
    let there = volume.info_flags(sys::VIR_STORAGE_VOL_GET_PHYSICAL)?.allocation;
    let taken = sent.load(Ordering::Relaxed);
    if there == length && taken == length {
        return Ok(());
    }
    Err(Failure::Refused(format!("{length} bytes were to be written, {taken} were sent and {there} are there")))
}

fn send(session: &Session, stream: &Stream, mut source: impl Read, sent: &AtomicU64) -> Result<(), Failure> {
    let mut buffer = vec![0; CHUNK];
    loop {
        session.beat()?;
        let read = source.read(&mut buffer).map_err(|error| Failure::Refused(format!("reading: {error}")))?;
        let mut chunk = buffer.get(..read).unwrap_or_default();
        if chunk.is_empty() {
            return Ok(());
        }
        while !chunk.is_empty() {
            let taken = usize::try_from(stream.send(chunk)?).unwrap_or_default();
            if taken == 0 {
                return Err(Failure::Refused("the host takes no more bytes".to_owned()));
            }
            sent.fetch_add(taken as u64, Ordering::Relaxed);
            chunk = chunk.get(taken..).unwrap_or_default();
        }
    }
}

/// Whether the pool surely has less space than this; libvirt's knowledge is renewed before it is held against anyone.
fn is_full(pool: &StoragePool, needed: u64) -> bool {
    let lacks = || pool.info().is_ok_and(|space| space.available < needed);
    lacks() && volumes::refresh(pool).is_ok() && lacks()
}
