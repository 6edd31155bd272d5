//! What a host tells of its domains.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cascina::libvirt::{Host, HostEvent, LibvirtHost, RuleSet};

use crate::machine::{machine, make_volumes, remove};
use crate::the_box::{the_box, timed};

/// What a host tells, heard as the fleet hears it: anew at every heartbeat.
pub struct Listener(tokio::sync::mpsc::UnboundedReceiver<HostEvent>);

impl Listener {
    pub fn to(host: &Arc<LibvirtHost>) -> Self {
        let (host, (sender, receiver)) = (host.clone(), tokio::sync::mpsc::unbounded_channel());
        tokio::spawn(async move {
            while !sender.is_closed() {
                if let Ok(event) = tokio::time::timeout(Duration::from_secs(1), host.event()).await {
                    let _ = sender.send(event);
                }
            }
        });
        Self(receiver)
    }

    pub async fn hears(&mut self, wanted: HostEvent, within: Duration) -> bool {
        let heard = async { while self.0.recv().await != Some(wanted) {} };
        tokio::time::timeout(within, heard).await.is_ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn a_host_tells_that_a_domain_stopped_also_after_it_was_away() {
    let the_box = the_box().await;
    let host = Arc::new(the_box.host("worker-1"));
    let mut listener = Listener::to(&host);
    let spec = machine("told", 12);
    host.ensure_filter(RuleSet::Machine).await.unwrap();
    make_volumes(&host, &spec).await;
    host.define(&spec).await.unwrap();
    host.start(spec.uuid).await.unwrap();
    host.destroy(spec.uuid).await.unwrap();
    let stopped = HostEvent::Domain(spec.uuid);
    let told = timed("told that it stopped, after the call returned", listener.hears(stopped, Duration::from_secs(10)));
    assert!(told.await);

    the_box.power("crash", "worker-1");
    let started = Instant::now();
    while host.survey().await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // It listens again from one of the next heartbeats on; what was told before is lost.
    loop {
        host.start(spec.uuid).await.unwrap();
        host.destroy(spec.uuid).await.unwrap();
        if listener.hears(stopped, Duration::from_secs(1)).await {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(40), "it never tells again");
    }
    println!("{:>7.3} s  from the crash to being told again", started.elapsed().as_secs_f64());
    remove(&host, &spec).await;
}
