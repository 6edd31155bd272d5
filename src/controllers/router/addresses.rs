//! Which public addresses a router has: pure. The caller sees to it that routers are asked one after another.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::site::PublicNetwork;
use crate::api::{VRouter, VRouterStatus};
use crate::controllers::cache::Key;
use crate::controllers::ledger::HOSTS_UNREAD;
use crate::controllers::placement::observe::key;
use crate::controllers::placement::plan::Wait;

/// An address, or why there is none.
pub type Verdict = Result<Ipv4Addr, Wait>;

/// The public addresses of a router.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Addresses {
    /// Its own; none: the site has no public network.
    pub own: Option<Verdict>,
    /// The one that it has and goes on with while it can't have the one that it wishes.
    pub kept: Option<Ipv4Addr>,
    /// That of one machine; none: nobody asked for one.
    pub elastic: Option<Verdict>,
}

impl Addresses {
    /// Its own address, if it has one.
    #[must_use]
    pub fn own(&self) -> Option<Ipv4Addr> {
        self.own.as_ref()?.as_ref().ok().copied().or(self.kept)
    }

    /// The address of one machine, if there is one.
    #[must_use]
    pub fn elastic(&self) -> Option<Ipv4Addr> {
        self.elastic.as_ref()?.as_ref().ok().copied()
    }

    /// All of them, its own first; without its own it has none.
    pub fn all(&self) -> impl Iterator<Item = Ipv4Addr> {
        let own = self.own();
        own.into_iter().chain(self.elastic().filter(|_| own.is_some()))
    }
}

/// A router's claim to public addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The router.
    pub router: Key,
    /// Older goes first.
    pub created: Option<Timestamp>,
    /// Those that its spec names.
    pub wished: BTreeSet<Ipv4Addr>,
    /// Those that it has, or may have.
    pub held: BTreeSet<Ipv4Addr>,
}

impl Claim {
    /// The claim of a router as its object tells it.
    #[must_use]
    pub fn of(router: &VRouter) -> Self {
        let status = router.status.as_ref();
        let held = status.into_iter().flat_map(|status| [&status.public_ip, &status.elastic_ip]);
        let spec = &router.spec;
        let wished = [spec.public_ip.as_ref(), spec.elastic_ip.as_ref().and_then(|elastic| elastic.address.as_ref())];
        let parse = |text: &String| text.parse().ok();
        Self {
            router: key(router),
            created: router.creation_timestamp().map(|time| time.0),
            wished: wished.into_iter().flatten().filter_map(parse).collect(),
            held: held.flatten().filter_map(parse).collect(),
        }
    }

    fn is_older_than(&self, other: &Self) -> bool {
        (self.created, &self.router) < (other.created, &other.router)
    }
}

/// What stands in the way of a router that asks.
pub struct Others<'a> {
    /// The claims of all other routers.
    pub claims: &'a [Claim],
    /// Addresses that machines or domains have which aren't this router's, whatever became of their objects.
    pub left_behind: &'a BTreeSet<Ipv4Addr>,
    /// Others may be on hosts that weren't looked at yet: nothing new is given.
    pub unread: bool,
}

