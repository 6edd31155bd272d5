//! What is told of the certificates between the operator and a host. Pure.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::api::Hypervisor;
use crate::api::conditions::State;
use crate::libvirt::Certificates;

/// Condition of a host one of whose certificates ends soon.
pub const CERTIFICATE_EXPIRING: &str = "CertificateExpiring";

/// A certificate is warned of so long before it ends.
const AHEAD: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Whose certificate, for metrics, with its end.
pub fn ends(certificates: &Certificates) -> impl Iterator<Item = (&'static str, Timestamp)> {
    let Certificates { client, authority, host } = *certificates;
    let all = [("client", client), ("authority", authority), ("host", host)];
    all.into_iter().filter_map(|(which, end)| Some((which, end?)))
}

/// Whether one of them ends soon.
pub fn is_expiring(certificates: &Certificates, now: Timestamp) -> bool {
    ends(certificates).any(|(_, end)| end.duration_since(now) < AHEAD)
}

/// What is told of them; nothing of a host that has none.
pub fn state(hypervisor: &Hypervisor, certificates: &Certificates, namespace: &str, now: Timestamp) -> Option<State> {
    let first = ends(certificates).map(|(_, end)| end).min()?;
    if !is_expiring(certificates, now) {
        let told: Vec<_> = ends(certificates).map(|(which, end)| format!("{which} until {}", day(end))).collect();
        return Some(State::no(CERTIFICATE_EXPIRING, "Valid", told.join(", ")));
    }
    let soon = ends(certificates).filter(|(_, end)| end.duration_since(now) < AHEAD);
    let told: Vec<_> = soon.map(|(which, end)| tell(hypervisor, which, end, namespace, now)).collect();
    let reason = if first <= now { "Expired" } else { "Expiring" };
    Some(State::yes(CERTIFICATE_EXPIRING, reason, told.join("; ")))
}

fn tell(hypervisor: &Hypervisor, which: &str, end: Timestamp, namespace: &str, now: Timestamp) -> String {
    let ends = if end <= now { "ended" } else { "ends" };
    let secret = hypervisor.spec.credentials_secret_ref.as_ref().map_or("", |secret| secret.name.as_str());
    let step = match which {
        "host" => format!(
            "renew it on {} and restart libvirtd there, guests run on (without a restart where libvirtd.conf names no other path: virt-admin server-update-tls libvirtd)",
            hypervisor.name_any()
        ),
        "client" => format!("renew tls.crt and tls.key of Secret {namespace}/{secret}"),
        _ => format!(
            "renew it on the hosts and as ca.crt of Secret {namespace}/{secret}, old and new one after the other"
        ),
    };
    format!("the certificate of the {which} {ends} on {}: {step}; it is taken up while running", day(end))
}

fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use super::super::tests::hypervisor;
    use super::*;

    const DAY: i64 = 86_400;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(day * DAY).unwrap()
    }

    fn certificates(client: i64, host: Option<i64>) -> Certificates {
        Certificates { client: Some(at(client)), authority: Some(at(3650)), host: host.map(at) }
    }

    fn told(certificates: &Certificates) -> State {
        state(&hypervisor(), certificates, "cascina-system", at(0)).unwrap()
    }

    #[test]
    fn a_certificate_is_warned_of_thirty_days_ahead() {
        assert_eq!(told(&certificates(30, Some(31))).status, "False");
        let soon = told(&certificates(29, Some(31)));
        assert_eq!((soon.status, soon.reason.as_str()), ("True", "Expiring"));
        assert!(soon.message.contains("client ends on 1970-01-30: renew tls.crt"), "{}", soon.message);
        assert!(!soon.message.contains("virt-admin"), "the host's is good");
        let host = told(&certificates(90, Some(10)));
        assert!(host.message.contains("virt-admin"), "{}", host.message);
    }

    #[test]
    fn one_that_ended_is_said_to_have_ended() {
        let over = told(&certificates(-1, None));
        assert_eq!(over.reason, "Expired");
        assert!(over.message.contains("client ended on"), "{}", over.message);
    }

    #[test]
    fn a_host_without_certificates_has_no_condition() {
        assert_eq!(state(&hypervisor(), &Certificates::default(), "", at(0)), None);
    }
}
