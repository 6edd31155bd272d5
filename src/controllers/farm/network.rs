//! Which network a farm has: pure. The caller sees to it that farms are asked one after another.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::{DRY_RUN_ANNOTATION, VirtualFarm, is_annotated};
use crate::controllers::cache::Key;
use crate::controllers::placement::plan::Wait;
use crate::network::{FarmNetwork, free_network};

/// The network of a farm, or why it has none.
pub type Verdict = Result<FarmNetwork, Wait>;

/// A farm's claim to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The farm.
    pub farm: Key,
    /// Older goes first.
    pub created: Option<Timestamp>,
    /// The network that its spec asks for.
    pub wished: Option<Result<FarmNetwork, String>>,
    /// The network that it has.
    pub held: Option<FarmNetwork>,
    /// Who has it, where that is no farm.
    pub machine: Option<String>,
}

impl Claim {
    /// The claim of a farm as its object tells it. A dry run wishes nothing for itself.
    #[must_use]
    pub fn of(farm: &VirtualFarm) -> Self {
        let cidr = farm.spec.network.as_ref().and_then(|network| network.cidr.as_deref());
        let held = farm.status.as_ref().and_then(|status| status.network.as_deref());
        Self {
            farm: (farm.namespace().unwrap_or_default(), farm.name_any()),
            created: farm.creation_timestamp().map(|time| time.0),
            wished: cidr.map(|cidr| cidr.parse().map_err(|error: crate::network::NotAFarmNetwork| error.to_string())),
            held: held.and_then(|held| held.parse().ok()),
            machine: None,
        }
    }

    /// The same of another farm: what a dry run wishes stands in nobody's way.
    #[must_use]
    pub fn of_other(farm: &VirtualFarm) -> Self {
        let claim = Self::of(farm);
        if is_annotated(farm, DRY_RUN_ANNOTATION) { Self { wished: None, ..claim } } else { claim }
    }

    /// The claim of a machine that has an address, whatever became of its farm or of its object: while it may be on the
    /// wire nobody else gets its network.
    #[must_use]
    pub fn of_machine(machine: String, address: Ipv4Addr) -> Self {
        Self {
            farm: Key::default(),
            created: Some(Timestamp::MAX),
            wished: None,
            held: Some(FarmNetwork::of(address)),
            machine: Some(machine),
        }
    }

    /// Whether it may come to another network than it has.
    #[must_use]
    pub fn is_choosing(&self) -> bool {
        self.held.is_none_or(|held| self.wished.as_ref().is_some_and(|wished| *wished != Ok(held)))
    }

    fn is_older_than(&self, other: &Self) -> bool {
        (self.created, &self.farm) < (other.created, &other.farm)
    }
}

/// The network of a farm: the one it has, else the one it wishes, else the lowest free one of the pool.
///
/// # Errors
/// Why it can have none, and what to do about it.
pub fn choose(own: &Claim, others: &[Claim], pool: Ipv4Net) -> Verdict {
    match (own.held, &own.wished) {
        (Some(held), Some(Ok(wished))) if held != *wished => wish(own, *wished, others, pool),
        (Some(held), _) => keep(own, held, others),
        (None, Some(Ok(wished))) => wish(own, *wished, others, pool),
        (None, Some(Err(problem))) => Err(Wait::new("InvalidNetwork", format!("spec.network.cidr: {problem}"))),
        (None, None) => {
            let wished = others.iter().filter_map(|other| other.wished.as_ref()?.as_ref().ok().copied());
            let taken: BTreeSet<_> = others.iter().filter_map(|other| other.held).chain(wished).collect();
            free_network(pool, &taken).ok_or_else(|| {
                Wait::new("PoolExhausted", format!("every network of the site's pool {pool} is taken: delete a farm"))
            })
        }
    }
}

/// A network that a farm has stays its own, whatever becomes of the pool; of two that have it, it is the older's.
fn keep(own: &Claim, held: FarmNetwork, others: &[Claim]) -> Verdict {
    match others.iter().find(|other| other.held == Some(held) && other.is_older_than(own)) {
        Some(other) => Err(overlaps(held, other)),
        None => Ok(held),
    }
}

fn wish(own: &Claim, wished: FarmNetwork, others: &[Claim], pool: Ipv4Net) -> Verdict {
    if !wished.is_within(pool) {
        let problem = format!("{wished} is not in the site's pool {pool}: make a new farm with a network of the pool");
        return Err(Wait::new("OutsidePool", problem));
    }
    let in_the_way = |other: &&Claim| {
        let wishes_too = other.held.is_none() && other.wished == Some(Ok(wished));
        other.held == Some(wished) || (wishes_too && other.is_older_than(own))
    };
    match others.iter().find(in_the_way) {
        Some(other) => Err(overlaps(wished, other)),
        None => Ok(wished),
    }
}

