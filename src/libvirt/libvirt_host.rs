//! A host over libvirt RPC.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::interval;
use virt::domain::Domain;

use super::agent_turns::AgentTurns;
use super::certificates::{self, Certificates};
use super::config::{ConfigError, HostConfig};
use super::credentials::Door;
use super::error::Failure;
use super::events::News;
use super::host::{
    Connect, GuestCommand, GuestOutput, Host, HostError, HostEvent, Progress, Result, Survey, SurveyedDomain,
};
use super::link::{Link, Session};
use super::spec::{DomainSpec, DomainUuid, Nic, VolumeSpec};
use super::survey::{self, Known};
use super::volumes::{self, Place};
use super::{agent, domains, filters, nics, upload};
use crate::api::{Bytes, DiskFormat};
use crate::network::RuleSet;

/// How many call deadlines a start may take, and the refreshing of one filter.
const STARTS_TAKE: u32 = 4;
/// Uploads at once: they are long, and other writes need their turn.
const UPLOADS_IN_FLIGHT: usize = 2;
/// How often a command in a guest is asked whether it has ended.
const LOOK_AT_GUEST_EVERY: Duration = Duration::from_millis(100);
/// How often the progress of an upload is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// A host over libvirt RPC: connections for reading and connections for writing, opened when they are needed.
///
/// Must be used within a tokio runtime with time enabled. A host that hangs holds at most twice
/// [`HostConfig::calls_in_flight`] of its blocking threads.
pub struct LibvirtHost {
    config: HostConfig,
    place: Place,
    door: Arc<Door>,
    reads: Link,
    writes: Link,
    known: Arc<Known>,
    starts: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    long_writes: Arc<Semaphore>,
    agents: AgentTurns,
    news: News,
}

/// The way to hosts over libvirt RPC.
#[must_use]
pub fn connect() -> Connect {
    Arc::new(|config| Ok(Arc::new(LibvirtHost::new(config)?)))
}

impl LibvirtHost {
    /// Checks the configuration and lays down the credentials; doesn't speak with the host yet.
    ///
    /// # Errors
    /// The configuration can't be worked with, or the credentials can't be written.
    pub fn new(config: HostConfig) -> std::result::Result<Self, ConfigError> {
        let door = Arc::new(Door::new(&config)?);
        let link = || Link::new(door.clone(), config.connect_deadline, config.calls_in_flight);
        Ok(Self {
            place: Place { pool: config.pool.clone(), shared: config.shared },
            reads: link(),
            writes: link(),
            news: News::new(Link::new(door.clone(), config.connect_deadline, 1)),
            door,
            known: Arc::default(),
            starts: Arc::new(Semaphore::new(config.starts_in_flight.max(1))),
            uploads: Arc::new(Semaphore::new(UPLOADS_IN_FLIGHT)),
            long_writes: Arc::new(Semaphore::new(config.calls_in_flight.saturating_sub(1).max(1))),
            agents: AgentTurns::default(),
            config,
        })
    }

