//! What Prometheus is told of farms' routers: what they last said that they counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Namespace and name of a farm.
type Farm = (String, String);

/// What every router last counted. A router that starts anew counts from nothing, as Prometheus expects of counters.
#[derive(Clone, Debug, Default)]
pub struct RouterMetrics(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    counted: Mutex<BTreeMap<Farm, Counted>>,
    machines: Mutex<BTreeMap<Farm, RouterMachines>>,
}

/// How many machines a router is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterMachines {
    /// How many work, or would if it were their turn.
    pub ready: u64,
    /// How many there are to be.
    pub desired: u64,
}

/// What a router counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Connections that it remembers.
    pub connections: u64,
    /// How many it may.
    pub most_connections: u64,
    /// Packets and bytes of each counter.
    pub counters: BTreeMap<String, [u64; 2]>,
    /// The other ends of its tunnels, by name.
    pub peers: BTreeMap<String, CountedPeer>,
}

/// What a router counted of the other end of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountedPeer {
    /// When it last proved who it is, in seconds since 1970; 0: never.
    pub handshake: i64,
    /// Bytes that came from it.
    pub received: u64,
    /// Bytes that went to it.
    pub sent: u64,
}

/// Names and values of labels.
type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

impl RouterMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Arc::clone(&self.0)));
    }

    /// A router counted this.
    pub fn set(&self, farm: Farm, counted: Counted) {
        lock(&self.0.counted).insert(farm, counted);
    }

    /// So many machines are a farm's router.
    pub fn set_machines(&self, farm: Farm, machines: RouterMachines) {
        lock(&self.0.machines).insert(farm, machines);
    }

    /// A farm has no router that counts.
    pub fn stops_counting(&self, farm: &Farm) {
        lock(&self.0.counted).remove(farm);
    }

    /// A farm has no router.
    pub fn forget(&self, farm: &Farm) {
        self.stops_counting(farm);
        lock(&self.0.machines).remove(farm);
    }
}

fn lock<T>(of_farms: &Mutex<BTreeMap<Farm, T>>) -> MutexGuard<'_, BTreeMap<Farm, T>> {
    of_farms.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let machines = lock(&self.machines);
        let counts = lock(&self.counted);
        let farms = || counts.iter().map(|(farm, counted)| (of(farm), counted));
        let counters = |which: usize| {
            farms().flat_map(move |([namespace, farm], counted)| {
                counted.counters.iter().map(move |(counter, values)| {
                    let labels: Labels<'_, 3> = [namespace, farm, ("counter", counter)];
                    (labels, values.get(which).copied().unwrap_or_default())
                })
            })
        };
        let peers = || {
            farms().flat_map(|([namespace, farm], counted)| {
                counted.peers.iter().map(move |(peer, counted)| {
                    let labels: Labels<'_, 3> = [namespace, farm, ("peer", peer)];
                    (labels, *counted)
                })
            })
        };
        let mut family = Family { encoder: &mut encoder };
        let ready = machines.iter().map(|(farm, machines)| (of(farm), machines.ready));
        family.gauges(
            "router_machines_ready",
            "Machines of a router that work, or would if it were their turn",
            ready,
        )?;
        let desired = machines.iter().map(|(farm, machines)| (of(farm), machines.desired));
        family.gauges("router_machines_desired", "Machines that a router is to be", desired)?;
        let gauges = farms().map(|(labels, counted)| (labels, counted.connections));
        family.gauges("router_connections", "Connections that a router remembers", gauges)?;
        let gauges = farms().map(|(labels, counted)| (labels, counted.most_connections));
        family.gauges("router_connections_limit", "Connections that a router can remember", gauges)?;
        family.counters("router_packets", "Packets by what a router did with them", counters(0))?;
        family.counters("router_bytes", "Bytes by what a router did with them", counters(1))?;
        let handshakes = peers().map(|(labels, peer)| (labels, peer.handshake.unsigned_abs()));
        let help = "When the other end of a tunnel last proved who it is";
        family.gauges("router_vpn_last_handshake_timestamp_seconds", help, handshakes)?;
        let received = peers().map(|(labels, peer)| (labels, peer.received));
        family.counters("router_vpn_received_bytes", "Bytes that came through a tunnel", received)?;
        let sent = peers().map(|(labels, peer)| (labels, peer.sent));
        family.counters("router_vpn_sent_bytes", "Bytes that went through a tunnel", sent)
    }
}

fn of((namespace, farm): &Farm) -> Labels<'_, 2> {
    [("namespace", namespace), ("farm", farm)]
}

/// Writes one family after another.
struct Family<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Family<'_, '_> {
    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let values = values.map(|(labels, value)| (labels, i64::try_from(value).unwrap_or(i64::MAX)));
        self.write(name, help, values.map(|(labels, value)| (labels, ConstGauge::new(value))))
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.write(name, help, values.map(|(labels, value)| (labels, ConstCounter::new(value))))
    }

    fn write<L: EncodeLabelSet, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (L, M)>,
    ) -> fmt::Result {
        let mut values = values.peekable();
        let Some((_, first)) = values.peek() else { return Ok(()) };
        let mut encoder = self.encoder.encode_descriptor(name, help, None, first.metric_type())?;
        values.try_for_each(|(labels, value)| value.encode(encoder.encode_family(&labels)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;

    use super::*;

    #[test]
    fn what_a_router_counted_is_told_until_it_is_gone() {
        let metrics = Metrics::default();
        let farm = ("tenant".to_owned(), "farm-a".to_owned());
        let peer = CountedPeer { handshake: 955, received: 10, sent: 20 };
        let counted = Counted {
            connections: 3,
            most_connections: 100,
            counters: BTreeMap::from([("forward-tcp-80".to_owned(), [7, 700])]),
            peers: BTreeMap::from([("far".to_owned(), peer)]),
        };
        metrics.routers.set(farm.clone(), counted);
        metrics.routers.set_machines(farm.clone(), RouterMachines { ready: 1, desired: 2 });
        let page = metrics.encode().unwrap();
        let of_farm = r#"namespace="tenant",farm="farm-a""#;
        for line in [
            format!("cascina_router_connections{{{of_farm}}} 3\n"),
            format!("cascina_router_machines_ready{{{of_farm}}} 1\n"),
            format!("cascina_router_machines_desired{{{of_farm}}} 2\n"),
            format!("cascina_router_packets_total{{{of_farm},counter=\"forward-tcp-80\"}} 7\n"),
            format!("cascina_router_bytes_total{{{of_farm},counter=\"forward-tcp-80\"}} 700\n"),
            format!("cascina_router_vpn_last_handshake_timestamp_seconds{{{of_farm},peer=\"far\"}} 955\n"),
            format!("cascina_router_vpn_sent_bytes_total{{{of_farm},peer=\"far\"}} 20\n"),
        ] {
            assert!(page.contains(&line), "{line}\n{page}");
        }
        metrics.routers.forget(&farm);
        assert!(!metrics.encode().unwrap().contains("cascina_router"));
    }
}
