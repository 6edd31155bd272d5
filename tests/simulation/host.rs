//! The port to hosts, with a simulated host behind it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cascina::api::{Bytes, DiskFormat};
use cascina::clock::Clock;
use cascina::libvirt::{
    Connect, DomainRole, DomainRun, DomainSpec, DomainUuid, GuestCommand, GuestOutput, Host, HostError, HostFacts, Nic,
    PoolSpace, Progress, Result, RuleSet, StopReason, Survey, SurveyedDomain, VolumeSpec,
};
use jiff::Timestamp;
use uuid::Uuid;

use crate::canary::report;
use crate::faults::Faults;
use crate::world::{Domain, World, is_active, parts};

/// The way to one host.
struct Way {
    world: Arc<Mutex<World>>,
    faults: Arc<Faults>,
    clock: Clock,
    name: String,
    deadline: Duration,
}

/// A connector to the hosts of a world: `qemu+tls://NAME/system` is the host of that name.
pub fn connect(world: &Arc<Mutex<World>>, faults: &Arc<Faults>, clock: Clock) -> Connect {
    let (world, faults) = (Arc::clone(world), Arc::clone(faults));
    Arc::new(move |config| {
        let name = config.uri.split('/').nth(2).unwrap_or_default().to_owned();
        let (world, faults) = (Arc::clone(&world), Arc::clone(&faults));
        Ok(Arc::new(Way { world, faults, clock, name, deadline: config.call_deadline }))
    })
}

impl Way {
    /// A call that takes so long, if the host answers at all.
    async fn call<T>(
        &self,
        operation: &'static str,
        milliseconds: u64,
        work: impl FnOnce(&mut World, &str, Timestamp) -> Result<T>,
    ) -> Result<T> {
        let (silent, hung, slow) = self.with(|world| {
            let host = world.host(&self.name);
            (!host.powered || !host.linked, host.hung, host.slow)
        });
        if hung || slow > self.deadline {
            tokio::time::sleep(self.deadline).await;
            return Err(HostError::Deadline { operation, after: self.deadline });
        }
        let takes = slow + Duration::from_millis(milliseconds);
        let done = || {
            self.with(|world| {
                let host = world.host(&self.name);
                if silent || !host.powered || !host.linked {
                    let message = "no route to host (simulated)".to_owned();
                    return Err(HostError::Unreachable { operation, message });
                }
                let now = self.clock.now();
                world.settle(&self.name, now);
                work(world, &self.name, now)
            })
        };
        self.faults.host(operation, takes, done).await
    }

    /// A call that changes something.
    async fn change<T>(
        &self,
        operation: &'static str,
        milliseconds: u64,
        work: impl FnOnce(&mut World, &str, Timestamp) -> Result<T>,
    ) -> Result<T> {
        let marking = |world: &mut World, name: &str, now: Timestamp| {
            world.last_change = now;
            work(world, name, now)
        };
        self.call(operation, milliseconds, marking).await
    }

    fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn refused(operation: &'static str, message: impl Into<String>) -> HostError {
    HostError::Refused { operation, message: message.into() }
}

fn room(world: &mut World, host: &str, operation: &'static str) -> Result<()> {
    if world.pool(host).full {
        return Err(HostError::NoSpace { operation, message: "No space left on device".into() });
    }
    Ok(())
}

#[async_trait]
impl Host for Way {
    async fn survey(&self) -> Result<Survey> {
        self.call("survey", 20, |world, name, _| {
            *world.surveys.entry(name.to_owned()).or_default() += 1;
            let volumes: BTreeSet<_> = world.pool(name).volumes.keys().cloned().collect();
            let host = world.host(name);
            Ok(Survey {
                facts: facts(name),
                domains: host.domains.iter().map(|(uuid, domain)| (*uuid, domain.surveyed())).collect(),
                volumes,
                incomplete_volumes: BTreeSet::new(),
                filters: host.filters.clone(),
                space: PoolSpace { capacity: Bytes::gibi(10_000), available: Bytes::gibi(9_000) },
            })
        })
        .await
    }

    async fn domain(&self, uuid: DomainUuid) -> Result<Option<SurveyedDomain>> {
        self.call("domain", 5, |world, name, _| Ok(world.host(name).domains.get(&uuid).map(Domain::surveyed))).await
    }