    async fn read<T, W>(&self, operation: &'static str, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&Session) -> std::result::Result<T, Failure> + Send + 'static,
    {
        self.observed(operation, self.reads.run(operation, self.config.call_deadline, work)).await
    }

    async fn write<T, W>(&self, operation: &'static str, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&Session) -> std::result::Result<T, Failure> + Send + 'static,
    {
        self.observed(operation, self.writes.run(operation, self.config.call_deadline, work)).await
    }

    /// The one place through which every call passes.
    async fn observed<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        let result = call.await;
        let outcome = result.as_ref().err().map_or("ok", HostError::reason);
        self.config.observer.observe(&self.config.name, operation, started.elapsed().as_secs_f64(), outcome);
        result
    }

    /// Asks the agent of a guest something; `None`: the domain is off, or nobody answers.
    async fn ask_guest<T, A>(&self, operation: &'static str, uuid: DomainUuid, ask: A) -> Result<Option<T>>
    where
        T: Send + 'static,
        A: FnOnce(&Domain) -> std::result::Result<Option<T>, Failure> + Send + 'static,
    {
        self.read(operation, move |session| match domains::running(session.connection(), uuid)? {
            Some(domain) => ask(&domain),
            None => Ok(None),
        })
        .await
    }

    /// Filters of many cards are written anew, one after the other.
    async fn rewrite_filters<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: fn(&Session) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        let deadline = self.config.call_deadline * STARTS_TAKE;
        self.observed(operation, self.writes.run(operation, deadline, work)).await
    }

    /// A turn among the calls of a kind. Waiting for it has no deadline: that others are served first is no silence.
    async fn turn(operation: &'static str, turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
        let refused = |_| HostError::Refused { operation, message: "the host is no longer in use".to_owned() };
        turns.clone().acquire_owned().await.map_err(refused)
    }

    /// A turn among the uploads or starts that leaves a thread for the short writes.
    async fn long_turn(&self, operation: &'static str, turns: &Arc<Semaphore>) -> Result<[OwnedSemaphorePermit; 2]> {
        Ok([Self::turn(operation, turns).await?, Self::turn(operation, &self.long_writes).await?])
    }
}

impl fmt::Debug for LibvirtHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LibvirtHost")
            .field("name", &self.config.name)
            .field("uri", &self.config.uri)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Host for LibvirtHost {
    async fn survey(&self) -> Result<Survey> {
        let (place, known) = (self.place.clone(), self.known.clone());
        let read = self.read("survey", move |session| survey::read(session, &place, &known)).await;
        if read.as_ref().is_err_and(HostError::is_silence) {
            self.news.distrust();
        }
        read
    }

    async fn domain(&self, uuid: DomainUuid) -> Result<Option<SurveyedDomain>> {
        self.read("domain", move |session| survey::domain(session.connection(), uuid)).await
    }

    async fn ensure_filter(&self, rules: RuleSet) -> Result<()> {
        self.write("ensure_filter", move |session| filters::ensure(session.connection(), rules)).await
    }

    async fn refresh_filters(&self) -> Result<()> {
        self.rewrite_filters("refresh_filters", filters::refresh).await
    }

    async fn renew_filters(&self) -> Result<Vec<String>> {
        self.rewrite_filters("renew_filters", filters::renew).await
    }

    async fn delete_filter(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.write("delete_filter", move |session| filters::delete(session.connection(), &name)).await
    }

    async fn create_volume(&self, volume: &VolumeSpec) -> Result<()> {
        let (place, volume) = (self.place.clone(), volume.clone());
        self.write("create_volume", move |session| volumes::create(session.connection(), &place, &volume)).await
    }

    async fn allocation(&self, volumes: &[String]) -> Result<Bytes> {
        let (place, names) = (self.place.clone(), volumes.to_owned());
        self.read("allocation", move |session| volumes::allocation(session.connection(), &place, &names)).await
    }

    async fn certificates(&self) -> Certificates {
        let door = self.door.clone();
        let _turn = door.opening().await;
        let addresses = {
            let door = door.clone();
            tokio::task::spawn_blocking(move || door.addresses()).await.unwrap_or_default()
        };
        certificates::read(&self.config.credentials, &addresses).await
    }

    async fn write_volume(&self, name: &str, content: &[u8]) -> Result<()> {
        let (place, name, content) = (self.place.clone(), name.to_owned(), content.to_owned());
        self.write("write_volume", move |session| upload::content(session, &place, &name, &content)).await
    }

    async fn upload_volume(&self, name: &str, _: DiskFormat, file: &Path, progress: &Progress) -> Result<()> {
        let turn = self.long_turn("upload_volume", &self.uploads).await?;
        let (place, name, file) = (self.place.clone(), name.to_owned(), file.to_owned());
        let (sent, told) = (Arc::<AtomicU64>::default(), &mut 0);
        let counted = sent.clone();
        let mut call = Box::pin(self.write("upload_volume", move |session| {
            let _turn = turn;
            upload::file(session, &place, &name, &file, &counted)
        }));
        let mut tell = || {
            let now = sent.load(Ordering::Relaxed);
            progress.add(now - *told);
            *told = now;
        };
        let mut ticks = interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                result = &mut call => {
                    tell();
                    return result;
                }
                _ = ticks.tick() => tell(),
            }
        }
    }

    async fn delete_volume(&self, name: &str) -> Result<()> {
        let (place, name) = (self.place.clone(), name.to_owned());
        self.write("delete_volume", move |session| volumes::delete(session.connection(), &place, &name)).await
    }

    async fn define(&self, domain: &DomainSpec) -> Result<()> {
        let (place, known, domain) = (self.place.clone(), self.known.clone(), domain.clone());
        self.write("define", move |session| {
            known.readings.forget(domain.uuid);
            let defined = domains::define(session.connection(), &place, &domain);
            known.readings.forget(domain.uuid);
            defined
        })
        .await
    }

    async fn mend_nics(&self, uuid: DomainUuid, nics: &[Nic]) -> Result<()> {
        let (known, nics) = (self.known.clone(), nics.to_owned());
        self.write("mend_nics", move |session| {
            let mended = nics::mend(session.connection(), uuid, &nics);
            known.readings.forget(uuid);
            mended
        })
        .await
    }

    async fn start(&self, uuid: DomainUuid) -> Result<()> {
        let turn = self.long_turn("start", &self.starts).await?;
        let deadline = self.config.call_deadline * STARTS_TAKE;
        let call = self.writes.run("start", deadline, move |session| {
            let _turn = turn;
            domains::start(session.connection(), uuid)
        });
        self.observed("start", call).await
    }

    async fn resume(&self, uuid: DomainUuid) -> Result<()> {
        self.write("resume", move |session| domains::resume(session.connection(), uuid)).await
    }

    async fn shutdown(&self, uuid: DomainUuid) -> Result<()> {
        self.write("shutdown", move |session| domains::shutdown(session.connection(), uuid)).await
    }

    async fn destroy(&self, uuid: DomainUuid) -> Result<()> {
        self.write("destroy", move |session| domains::destroy(session.connection(), uuid)).await
    }

    async fn undefine(&self, uuid: DomainUuid) -> Result<()> {
        self.agents.note(uuid, false);
        let known = self.known.clone();
        self.write("undefine", move |session| {
            let undefined = domains::undefine(session.connection(), uuid);
            known.readings.forget(uuid);
            undefined
        })
        .await
    }

    async fn agent_answers(&self, uuid: DomainUuid) -> Result<bool> {
        let Some(turn) = self.agents.turn(uuid).await else { return Ok(false) };
        let asked = self.ask_guest("agent_answers", uuid, move |domain| {
            let _turn = turn;
            agent::answers(domain).map(Some)
        });
        let answers = asked.await.map(|answer| answer == Some(true));
        self.agents.note(uuid, matches!(answers, Ok(true)));
        answers
    }

    async fn set_clock(&self, uuid: DomainUuid) -> Result<bool> {
        let Some(turn) = self.agents.turn(uuid).await else { return Ok(false) };
        let asked = self.ask_guest("set_clock", uuid, move |domain| {
            let _turn = turn;
            agent::set_clock(domain).map(Some)
        });
        asked.await.map(|answer| answer == Some(true))
    }

    async fn event(&self) -> HostEvent {
        if let Err(error) = self.observed("listen", self.news.listen(self.config.call_deadline)).await {
            tracing::debug!(host = %self.config.name, %error, "the host tells nothing by itself");
            return std::future::pending().await;
        }
        self.news.next().await
    }

    async fn run_in_guest(&self, uuid: DomainUuid, command: &GuestCommand) -> Result<Option<GuestOutput>> {
        const OPERATION: &str = "run_in_guest";
        let begun = Instant::now();
        let beginning = command.clone();
        let begin = self.ask_guest(OPERATION, uuid, move |domain| agent::begin(domain, &beginning));
        let Some(process) = begin.await? else { return Ok(None) };
        while begun.elapsed() < command.within {
            tokio::time::sleep(LOOK_AT_GUEST_EVERY).await;
            let look = self.ask_guest(OPERATION, uuid, move |domain| agent::look(domain, process));
            if let Some(agent::Standing::Ended(output)) = look.await? {
                return Ok(Some(output));
            }
        }
        let message = format!("the guest's command didn't end within {} s", command.within.as_secs());
        Err(HostError::Refused { operation: OPERATION, message })
    }
}
