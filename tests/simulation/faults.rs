//! What goes wrong between the operator and the world: every call of an operator passes here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Method;
use cascina::libvirt::HostError;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apiserver::{Resource, Store};
use crate::datacentre::ours;

/// When the operator dies: at which call, counted from 1, and on which side of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The call never happens.
    Before(u64),
    /// The call happens, the operator dies before the answer.
    After(u64),
}

/// A call of the operator, in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call(pub String);

impl Call {
    /// To the API server.
    pub fn kubernetes(method: &Method, plural: &str, subresource: &str) -> Self {
        Self([method.as_str(), plural, subresource].join(" ").trim().to_owned())
    }

    /// To a host.
    pub fn host(operation: &str) -> Self {
        Self(format!("libvirt {operation}"))
    }
}

/// Lasting disturbances of the way to the API server.
#[derive(Clone, Debug, Default)]
pub struct Disturbance {
    /// It isn't reachable.
    pub away: bool,
    /// What it tells is so old.
    pub lag: Option<Duration>,
    /// Watches tell nothing.
    pub deaf: bool,
    /// Lists of these kinds come out empty.
    pub empty: Vec<Resource>,
    /// A watch that begins tells so many old changes again.
    pub replayed: u64,
    /// How often all watches were ended with "too old resource version".
    pub expiries: u64,
}

/// Chances of a call to go wrong, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Odds {
    /// The operator dies.
    pub crash: u32,
    /// The call happens, the answer is lost.
    pub lost: u32,
    /// The call is refused, or doesn't get there.
    pub failed: u32,
    /// It takes seconds.
    pub slow: u32,
}

/// The way between one operator and the world.
pub struct Faults {
    inner: Mutex<Inner>,
    disturbance: watch::Sender<Disturbance>,
    /// The operator is dead.
    pub dead: CancellationToken,
}

struct Inner {
    calls: u64,
    by_call: BTreeMap<Call, u64>,
    stop: Option<Stop>,
    odds: Odds,
    random: fastrand::Rng,
    last: String,
}

/// How a call ends.
enum Fate {
    Well,
    Lost,
    Failed,
    DiesBefore,
    DiesAfter,
}