fn overlaps(network: FarmNetwork, other: &Claim) -> Wait {
    let remedy = "make a new farm with another network, or with none to be given a free one";
    let problem = match &other.machine {
        Some(machine) => format!("{network} is still in use by {machine}: wait until that is gone, or {remedy}"),
        None => format!("{network} belongs to farm {}/{}: {remedy}", other.farm.0, other.farm.1),
    };
    Wait::new("NetworkOverlaps", problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(name: &str, age_rank: i64) -> Claim {
        let created = Timestamp::from_second(age_rank).ok();
        Claim { farm: ("tenant".into(), name.into()), created, wished: None, held: None, machine: None }
    }

    fn network(text: &str) -> FarmNetwork {
        text.parse().unwrap()
    }

    fn wishes(claim: Claim, text: &str) -> Claim {
        Claim { wished: Some(Ok(network(text))), ..claim }
    }

    fn has(claim: Claim, text: &str) -> Claim {
        Claim { held: Some(network(text)), ..claim }
    }

    fn pool() -> Ipv4Net {
        "172.16.0.0/16".parse().unwrap()
    }

    fn reason(verdict: Verdict) -> &'static str {
        verdict.unwrap_err().reason
    }

    #[test]
    fn a_farm_without_wishes_gets_the_lowest_network_that_nobody_has_or_wishes() {
        let others = [has(claim("b", 0), "172.16.1.0/24"), wishes(claim("c", 9), "172.16.2.0/24")];
        assert_eq!(choose(&claim("a", 5), &others, pool()), Ok(network("172.16.3.0/24")));
        let tiny = "172.16.1.0/24".parse().unwrap();
        assert_eq!(reason(choose(&claim("a", 5), &others, tiny)), "PoolExhausted");
    }

    #[test]
    fn a_wish_is_granted_unless_it_is_outside_or_taken() {
        let wish = wishes(claim("a", 5), "172.16.7.0/24");
        assert_eq!(choose(&wish, &[], pool()), Ok(network("172.16.7.0/24")));
        assert_eq!(reason(choose(&wishes(claim("a", 5), "10.0.0.0/24"), &[], pool())), "OutsidePool");
        let younger_has = has(claim("b", 9), "172.16.7.0/24");
        let refused = choose(&wish, &[younger_has], pool()).unwrap_err();
        assert_eq!(refused.reason, "NetworkOverlaps");
        assert!(refused.message.contains("tenant/b"), "{}", refused.message);
    }

    #[test]
    fn of_two_wishes_the_older_wins() {
        let (older, younger) = (wishes(claim("b", 1), "172.16.7.0/24"), wishes(claim("a", 2), "172.16.7.0/24"));
        assert!(choose(&older, std::slice::from_ref(&younger), pool()).is_ok());
        assert_eq!(reason(choose(&younger, &[older], pool())), "NetworkOverlaps");
    }

    #[test]
    fn what_a_farm_has_stays_when_the_pool_moves_away() {
        let elsewhere = "10.0.0.0/16".parse().unwrap();
        assert!(choose(&has(claim("a", 5), "172.16.7.0/24"), &[], elsewhere).is_ok());
    }

    #[test]
    fn the_network_of_a_machine_that_may_be_on_the_wire_is_given_to_nobody() {
        let machine = Claim::of_machine("machine tenant/left on worker-1".into(), "172.16.1.7".parse().unwrap());
        let others = std::slice::from_ref(&machine);
        assert_eq!(choose(&claim("a", 5), others, pool()), Ok(network("172.16.2.0/24")));
        let refused = choose(&wishes(claim("a", 5), "172.16.1.0/24"), others, pool()).unwrap_err();
        assert_eq!(refused.reason, "NetworkOverlaps");
        assert!(refused.message.contains("tenant/left on worker-1"), "{}", refused.message);
        assert!(choose(&has(claim("a", 5), "172.16.1.0/24"), others, pool()).is_ok(), "and taken from nobody");
    }

    #[test]
    fn of_two_that_have_the_same_by_hand_the_younger_is_refused() {
        let (older, younger) = (has(claim("b", 1), "172.16.7.0/24"), has(claim("a", 2), "172.16.7.0/24"));
        assert!(choose(&older, std::slice::from_ref(&younger), pool()).is_ok());
        assert_eq!(reason(choose(&younger, &[older], pool())), "NetworkOverlaps");
    }

    proptest! {
        /// However many farms ask in whatever order, no two are given the same.
        #[test]
        fn no_two_farms_get_the_same(wishes_of in proptest::collection::vec(proptest::option::of(0u8..6), 1..12)) {
            let pool = "172.16.0.0/21".parse().unwrap();
            let mut claims: Vec<_> = wishes_of
                .iter()
                .enumerate()
                .map(|(index, wish)| {
                    let claim = claim(&format!("farm-{index}"), index as i64 % 3);
                    wish.map_or(claim.clone(), |third| wishes(claim, &format!("172.16.{third}.0/24")))
                })
                .collect();
            for index in (0..claims.len()).rev() {
                let others: Vec<_> = claims.iter().filter(|other| other.farm != claims[index].farm).cloned().collect();
                if let Ok(given) = choose(&claims[index], &others, pool) {
                    prop_assert!(others.iter().all(|other| other.held != Some(given)));
                    claims[index].held = Some(given);
                    prop_assert_eq!(choose(&claims[index], &others, pool), Ok(given), "and it stays");
                }
            }
        }
    }
}