/// The public addresses of a router: those that it has, else those that it wishes, else the lowest free ones.
#[must_use]
pub fn choose(router: &VRouter, others: &Others<'_>, public: Option<&PublicNetwork>) -> Addresses {
    let elastic = router.spec.elastic_ip.as_ref();
    let Some(public) = public else {
        let none =
            || Wait::new("NoPublicNetwork", "the site has no public network for routers: see site.routers.public");
        let asks = router.spec.public_ip.is_some() || !router.spec.template.forwards.is_empty();
        return Addresses { own: asks.then(|| Err(none())), kept: None, elastic: elastic.map(|_| Err(none())) };
    };
    let chooser = Chooser { claim: Claim::of(router), others, public };
    let VRouterStatus { public_ip, elastic_ip, .. } = router.status.clone().unwrap_or_default();
    let address = elastic.and_then(|elastic| elastic.address.as_ref());
    // What the other of the two is to be isn't free for this one, unless both are told to be the same.
    let of_elastic = address.or(elastic_ip.as_ref().filter(|_| elastic.is_some()));
    let of_elastic = of_elastic.filter(|_| router.spec.public_ip.is_none());
    let own = chooser.choose("spec.publicIP", router.spec.public_ip.as_ref(), public_ip.as_ref(), of_elastic);
    let held = public_ip.as_ref().and_then(|held| held.parse().ok());
    let kept = held.filter(|held| own.is_err() && chooser.keeps(*held));
    let of_own = own.as_ref().ok().copied().or(kept).map(|address| address.to_string());
    let elastic =
        elastic.map(|_| chooser.choose("spec.elasticIP.address", address, elastic_ip.as_ref(), of_own.as_ref()));
    Addresses { own: Some(own), kept, elastic }
}

fn unread() -> Wait {
    Wait::new(HOSTS_UNREAD, "every host is looked at once before an address is given")
}

struct Chooser<'a> {
    claim: Claim,
    others: &'a Others<'a>,
    public: &'a PublicNetwork,
}

