//! A connection to a host that can hang without hanging us.
//!
//! libvirt's calls block. Each runs on a thread of its own and is waited for no longer than its deadline; the permit that
//! it needs is given back only when the thread really ends, so a host that hangs holds a bounded number of threads. The
//! connection is opened when it is first needed and anew after it broke.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use virt::connect::Connect;
use virt::{error, event};

use super::credentials::Door;
use super::error::{Failure, if_broken};
use super::host::HostError;
use super::unstick::Bystanders;

/// Seconds between the daemon's signs of life, and how many may stay away.
const KEEPALIVE: (i32, u32) = (5, 5);

/// One connection, and the calls that wait for it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    door: Arc<Door>,
    connect_deadline: Duration,
    permits: Arc<Semaphore>,
    opening: Arc<AsyncMutex<()>>,
    current: Mutex<Option<Open>>,
    opened: AtomicU64,
}

/// An open connection.
#[derive(Clone, Debug)]
struct Open {
    connection: Arc<Connect>,
    number: u64,
}

/// What a call works with.
#[derive(Debug)]
pub(super) struct Session {
    open: Open,
    pulse: Arc<Pulse>,
}

/// How the waiting side hears that a long call gets on, and the working side that nobody waits any more.
#[derive(Debug, Default)]
struct Pulse {
    beats: AtomicU64,
    abandoned: AtomicBool,
}

