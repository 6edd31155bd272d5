//! Hosts that refuse, hang or are not there, and many calls at once.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cascina::libvirt::{CallObserver, Host, HostConfig, HostError, LibvirtHost};

use crate::the_box::{the_box, timed};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn another_certificate_is_refused_at_once() {
    let the_box = the_box().await;
    for identity in ["stranger", "rogue-operator"] {
        let host = LibvirtHost::new(the_box.config("worker-1", identity)).unwrap();
        let refused = timed(identity, host.survey()).await;
        assert!(matches!(refused, Err(HostError::Unreachable { .. })), "{refused:?}");
        println!("           {}", refused.unwrap_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn a_closed_port_is_unreachable() {
    let the_box = the_box().await;
    let config = the_box.config("worker-1", "operator");
    let uri = format!("qemu+tls://198.18.{}.99/system", the_box.turn.index);
    let host = LibvirtHost::new(HostConfig { uri, ..config }).unwrap();
    let refused = timed("an address where nobody is", host.survey()).await;
    assert!(refused.as_ref().is_err_and(HostError::is_silence), "{refused:?}");
}

#[derive(Default)]
struct Heard(Mutex<Vec<(String, &'static str, &'static str)>>);

impl CallObserver for Heard {
    fn observe(&self, host: &str, operation: &'static str, _: f64, outcome: &'static str) {
        self.0.lock().unwrap().push((host.to_owned(), operation, outcome));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn a_host_that_hangs_stalls_only_itself_and_comes_back() {
    let the_box = the_box().await;
    let heard = Arc::new(Heard::default());
    let config = HostConfig {
        call_deadline: Duration::from_secs(2),
        connect_deadline: Duration::from_secs(2),
        observer: heard.clone(),
        ..the_box.config("worker-2", "operator")
    };
    let (hung, other) = (Arc::new(LibvirtHost::new(config.clone()).unwrap()), the_box.host("worker-1"));
    hung.survey().await.unwrap();
    other.survey().await.unwrap();
    let hung_host = the_box.hang("worker-2");
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();

    let started = Instant::now();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let hung = hung.clone();
                async move { hung.survey().await }
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while started.elapsed() < Duration::from_secs(2) {
        let began = Instant::now();
        other.survey().await.unwrap();
        slowest = slowest.max(began.elapsed());
    }
    for call in calls {
        assert!(call.await.unwrap().is_err_and(|error| error.is_silence()));
    }
    println!("{:>7.3} s  until 20 calls to the hung host gave up", started.elapsed().as_secs_f64());
    println!("{:>7.3} s  the slowest of the other host's surveys meanwhile", slowest.as_secs_f64());
    println!("{before} threads before, {} after", threads());
    assert!(slowest < Duration::from_secs(1));
    assert!(threads() <= before + 8 + 4, "{} threads, {before} before", threads());

    // Nobody opens a connection to it either, and that ends by itself too.
    let fresh = LibvirtHost::new(config).unwrap();
    for _ in 0..3 {
        let silent = timed("a new connection to the hung host", fresh.survey()).await;
        assert!(silent.is_err_and(|error| error.is_silence()));
    }

    drop(hung_host);
    for host in [&*hung, &fresh] {
        let started = Instant::now();
        while let Err(error) = host.survey().await {
            assert!(error.is_silence(), "{error}");
            assert!(started.elapsed() < Duration::from_secs(30), "{error}");
        }
        println!("{:>7.3} s  until it answered again", started.elapsed().as_secs_f64());
    }
    let heard = heard.0.lock().unwrap();
    assert_eq!(heard.first(), Some(&("worker-2".to_owned(), "survey", "ok")));
    assert!(heard.iter().filter(|(_, _, outcome)| *outcome == "HostTimeout").count() >= 20, "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn a_host_that_loses_power_while_a_connection_is_opened_comes_back() {
    let the_box = the_box().await;
    let config = HostConfig {
        call_deadline: Duration::from_secs(1),
        connect_deadline: Duration::from_secs(2),
        ..the_box.config("worker-2", "operator")
    };
    let host = LibvirtHost::new(config).unwrap();
    let hung_host = the_box.hang("worker-2");
    let silent = host.survey().await;
    assert!(matches!(silent, Err(HostError::Deadline { .. })), "{silent:?}");
    the_box.power("stop", "worker-2");
    let silent = host.survey().await;
    assert!(silent.as_ref().is_err_and(HostError::is_silence), "{silent:?}");
    the_box.power("start", "worker-2");
    drop(hung_host);
    let started = Instant::now();
    while let Err(error) = host.survey().await {
        assert!(error.is_silence() && started.elapsed() < Duration::from_secs(20), "{error}");
    }
    println!("{:>7.3} s  from power to the first answer", started.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn a_call_that_hangs_ends_with_its_deadline_and_so_does_its_thread() {
    let the_box = the_box().await;
    let config = HostConfig { call_deadline: Duration::from_secs(2), ..the_box.config("worker-2", "operator") };
    let host = LibvirtHost::new(config).unwrap();
    host.survey().await.unwrap();
    let hung_host = the_box.hang("worker-2");
    // More often than calls may be under way: what hung before has to be over.
    for _ in 0..6 {
        let silent = timed("until a survey gave up", host.survey()).await;
        assert!(silent.as_ref().is_err_and(HostError::is_silence), "{silent:?}");
    }
    drop(hung_host);
    timed("survey on a new connection", host.survey()).await.unwrap();
}

/// libvirt's client may corrupt memory when two threads use one connection, or its keepalive is on (CVE-2024-4418).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn many_calls_at_once_survive_and_are_answered() {
    let the_box = the_box().await;
    let host = Arc::new(LibvirtHost::new(the_box.config("worker-2", "operator")).unwrap());
    let callers = (0..16).map(|_| {
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            for _ in 0..25 {
                host.survey().await.unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}