    async fn ensure_filter(&self, rules: RuleSet) -> Result<()> {
        self.change("ensure_filter", 20, |world, name, _| {
            world.host(name).filters.insert(rules.filter_name());
            Ok(())
        })
        .await
    }

    async fn refresh_filters(&self) -> Result<()> {
        self.call("refresh_filters", 20, |_, _, _| Ok(())).await
    }

    async fn renew_filters(&self) -> Result<Vec<String>> {
        self.call("renew_filters", 20, |_, _, _| Ok(Vec::new())).await
    }

    async fn delete_filter(&self, filter: &str) -> Result<()> {
        self.change("delete_filter", 20, |world, name, _| {
            let host = world.host(name);
            if host.domains.values().any(|domain| is_active(domain.run) && domain.filters().any(|used| used == filter))
            {
                return Err(HostError::InUse { operation: "delete_filter", message: filter.to_owned() });
            }
            host.filters.remove(filter);
            Ok(())
        })
        .await
    }

    async fn create_volume(&self, volume: &VolumeSpec) -> Result<()> {
        self.change("create_volume", 40, |world, name, _| {
            let (volume, base, size) = parts(volume);
            room(world, name, "create_volume")?;
            if let Some(base) = base {
                world.check_base(name, volume, base);
            }
            let pool = world.pool(name);
            // One that is there stays as it is.
            pool.volumes.entry(volume.to_owned()).or_insert_with(|| base.map(str::to_owned));
            pool.sizes.entry(volume.to_owned()).or_insert(size);
            Ok(())
        })
        .await
    }

    async fn write_volume(&self, volume: &str, _: &[u8]) -> Result<()> {
        self.change("write_volume", 40, |world, name, _| {
            room(world, name, "write_volume")?;
            // Its name holds the hash of its content: what is replaced is the same.
            world.pool(name).volumes.insert(volume.to_owned(), None);
            Ok(())
        })
        .await
    }

    async fn upload_volume(&self, volume: &str, _: DiskFormat, _: &Path, progress: &Progress) -> Result<()> {
        self.change("upload_volume", 800, |world, name, _| {
            room(world, name, "upload_volume")?;
            world.check_unused(name, volume);
            world.pool(name).volumes.insert(volume.to_owned(), None);
            progress.add(1);
            Ok(())
        })
        .await
    }

    async fn delete_volume(&self, volume: &str) -> Result<()> {
        self.change("delete_volume", 20, |world, name, _| {
            world.check_unused(name, volume);
            let pool = world.pool(name);
            pool.volumes.remove(volume);
            pool.sizes.remove(volume);
            Ok(())
        })
        .await
    }

    async fn define(&self, domain: &DomainSpec) -> Result<()> {
        self.change("define", 30, |world, name, _| {
            world.check_ours(name, domain.uuid, "redefined");
            let host = world.host(name);
            let known = host.domains.get(&domain.uuid);
            let running = known.filter(|known| is_active(known.run));
            if running.is_some_and(|running| running.spec.tag != domain.tag) {
                return Err(refused("define", "another domain runs"));
            }
            let run = known.map_or(DomainRun::Off(StopReason::NotStarted), |known| known.run);
            let mut new = Domain::new(domain.clone(), run);
            if let Some(running) = running {
                (new.started, new.asked) = (running.started, running.asked);
                new.router = running.router.clone();
            }
            host.domains.insert(domain.uuid, new);
            Ok(())
        })
        .await
    }

    async fn mend_nics(&self, uuid: DomainUuid, nics: &[Nic]) -> Result<()> {
        self.change("mend_nics", 30, |world, name, _| {
            world.check_ours(name, uuid, "given other cards");
            let domains = &mut world.host(name).domains;
            if domains.get(&uuid).is_some_and(|domain| is_active(domain.run))
                && let Some(domain) = domains.remove(&uuid)
            {
                domains.insert(uuid, domain.mended(nics));
            }
            Ok(())
        })
        .await
    }

