//! Connections to a host that can hang without hanging us.
//!
//! libvirt's calls block. Each runs on a thread of its own and is waited for no longer than its deadline. When that has
//! passed, the connection is cut and the thread ends with an error; the permit that the call needs is given back only
//! then, so a host that hangs holds a bounded number of threads.
//!
//! **One thread at a time uses a connection**, and libvirt's own keepalive stays off. Before 10.4.0 (CVE-2024-4418)
//! libvirt's client corrupts memory when it is woken from its wait for an answer: by another thread with a call over the
//! same connection, or by the event loop with a sign of life to be sent. So calls that overlap get connections of their
//! own, opened when they are needed, and a call that hangs is noticed by its deadline.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use virt::connect::Connect;
use virt::{error, event};

use super::credentials::Door;
use super::error::{Failure, if_broken};
use super::events::Ear;
use super::host::{HostError, HostEvent};
use super::unstick::{Bystanders, Line};

/// As many connections as there are calls at once, and the calls that wait for their turn.
#[derive(Clone, Debug)]
pub(super) struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    door: Arc<Door>,
    connect_deadline: Duration,
    permits: Arc<Semaphore>,
    /// Connections that no call uses now, the one that was used last at the end.
    idle: Mutex<Vec<Open>>,
    opened: AtomicU64,
}

/// An open connection, held by the one call that uses it.
#[derive(Debug)]
struct Open {
    connection: Connect,
    line: Arc<Line>,
    number: u64,
    ear: Ear,
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
    /// What the call's thread waits on, as long as it works with a connection.
    line: Mutex<Option<Arc<Line>>>,
}

impl Pulse {
    fn works_on(&self, line: Option<Arc<Line>>) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }

    /// Frees the call's thread, if it waits for the host.
    fn cut(&self) {
        if let Some(line) = &*self.line.lock().unwrap_or_else(PoisonError::into_inner) {
            line.cut();
        }
    }
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

    /// Has the host tell over this connection what happens, from now until the connection ends.
    pub(super) fn listen(&self, heard: &Sender<HostEvent>) -> Result<(), Failure> {
        self.open.ear.listen(&self.open.connection, heard)
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
            idle: Mutex::default(),
            opened: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Runs a call on a thread of its own. The deadline counts from the last [`Session::beat`], with the time in which
    /// the call waits for its turn. When it passes nothing is known of the outcome.
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
                pulse.cut();
                self.inner.let_go_of_idle();
                return Err(HostError::Deadline { operation, after: deadline });
            }
            heard = beats;
        }
    }

    /// Takes the connections that no call uses out of use, after another one to the same host fell silent.
    pub(super) fn let_go_of_idle(&self) {
        self.inner.let_go_of_idle();
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
            pulse.works_on(Some(open.line.clone()));
            let session = Session { open, pulse };
            let result = work(&session).map_err(|failure| if_broken(session.connection(), failure));
            session.pulse.works_on(None);
            if result.as_ref().is_err_and(Failure::is_silence) {
                session.open.close();
                inner.let_go_of_idle();
            } else {
                inner.idle().push(session.open);
            }
            result
        })
        .await
    }

    /// A connection for one call: one that is idle, or a new one. A host is called by one thread at a time, the others
    /// wait without one; where somebody's call is over first, they take that connection.
    async fn open(&self, permit: OwnedSemaphorePermit) -> Result<(OwnedSemaphorePermit, Open), Failure> {
        if let Some(open) = self.inner.take_idle() {
            return Ok((permit, open));
        }
        let turn = self.inner.door.opening().await;
        if let Some(open) = self.inner.take_idle() {
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
    fn idle(&self) -> MutexGuard<'_, Vec<Open>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<Open> {
        loop {
            let open = self.idle().pop()?;
            if open.connection.is_alive().unwrap_or(false) {
                return Some(open);
            }
            close(vec![open]);
        }
    }

    /// Takes connections out of use: what one of them suffered the others mostly did too.
    fn let_go_of_idle(&self) {
        close(std::mem::take(&mut *self.idle()));
    }

    fn connect(&self) -> Result<Open, Failure> {
        initialise()?;
        let bystanders = Arc::new(Bystanders::at(self.door.addresses()));
        let watch = watch(self.connect_deadline, bystanders.clone());
        let opened = Connect::open(Some(self.door.uri())).map_err(Failure::from);
        if let Some(watch) = watch {
            watch.abort();
        }
        let (connection, line) = (opened?, Arc::new(bystanders.newcomers()));
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Open { connection, line, number, ear: Ear::default() })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.let_go_of_idle();
    }
}

impl Open {
    /// Closes the connection without asking a daemon that may not answer.
    fn close(self) {
        self.line.cut();
        self.ear.close(&self.connection);
    }
}

/// Ends the opening of a connection that takes too long; `None` outside of a runtime.
fn watch(deadline: Duration, bystanders: Arc<Bystanders>) -> Option<JoinHandle<()>> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    Some(runtime.spawn(async move {
        loop {
            sleep(deadline).await;
            bystanders.newcomers().cut();
        }
    }))
}

/// Closes connections on a thread of its own: over ssh there is no line that could be cut, and the daemon is asked.
fn close(connections: Vec<Open>) {
    if connections.is_empty() {
        return;
    }
    let work = move || connections.into_iter().for_each(Open::close);
    if let Err(error) = thread::Builder::new().name("libvirt-close".to_owned()).spawn(work) {
        tracing::warn!(%error, "no thread to close connections");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(Failure::Refused(["the call ended abnormally: ", &error.to_string()].concat())))
}

/// Readies libvirt for this process, once: its event loop, which notices that an idle connection ended and answers the
/// daemon's signs of life, and silence on standard error.
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
