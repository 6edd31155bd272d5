//! What a canary's report means. Pure; a report is believed only if it is of the run that was asked for, and complete.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

use crate::libvirt::GuestOutput;

/// Longer reports are not looked at.
const LONGEST: usize = 8 * 1024;

/// What a canary tries. Two of them let honest frames follow an attempt to steal, and look where these go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// No attack: honest frames within a farm.
    Good,
    /// A frame to a machine of another farm.
    CrossFarmUnicast,
    /// A broadcast that another farm hears.
    CrossFarmBroadcast,
    /// A frame from a MAC address that isn't the sender's.
    MacSpoof,
    /// A packet from an IP address that isn't the sender's.
    IpSpoof,
    /// An ARP message that gives the sender another's address.
    ArpClaim,
    /// A frame with a VLAN tag.
    VlanTag,
    /// A victim's place in the bridge's table, taken by an ordinary frame.
    StealByFrame,
    /// The same by a frame that every filter lets pass.
    StealByLinkLocal,
}

impl Check {
    /// All that a report has to speak of, in its order.
    pub const ALL: [Self; 9] = [
        Self::Good,
        Self::CrossFarmUnicast,
        Self::CrossFarmBroadcast,
        Self::MacSpoof,
        Self::IpSpoof,
        Self::ArpClaim,
        Self::VlanTag,
        Self::StealByFrame,
        Self::StealByLinkLocal,
    ];

    /// Its name in reports, metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::CrossFarmUnicast => "cross-farm-unicast",
            Self::CrossFarmBroadcast => "cross-farm-broadcast",
            Self::MacSpoof => "mac-spoof",
            Self::IpSpoof => "ip-spoof",
            Self::ArpClaim => "arp-claim",
            Self::VlanTag => "vlan-tag",
            Self::StealByFrame => "steal-by-frame",
            Self::StealByLinkLocal => "steal-by-link-local",
        }
    }

    /// The check of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|check| check.name() == name)
    }

    /// Whether filters would have stopped it. Link-local frames pass by them; the bridge itself has to.
    #[must_use]
    pub const fn is_for_filters(self) -> bool {
        !matches!(self, Self::StealByLinkLocal)
    }

    /// Whether honest frames are sent that have to arrive: without them, that nothing else arrived says nothing.
    const fn must_arrive(self) -> bool {
        matches!(self, Self::Good | Self::StealByFrame | Self::StealByLinkLocal)
    }
}

/// Tells one run from every other, so that an old answer counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(u64);

impl Nonce {
    /// A number that nobody can know beforehand.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u64_pair().1)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// What a run showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Honest frames arrived and no others.
    Held,
    /// These attacks succeeded.
    Leaked(BTreeSet<Check>),
    /// Nothing, because of this.
    Inconclusive(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    nonce: String,
    checks: Vec<Finding>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finding {
    name: Check,
    sent: u16,
    arrived: u16,
    strayed: u16,
}

/// What a canary's answer means.
#[must_use]
pub fn judge(answer: &GuestOutput, nonce: Nonce) -> Verdict {
    let inconclusive = |why: &str| Verdict::Inconclusive(why.to_owned());
    if answer.exit_code != Some(0) {
        let said: String =
            String::from_utf8_lossy(&answer.errors).chars().filter(|c| !c.is_control()).take(200).collect();
        return Verdict::Inconclusive(format!("the canary's test ended with {:?}: {said}", answer.exit_code));
    }
    if answer.output.len() > LONGEST {
        return inconclusive("the canary's report is too long");
    }
    let Ok(report) = serde_json::from_slice::<Report>(&answer.output) else {
        return inconclusive("the canary's report makes no sense");
    };
    if report.nonce != nonce.to_string() {
        return inconclusive("the canary's report is of another run");
    }
    if !report.checks.iter().map(|finding| finding.name).eq(Check::ALL) || report.checks.iter().any(|f| f.sent == 0) {
        return inconclusive("the canary's report is not complete");
    }
    let leaks: BTreeSet<_> = report.checks.iter().filter(|f| f.strayed > 0).map(|finding| finding.name).collect();
    if !leaks.is_empty() {
        return Verdict::Leaked(leaks);
    }
    match report.checks.iter().find(|finding| finding.name.must_arrive() && finding.arrived == 0) {
        Some(lost) => {
            Verdict::Inconclusive(format!("honest frames of the canary did not arrive ({})", lost.name.name()))
        }
        None => Verdict::Held,
    }
}
