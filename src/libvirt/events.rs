//! What a host tells by itself: that a domain stopped or goes on, that the agent of a guest came or went.
//!
//! An event is a reason to look and nothing else: one that is lost costs time until the next heartbeat. The `virt` crate
//! registers none, so libvirt is called here directly (`virConnectDomainEventRegisterAny` in its reference).

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;
use virt::sys;

use super::error::Failure;
use super::host::{HostError, HostEvent};
use super::link::Link;
use super::spec::DomainUuid;

/// So many events wait to be heard; what comes then is lost.
const BACKLOG: usize = 1024;

/// What a host tells, over a connection that nothing else uses.
#[derive(Debug)]
pub(super) struct News {
    link: Link,
    heard: Sender<HostEvent>,
    told: Mutex<Receiver<HostEvent>>,
}

impl News {
    /// Nothing is told yet.
    pub(super) fn new(link: Link) -> Self {
        let (heard, told) = channel(BACKLOG);
        Self { link, heard, told: Mutex::new(told) }
    }

    /// Has the host tell what happens from now on, unless it does already.
    pub(super) async fn listen(&self, deadline: Duration) -> Result<(), HostError> {
        let heard = self.heard.clone();
        self.link.run("listen", deadline, move |session| session.listen(&heard)).await
    }

    /// The next event.
    pub(super) async fn next(&self) -> HostEvent {
        match self.told.lock().await.recv().await {
            Some(event) => event,
            // Never: a sender is ours.
            None => std::future::pending().await,
        }
    }

    /// Lets go of the connection, because another one to the same host fell silent: nothing is asked over this one, so it
    /// wouldn't be noticed that it leads nowhere any more.
    pub(super) fn distrust(&self) {
        self.link.let_go_of_idle();
    }
}

/// Who listens to the events of a connection.
#[derive(Debug, Default)]
pub(super) struct Ear(OnceLock<Vec<c_int>>);

impl Ear {
    /// Has the host tell what happens from now on, unless it does already.
    pub(super) fn listen(&self, connection: &Connect, heard: &Sender<HostEvent>) -> Result<(), Failure> {
        if self.0.get().is_some() {
            return Ok(());
        }
        let domain = register(connection, sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, generic(on_domain), heard)?;
        let agent = register(connection, sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, generic(on_agent), heard);
        // Kept also when the second failed, so that it is taken back with the connection.
        let (callbacks, outcome) = match agent {
            Ok(agent) => (vec![domain, agent], Ok(())),
            Err(failure) => (vec![domain], Err(failure)),
        };
        self.0.get_or_init(|| callbacks);
        outcome
    }

    /// Listens no more: a connection that somebody listens to is never freed. Asks the daemon, so the line is cut before.
    pub(super) fn close(&self, connection: &Connect) {
        for callback in self.0.get().into_iter().flatten() {
            // SAFETY: the connection is valid as long as it is borrowed. That the daemon can't be asked any more is no failure.
            unsafe { sys::virConnectDomainEventDeregisterAny(connection.as_ptr(), *callback) };
        }
    }
}

/// What libvirt hands to a callback: connection, domain, two numbers that say what happened, and our sender.
type Callback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);

/// libvirt takes callbacks of all kinds by this type, and calls each with what its kind has.
fn generic(callback: Callback) -> sys::virConnectDomainEventGenericCallback {
    // SAFETY: both are pointers to functions of C, and libvirt calls it by its own type again, which is `Callback`.
    Some(unsafe {
        std::mem::transmute::<Callback, unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void)>(
            callback,
        )
    })
}

fn register(
    connection: &Connect,
    kind: sys::virDomainEventID,
    callback: sys::virConnectDomainEventGenericCallback,
    heard: &Sender<HostEvent>,
) -> Result<c_int, Failure> {
    let sender = Box::into_raw(Box::new(heard.clone()));
    // SAFETY: the connection is valid as long as it is borrowed; the sender is libvirt's from here on, which gives it to `free` once.
    let registered = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connection.as_ptr(),
            ptr::null_mut(),
            kind.cast_signed(),
            callback,
            sender.cast(),
            Some(free),
        )
    };
    if registered >= 0 {
        return Ok(registered);
    }
    let error = Error::last_error();
    // SAFETY: a registration that failed keeps nothing, and doesn't free it either.
    drop(unsafe { Box::from_raw(sender) });
    Err(error.into())
}

/// A domain was defined, started, stopped and so on. What we do ourselves is known without: what matters is what ends.
unsafe extern "C" fn on_domain(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    _: c_int,
    heard: *mut c_void,
) {
    let is_news = !matches!(event.cast_unsigned(), sys::VIR_DOMAIN_EVENT_DEFINED | sys::VIR_DOMAIN_EVENT_STARTED);
    if is_news {
        // SAFETY: libvirt calls with a domain that is valid during the call, and with the sender that it was given.
        unsafe { tell(domain, heard, HostEvent::Domain) };
    }
}

/// The agent of a guest opened its side of the channel, or closed it.
unsafe extern "C" fn on_agent(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _: c_int,
    _: c_int,
    heard: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(domain, heard, HostEvent::Agent) };
}

unsafe fn tell(domain: sys::virDomainPtr, heard: *mut c_void, event: fn(DomainUuid) -> HostEvent) {
    let mut bytes = [0; 16];
    // SAFETY: the buffer has the length of a UUID; the caller vouches for the rest.
    let (known, heard) =
        unsafe { (sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) == 0, &*heard.cast::<Sender<HostEvent>>()) };
    if known {
        // Full or closed: nobody has looked for long, or will.
        let _ = heard.try_send(event(DomainUuid(Uuid::from_bytes(bytes))));
    }
}

unsafe extern "C" fn free(heard: *mut c_void) {
    // SAFETY: libvirt gives back what it was given, once.
    drop(unsafe { Box::from_raw(heard.cast::<Sender<HostEvent>>()) });
}
