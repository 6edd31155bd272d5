//! One answer in which much of what was there is missing is doubted: a list that came back empty by mistake, a pool whose
//! disk isn't mounted. Until a second answer some time later says the same nothing is concluded from it. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::libvirt::{DomainUuid, Survey};

/// Fewer may go missing at once without being doubted.
const FEW: usize = 3;

/// More than one in so many is much.
const ONE_IN: usize = 5;

/// The second answer comes so long after the first.
pub const PAUSE: Duration = Duration::from_secs(15);

/// Whether so many that are missing, of so many, are too many to be believed at once.
#[must_use]
pub const fn is_mass(missing: usize, of: usize) -> bool {
    missing >= FEW && missing.saturating_mul(ONE_IN) > of
}

/// What is thought of answers in which much is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Nothing is missing.
    #[default]
    Calm,
    /// Much has been missing since then.
    Doubting(Timestamp),
    /// It is really gone.
    Confirmed,
}

/// What is made of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Believed,
    /// It doesn't count yet; `first`: this doubt is new.
    Doubted {
        /// This doubt is new.
        first: bool,
    },
}

impl Guard {
    /// Judges an answer in which this many are missing of so many.
    pub fn judge(&mut self, missing: usize, of: usize, now: Timestamp) -> Verdict {
        let waited = |since: Timestamp| Duration::try_from(now.duration_since(since)).unwrap_or_default() >= PAUSE;
        match *self {
            _ if !is_mass(missing, of) => *self = Self::Calm,
            Self::Calm => {
                *self = Self::Doubting(now);
                return Verdict::Doubted { first: true };
            }
            Self::Doubting(since) if !waited(since) => return Verdict::Doubted { first: false },
            Self::Doubting(_) | Self::Confirmed => *self = Self::Confirmed,
        }
        Verdict::Believed
    }
}

/// What objects say that there is on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Domains of machines that run.
    pub domains: BTreeSet<DomainUuid>,
    /// Disks of machines.
    pub volumes: BTreeSet<String>,
}

impl Claims {
    /// What is missing in a survey: how many of how many, whichever kind is worse.
    #[must_use]
    pub fn missing_in(&self, survey: &Survey) -> (usize, usize) {
        let domains = self.domains.iter().filter(|uuid| !survey.domains.contains_key(*uuid)).count();
        let volumes = self.volumes.difference(&survey.volumes).count();
        if is_mass(domains, self.domains.len()) { (domains, self.domains.len()) } else { (volumes, self.volumes.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const FIRST: Verdict = Verdict::Doubted { first: true };
    const AGAIN: Verdict = Verdict::Doubted { first: false };

    #[test]
    fn a_few_may_go_and_many_may_not() {
        assert!(!is_mass(2, 2) && is_mass(3, 3), "two machines are a few, whatever there is");
        assert!(!is_mass(20, 100) && is_mass(21, 100));
        assert!(!is_mass(0, 0));
    }

    #[test]
    fn a_mass_counts_when_a_later_answer_says_the_same() {
        let mut guard = Guard::default();
        assert_eq!(guard.judge(9, 10, at(0)), FIRST);
        assert_eq!(guard.judge(9, 10, at(5)), AGAIN);
        assert_eq!(guard.judge(10, 10, at(15)), Verdict::Believed);
        assert_eq!(guard.judge(10, 10, at(16)), Verdict::Believed, "what is known isn't doubted again");
    }

    #[test]
    fn a_mistake_changes_nothing() {
        let mut guard = Guard::default();
        assert_eq!(guard.judge(9, 10, at(0)), FIRST);
        assert_eq!(guard.judge(0, 10, at(5)), Verdict::Believed);
        assert_eq!(guard.judge(9, 10, at(20)), FIRST, "a second mistake is doubted like the first");
    }

    #[test]
    fn domains_and_volumes_are_held_against_a_survey_each_for_itself() {
        let ids = [1_u128, 2, 3];
        let claims = Claims {
            domains: ids.iter().map(|id| DomainUuid(Uuid::from_u128(*id))).collect(),
            volumes: ids.iter().map(|id| format!("{id}-root.qcow2")).collect(),
        };
        assert_eq!(claims.missing_in(&Survey::default()), (3, 3));
        let with_volumes = Survey { volumes: claims.volumes.clone(), ..Survey::default() };
        assert_eq!(claims.missing_in(&with_volumes), (3, 3), "the domains are gone");
        assert_eq!(Claims { domains: BTreeSet::new(), ..claims }.missing_in(&with_volumes), (0, 3));
    }
}