/// Tells the working side when the waiting side ends, also by being dropped.
struct Waiting(Arc<Pulse>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Session {
    /// The connection.
    pub(super) fn connection(&self) -> &Connect {
        &self.open.connection
    }

    /// Counts the connections of this link: another number is another connection.
    pub(super) fn number(&self) -> u64 {
        self.open.number
    }

    /// Tells that the call gets on: its deadline starts anew. A call that nobody waits for any more is refused.
    pub(super) fn beat(&self) -> Result<(), Failure> {
        self.pulse.beats.fetch_add(1, Ordering::Relaxed);
        let abandoned = self.pulse.abandoned.load(Ordering::Relaxed);
        if abandoned { Err(Failure::Refused("nobody waits for it any more".to_owned())) } else { Ok(()) }
    }
}

impl Link {
    /// A link that isn't open yet.
    pub(super) fn new(door: Arc<Door>, connect_deadline: Duration, calls_in_flight: usize) -> Self {
        let inner = Inner {
            door,
            connect_deadline,
            permits: Arc::new(Semaphore::new(calls_in_flight.max(1))),
            opening: Arc::default(),
            current: Mutex::default(),
            opened: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Runs a call on a thread of its own. The deadline counts from the last [`Session::beat`], with the time in which
    /// the call waits for its turn. When it passes nothing is known of the outcome and the thread is left to itself.
    pub(super) async fn run<T, W>(&self, operation: &'static str, deadline: Duration, work: W) -> Result<T, HostError>
    where
        T: Send + 'static,
        W: FnOnce(&Session) -> Result<T, Failure> + Send + 'static,
    {
        let pulse = Arc::<Pulse>::default();
        let _waiting = Waiting(pulse.clone());
        let mut attempt = Box::pin(self.attempt(pulse.clone(), work));
        let mut heard = 0;
        loop {
            if let Ok(result) = timeout(deadline, &mut attempt).await {
                return result.map_err(|failure| failure.of(operation));
            }
            let beats = pulse.beats.load(Ordering::Relaxed);
            if beats == heard {
                self.inner.retire(|_| true);
                return Err(HostError::Deadline { operation, after: deadline });
            }
            heard = beats;
        }
    }

    async fn attempt<T, W>(&self, pulse: Arc<Pulse>, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(&Session) -> Result<T, Failure> + Send + 'static,
    {
        let closed = |_| Failure::Refused("the host is no longer in use".to_owned());
        let permit = self.inner.permits.clone().acquire_owned().await.map_err(closed)?;
        let (permit, open) = self.open(permit).await?;
        let inner = self.inner.clone();
        blocking(move || {
            let _permit = permit;
            let session = Session { open, pulse };
            work(&session).map_err(|failure| {
                let failure = if_broken(session.connection(), failure);
                if failure.is_silence() {
                    inner.retire(|open| open.number == session.number());
                }
                failure
            })
        })
        .await
    }

    /// The open connection. One call opens it, the others wait without a thread.
    async fn open(&self, permit: OwnedSemaphorePermit) -> Result<(OwnedSemaphorePermit, Open), Failure> {
        if let Some(open) = self.inner.current() {
            return Ok((permit, open));
        }
        let turn = self.inner.opening.clone().lock_owned().await;
        if let Some(open) = self.inner.current() {
            return Ok((permit, open));
        }
        let inner = self.inner.clone();
        blocking(move || {
            let open = inner.connect()?;
            drop(turn);
            Ok((permit, open))
        })
        .await
    }
}

impl Inner {
    fn current(&self) -> Option<Open> {
        self.retire(|open| !open.connection.is_alive().unwrap_or(false));
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a connection out of use. Closing asks the daemon and may wait for it, so a thread of its own does that.
    fn retire(&self, which: impl FnOnce(&Open) -> bool) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(which)
            && let Some(open) = current.take()
        {
            close(open);
        }
    }

    fn connect(&self) -> Result<Open, Failure> {
        initialise()?;
        let bystanders = Bystanders::at(self.door.addresses());
        let watch = watch(self.connect_deadline, bystanders);
        let opened = Connect::open(Some(self.door.uri())).map_err(Failure::from);
        if let Some(watch) = watch {
            watch.abort();
        }
        let connection = opened?;
        let (interval, count) = KEEPALIVE;
        connection.set_keep_alive(interval, count)?;
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let open = Open { connection: Arc::new(connection), number };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(open.clone());
        Ok(open)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.retire(|_| true);
    }
}

/// Ends the opening of a connection that takes too long; `None` outside of a runtime.
fn watch(deadline: Duration, bystanders: Bystanders) -> Option<JoinHandle<()>> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    Some(runtime.spawn(async move {
        loop {
            sleep(deadline).await;
            bystanders.shut_newcomers();
        }
    }))
}

fn close(open: Open) {
    if let Err(error) = thread::Builder::new().name("libvirt-close".to_owned()).spawn(move || drop(open)) {
        tracing::warn!(%error, "no thread to close a connection");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(Failure::Refused(["the call ended abnormally: ", &error.to_string()].concat())))
}

/// Readies libvirt for this process, once: its event loop, which keepalive needs, and silence on standard error.
pub(super) fn initialise() -> Result<(), Failure> {
    static READY: OnceLock<Result<(), String>> = OnceLock::new();
    READY.get_or_init(start_event_loop).clone().map_err(Failure::Refused)
}

fn start_event_loop() -> Result<(), String> {
    error::clear_error_callback();
    event::event_register_default_impl().map_err(|error| error.to_string())?;
    let run = || {
        loop {
            if let Err(error) = event::event_run_default_impl() {
                tracing::error!(%error, "libvirt's event loop");
                thread::sleep(Duration::from_secs(1));
            }
        }
    };
    thread::Builder::new().name("libvirt-events".to_owned()).spawn(run).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::config::{Credentials, HostConfig};
    use super::*;
    use std::net::TcpListener;
    use std::time::Instant;

    /// A link to somebody who accepts connections and never says a word.
    fn mute() -> (TcpListener, Link) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("qemu+tcp://{}/system", listener.local_addr().unwrap());
        let config = HostConfig::new("mute", uri, Credentials::None, "pool", "/nowhere");
        let door = Door::new(&HostConfig { insecure: true, ..config }).unwrap();
        (listener, Link::new(Arc::new(door), Duration::from_millis(300), 2))
    }

    fn hostname(session: &Session) -> Result<String, Failure> {
        Ok(session.connection().hostname()?)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn opening_a_connection_to_a_mute_host_ends() {
        let (_listener, link) = mute();
        let started = Instant::now();
        let silent = link.run("test", Duration::from_secs(20), hostname).await;
        assert!(matches!(silent, Err(HostError::Unreachable { .. })), "{silent:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(link.inner.permits.available_permits(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_permit_comes_back_only_with_its_thread() {
        let (_listener, link) = mute();
        let silent = link.run("test", Duration::from_millis(50), hostname).await;
        assert!(matches!(silent, Err(HostError::Deadline { .. })), "{silent:?}");
        assert_eq!(link.inner.permits.available_permits(), 1);
        let started = Instant::now();
        while link.inner.permits.available_permits() < 2 {
            assert!(started.elapsed() < Duration::from_secs(5));
            sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn ssh_goes_by_our_own_command_and_fails_fast() {
        let runtime = tempfile::tempdir().unwrap();
        let credentials = Credentials::Ssh { key: b"no key\n".to_vec(), known_hosts: Vec::new() };
        let config = HostConfig::new("ssh", "qemu+ssh://nobody@127.0.0.1/system", credentials, "pool", runtime.path());
        let link = Link::new(Arc::new(Door::new(&config).unwrap()), Duration::from_secs(5), 2);
        let refused = link.run("test", Duration::from_secs(10), hostname).await;
        assert!(matches!(refused, Err(HostError::Unreachable { .. })), "{refused:?}");
        println!("{}", refused.unwrap_err());
    }
}