impl Faults {
    /// A way on which nothing goes wrong but, perhaps, one stop, and what chance brings.
    pub fn new(seed: u64, stop: Option<Stop>, odds: Odds) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let inner = Inner { calls: 0, by_call: BTreeMap::new(), stop, odds, random, last: String::new() };
        Self {
            inner: Mutex::new(inner),
            disturbance: watch::Sender::new(Disturbance::default()),
            dead: CancellationToken::new(),
        }
    }

    /// From now on nothing goes wrong by chance.
    pub fn calm(&self) {
        self.lock().odds = Odds::default();
    }

    /// Changes the lasting disturbances.
    pub fn disturb(&self, change: impl FnOnce(&mut Disturbance)) {
        self.disturbance.send_modify(change);
    }

    /// From now on lists of a kind of ours come out empty; all watches end, so that they are asked for.
    pub fn list_nothing(&self, plural: &str) {
        self.disturb(|way| {
            way.empty.push(ours(plural));
            way.expiries += 1;
        });
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// How many calls there were of each sort.
    pub fn by_call(&self) -> BTreeMap<Call, u64> {
        self.lock().by_call.clone()
    }

    /// The last call that was begun.
    pub fn last_call(&self) -> String {
        self.lock().last.clone()
    }

    /// A call to the API server.
    pub async fn kubernetes<T>(&self, call: Call, work: impl FnOnce() -> T) -> Result<T, std::io::Error> {
        let (fate, delay) = self.fate(call, Duration::from_millis(1));
        tokio::time::sleep(delay).await;
        if self.is_away() {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        match fate {
            Fate::DiesBefore => self.die().await,
            Fate::Failed => return Err(std::io::ErrorKind::ConnectionReset.into()),
            Fate::Well | Fate::Lost | Fate::DiesAfter => {}
        }
        let answer = work();
        match fate {
            Fate::DiesAfter => self.die().await,
            Fate::Lost => return Err(std::io::ErrorKind::ConnectionReset.into()),
            Fate::Well | Fate::Failed | Fate::DiesBefore => {}
        }
        tokio::time::sleep(delay).await;
        Ok(answer)
    }

    /// A call to a host, which takes so long.
    pub async fn host<T>(
        &self,
        operation: &'static str,
        takes: Duration,
        work: impl FnOnce() -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let (fate, delay) = self.fate(Call::host(operation), takes);
        tokio::time::sleep(delay).await;
        let broken = || Err(HostError::Unreachable { operation, message: "connection reset (simulated)".into() });
        match fate {
            Fate::DiesBefore => self.die().await,
            Fate::Failed => return broken(),
            Fate::Well | Fate::Lost | Fate::DiesAfter => {}
        }
        let answer = work();
        match fate {
            Fate::DiesAfter => self.die().await,
            Fate::Lost => broken(),
            Fate::Well | Fate::Failed | Fate::DiesBefore => answer,
        }
    }

    /// Whether a watch may begin.
    pub fn answer_watch(&self) -> Result<(), std::io::Error> {
        if self.is_away() { Err(std::io::ErrorKind::ConnectionRefused.into()) } else { Ok(()) }
    }

    /// What a list tells: what is there, or what was there, or nothing.
    pub fn list(&self, store: &Store, of: &Resource, namespace: &str, now: Timestamp) -> Value {
        let disturbance = self.disturbance.borrow();
        let horizon = disturbance.lag.map(|lag| now - lag);
        let (objects, version) = match horizon {
            Some(horizon) => store.list_at(of, namespace, horizon),
            None => (store.list(of, namespace), store.version),
        };
        let items: Vec<_> = if disturbance.empty.contains(of) { Vec::new() } else { objects };
        let kind = &store.kinds[of];
        json!({
            "apiVersion": kind.api_version, "kind": format!("{}List", kind.kind),
            "metadata": {"resourceVersion": version.to_string()},
            "items": items.iter().map(|item| &**item).collect::<Vec<_>>(),
        })
    }

    /// Whether the API server can't be reached.
    pub fn is_away(&self) -> bool {
        self.disturbance.borrow().away
    }

    /// Whether watches tell nothing.
    pub fn is_deaf(&self) -> bool {
        self.disturbance.borrow().deaf
    }

    /// How old the news is.
    pub fn lag(&self) -> Option<Duration> {
        self.disturbance.borrow().lag
    }

    /// How many old changes a new watch tells again.
    pub fn replayed(&self) -> u64 {
        self.disturbance.borrow().replayed
    }

    /// How often watches were ended.
    pub fn expiries(&self) -> u64 {
        self.disturbance.borrow().expiries
    }

    /// Tells of disturbances that begin or end.
    pub fn disturbed(&self) -> watch::Receiver<Disturbance> {
        self.disturbance.subscribe()
    }

    fn fate(&self, call: Call, takes: Duration) -> (Fate, Duration) {
        let mut inner = self.lock();
        inner.calls += 1;
        inner.last.clone_from(&call.0);
        *inner.by_call.entry(call).or_default() += 1;
        let jitter = inner.random.f64();
        let mut delay = takes.mul_f64(0.75 + jitter / 2.0);
        let odds = inner.odds;
        let fate = match inner.stop {
            Some(Stop::Before(call)) if call == inner.calls => Fate::DiesBefore,
            Some(Stop::After(call)) if call == inner.calls => Fate::DiesAfter,
            _ => {
                let dice = inner.random.u32(0..1000);
                if dice < odds.crash {
                    if inner.random.bool() { Fate::DiesBefore } else { Fate::DiesAfter }
                } else if dice < odds.crash + odds.lost {
                    Fate::Lost
                } else if dice < odds.crash + odds.lost + odds.failed {
                    Fate::Failed
                } else {
                    if dice < odds.crash + odds.lost + odds.failed + odds.slow {
                        delay += Duration::from_secs(inner.random.u64(1..15));
                    }
                    Fate::Well
                }
            }
        };
        (fate, delay)
    }

    async fn die<T>(&self) -> T {
        self.dead.cancel();
        std::future::pending().await
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