impl Chooser<'_> {
    fn choose(&self, field: &str, wished: Option<&String>, held: Option<&String>, not: Option<&String>) -> Verdict {
        let parse = |text: Option<&String>| text.and_then(|text| text.parse::<Ipv4Addr>().ok());
        let (held, not) = (parse(held), parse(not));
        match (wished, parse(wished)) {
            (Some(text), None) => Err(Wait::new("InvalidAddress", format!("{field}: {text:?} is no IPv4 address"))),
            (_, Some(wished)) => self.wish(field, wished, not),
            (None, None) => match held.filter(|held| self.keeps(*held) && Some(*held) != not) {
                Some(held) => Ok(held),
                None => self.free(not),
            },
        }
    }

    /// An address that a router has stays its own as long as it is one of the network; of two that have it, it is the older's.
    fn keeps(&self, held: Ipv4Addr) -> bool {
        let stronger = |other: &&Claim| other.held.contains(&held) && other.is_older_than(&self.claim);
        self.public.network.contains(&held) && !self.others.claims.iter().any(|other| stronger(&other))
    }

    fn wish(&self, field: &str, wished: Ipv4Addr, not: Option<Ipv4Addr>) -> Verdict {
        let refuse = |reason, problem: &str| Err(Wait::new(reason, format!("{field}: {wished} {problem}")));
        if !self.public.addresses.iter().any(|range| range.contains(wished)) {
            return refuse("OutsidePool", "is none of the site's public addresses (site.routers.public.addresses)");
        }
        if not == Some(wished) {
            return refuse("AddressTaken", "is given twice");
        }
        let ours = self.claim.held.contains(&wished);
        let in_the_way = |other: &&Claim| {
            let older = other.is_older_than(&self.claim);
            (other.held.contains(&wished) && (older || !ours)) || (other.wished.contains(&wished) && older && !ours)
        };
        if let Some(other) = self.others.claims.iter().find(in_the_way) {
            let (namespace, name) = &other.router;
            return refuse("AddressTaken", &format!("belongs to router {namespace}/{name}: give another, or none"));
        }
        if !ours && self.others.unread {
            return Err(unread());
        }
        if !ours && self.others.left_behind.contains(&wished) {
            let problem = "may still be in use by a machine that has it on its card; if its host is lost, annotate that with cascina.dev/fenced once it is surely off";
            return refuse("AddressLeftBehind", problem);
        }
        Ok(wished)
    }

    fn free(&self, not: Option<Ipv4Addr>) -> Verdict {
        if self.others.unread {
            return Err(unread());
        }
        let taken: BTreeSet<_> =
            self.others.claims.iter().flat_map(|other| other.held.iter().chain(&other.wished)).copied().collect();
        let is_free = |address: &Ipv4Addr| {
            !taken.contains(address) && !self.others.left_behind.contains(address) && Some(*address) != not
        };
        let all = self.public.addresses.iter().flat_map(|range| range.addresses());
        all.filter(is_free).min().ok_or_else(|| {
            let count: usize = self.public.addresses.iter().map(|range| range.addresses().count()).sum();
            let problem = format!("all {count} public addresses of the site are taken: delete a router or enlarge site.routers.public.addresses");
            Wait::new("PublicAddressesExhausted", problem)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::router::testing::{public, router};
    use proptest::prelude::*;

    fn chosen(router: &VRouter, claims: &[Claim], left_behind: &[&str]) -> Addresses {
        let left_behind = left_behind.iter().map(|text| text.parse().unwrap()).collect();
        choose(router, &Others { claims, left_behind: &left_behind, unread: false }, Some(&public()))
    }

    fn own(router: &VRouter, claims: &[Claim]) -> Result<String, &'static str> {
        chosen(router, claims, &[]).own.unwrap().map(|own| own.to_string()).map_err(|wait| wait.reason)
    }

    fn asks(name: &str, age: i64, wished: Option<&str>, held: Option<&str>) -> VRouter {
        let mut router = router(name, age);
        router.spec.public_ip = wished.map(str::to_owned);
        router.status = Some(VRouterStatus { public_ip: held.map(str::to_owned), ..VRouterStatus::default() });
        router
    }

    #[test]
    fn the_lowest_address_is_given_that_nobody_has_or_wishes() {
        let others = [asks("b", 9, None, Some("198.51.100.20")), asks("c", 9, Some("198.51.100.21"), None)];
        let claims = others.each_ref().map(Claim::of);
        let asking = router("a", 1);
        assert_eq!(own(&asking, &claims).unwrap(), "198.51.100.22");
        let left = chosen(&asking, &claims, &["198.51.100.22"]);
        assert_eq!(left.own.unwrap().unwrap_err().reason, "PublicAddressesExhausted");
    }

    #[test]
    fn a_wish_is_granted_unless_it_is_outside_or_taken() {
        assert_eq!(own(&asks("a", 1, Some("198.51.100.22"), None), &[]).unwrap(), "198.51.100.22");
        assert_eq!(own(&asks("a", 1, Some("198.51.100.23"), None), &[]), Err("OutsidePool"));
        let wish = asks("a", 5, Some("198.51.100.20"), None);
        let younger_has = Claim::of(&asks("b", 9, None, Some("198.51.100.20")));
        assert_eq!(own(&wish, &[younger_has]), Err("AddressTaken"));
        let older_wishes = Claim::of(&asks("b", 1, Some("198.51.100.20"), None));
        assert_eq!(own(&wish, &[older_wishes]), Err("AddressTaken"));
        let younger_wishes = Claim::of(&asks("b", 9, Some("198.51.100.20"), None));
        assert!(own(&wish, &[younger_wishes]).is_ok());
        assert_eq!(chosen(&wish, &[], &["198.51.100.20"]).own.unwrap().unwrap_err().reason, "AddressLeftBehind");
    }

    #[test]
    fn before_hosts_are_looked_at_a_router_keeps_what_it_has_and_gets_nothing() {
        let none = BTreeSet::new();
        let others = Others { claims: &[], left_behind: &none, unread: true };
        let own = |router: &VRouter| choose(router, &others, Some(&public())).own.unwrap().map_err(|wait| wait.reason);
        assert_eq!(own(&asks("a", 1, None, Some("198.51.100.20"))), Ok("198.51.100.20".parse().unwrap()));
        assert_eq!(own(&router("a", 1)), Err("HostsUnread"));
        assert_eq!(own(&asks("a", 1, Some("198.51.100.21"), None)), Err("HostsUnread"));
    }

    #[test]
    fn a_router_goes_on_with_what_it_has_while_its_wish_is_refused() {
        let taken = Claim::of(&asks("b", 1, None, Some("198.51.100.21")));
        let moving = chosen(&asks("a", 5, Some("198.51.100.21"), Some("198.51.100.20")), &[taken], &[]);
        assert_eq!(moving.own.as_ref().unwrap().as_ref().unwrap_err().reason, "AddressTaken");
        assert_eq!(moving.own(), Some("198.51.100.20".parse().unwrap()));
    }

    #[test]
    fn what_a_router_has_stays_until_the_network_goes() {
        assert_eq!(own(&asks("a", 5, None, Some("198.51.100.77")), &[]).unwrap(), "198.51.100.77");
        assert_eq!(own(&asks("a", 5, None, Some("203.0.113.7")), &[]).unwrap(), "198.51.100.20");
        let older_has = Claim::of(&asks("b", 1, None, Some("198.51.100.20")));
        assert_eq!(own(&asks("a", 5, None, Some("198.51.100.20")), &[older_has]).unwrap(), "198.51.100.21");
    }

    #[test]
    fn the_elastic_address_is_another_and_never_costs_the_router_its_own() {
        let mut asking = router("a", 1);
        asking.spec.elastic_ip = Some(crate::api::ElasticIp { target: "login".into(), address: None });
        let given = chosen(&asking, &[], &[]);
        assert_eq!(given.all().map(|address| address.octets()[3]).collect::<Vec<_>>(), [20, 21]);
        asking.spec.elastic_ip.as_mut().unwrap().address = Some("198.51.100.20".into());
        assert_eq!(chosen(&asking, &[], &[]).all().map(|address| address.octets()[3]).collect::<Vec<_>>(), [21, 20]);
        asking.spec.public_ip = Some("198.51.100.20".into());
        let clash = chosen(&asking, &[], &[]);
        assert_eq!(clash.elastic.unwrap().unwrap_err().reason, "AddressTaken");
    }

    #[test]
    fn without_a_public_network_a_router_has_none_and_says_so_if_it_needs_one() {
        let none = BTreeSet::new();
        let others = Others { claims: &[], left_behind: &none, unread: false };
        assert_eq!(choose(&router("a", 1), &others, None), Addresses::default());
        let asks = asks("a", 1, Some("198.51.100.20"), None);
        assert_eq!(choose(&asks, &others, None).own.unwrap().unwrap_err().reason, "NoPublicNetwork");
    }

    proptest! {
        /// However many routers ask in whatever order, no two are given the same, and what is given stays.
        #[test]
        fn no_two_routers_get_the_same(asking in proptest::collection::vec((any::<bool>(), proptest::option::of(20u8..24), 0i64..3), 1..6)) {
            let mut routers: Vec<_> = asking.iter().enumerate().map(|(index, (elastic, wish, age))| {
                let mut router = asks(&format!("r{index}"), *age, wish.map(|last| format!("198.51.100.{last}")).as_deref(), None);
                router.spec.elastic_ip = elastic.then(|| crate::api::ElasticIp { target: "x".into(), address: None });
                router
            }).collect();
            for index in (0..routers.len()).rev() {
                let claims: Vec<_> = routers.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, other)| Claim::of(other)).collect();
                let given = chosen(&routers[index], &claims, &[]);
                for address in given.own().into_iter().chain(given.elastic()) {
                    prop_assert!(claims.iter().all(|other| !other.held.contains(&address)));
                }
                prop_assert!(given.own().is_none() || given.own() != given.elastic());
                routers[index].status = Some(VRouterStatus {
                    public_ip: given.own().map(|address| address.to_string()),
                    elastic_ip: given.elastic().map(|address| address.to_string()),
                    ..VRouterStatus::default()
                });
                let again = chosen(&routers[index], &claims, &[]);
                prop_assert_eq!((again.own(), again.elastic()), (given.own(), given.elastic()));
            }
        }
    }
}