    async fn start(&self, uuid: DomainUuid) -> Result<()> {
        self.change("start", 500, |world, name, now| {
            let Some(domain) = world.host(name).domains.get(&uuid).cloned() else {
                return Err(refused("start", "no domain with that UUID"));
            };
            if is_active(domain.run) {
                return Ok(());
            }
            world.check_start(name, uuid).map_err(|missing| refused("start", format!("not there: {missing}")))?;
            if let Some(domain) = world.host(name).domains.get_mut(&uuid) {
                *domain = Domain::new(domain.spec.clone(), DomainRun::Running);
                domain.started = Some(now);
            }
            Ok(())
        })
        .await
    }

    async fn resume(&self, uuid: DomainUuid) -> Result<()> {
        self.change("resume", 10, |world, name, _| {
            let domain = world.host(name).domains.get_mut(&uuid);
            if let Some(domain) = domain.filter(|domain| domain.run == DomainRun::Paused) {
                domain.run = DomainRun::Running;
            }
            Ok(())
        })
        .await
    }

    async fn shutdown(&self, uuid: DomainUuid) -> Result<()> {
        self.change("shutdown", 10, |world, name, now| {
            world.check_ours(name, uuid, "shut down");
            // A guest that boots hears nothing.
            if world.answers(name, uuid, now)
                && let Some(domain) = world.host(name).domains.get_mut(&uuid)
            {
                domain.asked = domain.asked.or(Some(now));
            }
            Ok(())
        })
        .await
    }

    async fn destroy(&self, uuid: DomainUuid) -> Result<()> {
        self.change("destroy", 50, |world, name, _| {
            world.check_ours(name, uuid, "switched off");
            if let Some(domain) = world.host(name).domains.get_mut(&uuid).filter(|domain| is_active(domain.run)) {
                domain.run = DomainRun::Off(StopReason::Destroyed);
            }
            Ok(())
        })
        .await
    }

    async fn undefine(&self, uuid: DomainUuid) -> Result<()> {
        self.change("undefine", 20, |world, name, _| {
            world.check_ours(name, uuid, "undefined");
            let host = world.host(name);
            if host.domains.get(&uuid).is_some_and(|domain| is_active(domain.run)) {
                return Err(refused("undefine", "the domain runs"));
            }
            host.domains.remove(&uuid);
            Ok(())
        })
        .await
    }

    async fn agent_answers(&self, uuid: DomainUuid) -> Result<bool> {
        self.call("agent_answers", 5, |world, name, now| Ok(world.answers(name, uuid, now))).await
    }

    async fn set_clock(&self, uuid: DomainUuid) -> Result<bool> {
        self.call("set_clock", 5, |world, name, now| Ok(world.answers(name, uuid, now))).await
    }

    async fn allocation(&self, volumes: &[String]) -> Result<Bytes> {
        self.call("allocation", 10, |world, name, _| {
            let there = volumes.iter().filter(|volume| world.pool(name).volumes.contains_key(*volume)).count();
            Ok(Bytes::gibi(u32::try_from(there).unwrap()))
        })
        .await
    }

    async fn run_in_guest(&self, uuid: DomainUuid, command: &GuestCommand) -> Result<Option<GuestOutput>> {
        self.call("run_in_guest", 20, |world, name, now| {
            if !world.answers(name, uuid, now) {
                return Ok(None);
            }
            if world.host(name).domains.get(&uuid).is_some_and(|domain| domain.spec.role == DomainRole::Canary) {
                return Ok(Some(report(command)));
            }
            world.routers_agree();
            let domain = world.host(name).domains.get_mut(&uuid);
            let answer = domain.map(|domain| {
                let before = domain.router.hash.clone();
                let cards: Vec<_> = domain.spec.nics.iter().map(|nic| nic.mac.to_string()).collect();
                let answer = domain.router.run(command, &cards);
                (answer, domain.router.hash != before)
            });
            if answer.as_ref().is_some_and(|(_, changed)| *changed) {
                world.last_change = now;
            }
            Ok(answer.map(|(answer, _)| answer))
        })
        .await
    }
}

fn facts(name: &str) -> HostFacts {
    let number = name.bytes().fold(1, |number: u128, byte| number.wrapping_mul(257).wrapping_add(byte.into()));
    HostFacts {
        uuid: Some(Uuid::from_u128(number)),
        libvirt_version: "9.0.0".into(),
        qemu_version: "7.2.22".into(),
        cpu_model: "simulated".into(),
        cpus: 64,
        memory: Bytes::gibi(256),
    }
}
