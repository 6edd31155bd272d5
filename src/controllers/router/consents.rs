//! Consent to a tunnel is given to a farm, and not to whoever has its name later: a namespace that is deleted may be made again by
//! somebody else. Pure.

use kube::ResourceExt;

use crate::api::{FarmPeer, FarmRef, PeerConsent, VRouter};
use crate::controllers::cache::Key;
use crate::controllers::placement::plan::Wait;

/// Whether a router names this farm as the other end of a tunnel, and means the one of this uid.
#[must_use]
pub fn consents(router: &VRouter, farm: &Key, uid: &str) -> bool {
    let peers = router.spec.template.vpn.iter().flat_map(|vpn| &vpn.peers);
    let mut named = peers.filter_map(|peer| Some((peer, peer.peer_ref.as_ref()?)));
    named.any(|(peer, named)| {
        (&named.namespace, &named.name) == (&farm.0, &farm.1)
            && meant(router, peer, named).is_none_or(|meant| meant == uid)
    })
}

/// Whether the farm that a peer names now, of this uid, is the one that was meant.
///
/// # Errors
/// It was made anew since: what to do about it.
pub fn is_meant(router: &VRouter, peer: &FarmPeer, named: &FarmRef, uid: &str) -> Result<(), Wait> {
    match meant(router, peer, named) {
        Some(meant) if meant != uid => {
            let FarmRef { namespace, name, .. } = named;
            let problem = format!(
                "farm {namespace}/{name} isn't the one that was consented to: it was deleted, and made anew by whoever has the \
                 namespace now; if that is whom you mean, give peerRef.uid: {uid}"
            );
            Err(Wait::new("PeerChanged", problem))
        }
        _ => Ok(()),
    }
}

/// The uid of the farm that a peer means: by its spec, or as it was when it was first seen. In its own namespace a name is enough:
/// the people are the same.
fn meant<'a>(router: &'a VRouter, peer: &'a FarmPeer, named: &'a FarmRef) -> Option<&'a str> {
    if named.uid.is_some() {
        return named.uid.as_deref();
    }
    pinned(router, peer, named).map(|pinned| pinned.uid.as_str())
}

fn pinned<'a>(router: &'a VRouter, peer: &FarmPeer, named: &FarmRef) -> Option<&'a PeerConsent> {
    let is_it = |consent: &&PeerConsent| {
        (&consent.name, &consent.namespace, &consent.farm) == (&peer.name, &named.namespace, &named.name)
    };
    router.status.as_ref()?.consents.iter().find(is_it)
}

/// A router with all that its farm means by names: what its status tells, and what nobody may read.
#[must_use]
pub fn with_pins(router: &VRouter, pins: &[PeerConsent]) -> VRouter {
    let mut status = router.status.clone().unwrap_or_default();
    let of_status = std::mem::take(&mut status.consents);
    let is_new = |consent: &PeerConsent| !pins.iter().any(|pin| is_same(pin, consent));
    status.consents = pins.iter().cloned().chain(of_status.into_iter().filter(is_new)).collect();
    VRouter { status: Some(status), ..router.clone() }
}

fn is_same(one: &PeerConsent, other: &PeerConsent) -> bool {
    (&one.name, &one.namespace, &one.farm) == (&other.name, &other.namespace, &other.farm)
}

/// What of that a router's status tells. Whether there is a farm is nobody's business who isn't named by it: so only what was told
/// before, what the spec itself says, and farms that name this one now.
#[must_use]
pub fn told(router: &VRouter, pins: &[PeerConsent], names_us: impl Fn(&Key) -> Option<String>) -> Vec<PeerConsent> {
    let before = router.status.iter().flat_map(|status| &status.consents);
    let peers = router.spec.template.vpn.iter().flat_map(|vpn| &vpn.peers);
    let said: Vec<_> = peers.filter_map(|peer| Some((&peer.name, peer.peer_ref.as_ref()?.uid.as_ref()?))).collect();
    let is_public = |pin: &&PeerConsent| {
        before.clone().any(|known| is_same(known, pin))
            || said.contains(&(&pin.name, &pin.uid))
            || names_us(&(pin.namespace.clone(), pin.farm.clone())).as_ref() == Some(&pin.uid)
    };
    pins.iter().filter(is_public).cloned().collect()
}

/// What a farm means from now on: of each farm in another namespace that its router's spec names, the one that was there first, for
/// as long as the spec names it. `found` gives the uids of farms that are there now, whether or not they consent: one that never
/// answered isn't followed by whoever has its name later.
#[must_use]
pub fn kept(router: &VRouter, found: impl Fn(&Key) -> Option<String>) -> Vec<PeerConsent> {
    let peers = router.spec.template.vpn.iter().flat_map(|vpn| &vpn.peers);
    let kept = peers.filter_map(|peer| {
        let named = peer.peer_ref.as_ref().filter(|named| Some(&named.namespace) != router.namespace().as_ref())?;
        let uid = meant(router, peer, named).map(str::to_owned);
        Some(PeerConsent {
            name: peer.name.clone(),
            namespace: named.namespace.clone(),
            farm: named.name.clone(),
            uid: uid.or_else(|| found(&(named.namespace.clone(), named.name.clone())))?,
        })
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn router(namespace: &str, peer_ref: serde_json::Value, consents: serde_json::Value) -> VRouter {
        serde_json::from_value(json!({
            "apiVersion": "cascina.dev/v1alpha1", "kind": "VRouter",
            "metadata": {"name": "farm-a", "namespace": namespace},
            "spec": {"farm": "farm-a", "vpn": {"peers": [{"name": "near", "peerRef": peer_ref}]}},
            "status": {"consents": consents},
        }))
        .unwrap()
    }

    fn theirs() -> Key {
        ("other".to_owned(), "farm-b".to_owned())
    }

    fn verdict(router: &VRouter, uid: &str) -> Result<(), &'static str> {
        let peer = &router.spec.template.vpn.as_ref().unwrap().peers[0];
        is_meant(router, peer, peer.peer_ref.as_ref().unwrap(), uid).map_err(|wait| wait.reason)
    }

    fn consented(uid: &str) -> serde_json::Value {
        json!([{"name": "near", "namespace": "other", "farm": "farm-b", "uid": uid}])
    }

    #[test]
    fn who_has_the_name_later_was_not_consented_to() {
        let named = json!({"namespace": "other", "name": "farm-b"});
        let first = router("mine", named.clone(), json!([]));
        assert_eq!(verdict(&first, "old"), Ok(()));
        assert!(consents(&first, &theirs(), "old"));
        let kept = kept(&first, |farm| (*farm == theirs()).then(|| "old".to_owned()));
        assert_eq!(serde_json::to_value(&kept).unwrap(), consented("old"));

        let later = router("mine", named, consented("old"));
        assert_eq!(verdict(&later, "old"), Ok(()));
        assert_eq!(verdict(&later, "new"), Err("PeerChanged"));
        assert!(!consents(&later, &theirs(), "new"), "nor does it consent to be joined by that one");
        let stays = super::kept(&later, |_| Some("new".to_owned()));
        assert_eq!(stays[0].uid, "old", "a consent outlives the farm that it was given to");
        assert_eq!(super::kept(&later, |_| None)[0].uid, "old", "also while nobody has that name");
    }

    #[test]
    fn who_never_answered_is_not_followed_by_whoever_has_the_name_later() {
        let named = json!({"namespace": "other", "name": "farm-b"});
        let first = router("mine", named.clone(), json!([]));
        let pins = kept(&first, |_| Some("silent".to_owned()));
        assert_eq!(told(&first, &pins, |_| None), [], "nobody is told that there is such a farm");
        let later = with_pins(&first, &pins);
        assert_eq!(verdict(&later, "eve"), Err("PeerChanged"));
        assert!(!consents(&later, &theirs(), "eve") && consents(&later, &theirs(), "silent"));
        assert_eq!(kept(&later, |_| Some("eve".to_owned())), pins);
        assert_eq!(told(&first, &pins, |_| Some("eve".to_owned())), [], "nor that there was one");
        assert_eq!(told(&first, &pins, |_| Some("silent".to_owned())), pins, "but when it answers");
        assert_eq!(kept(&first, |_| None), [], "a farm that isn't there yet is awaited");
        // What an earlier version wrote into the status counts until it is kept.
        let old = router("mine", named, consented("old"));
        assert_eq!(verdict(&with_pins(&old, &[]), "new"), Err("PeerChanged"));
        assert_eq!(told(&old, &kept(&with_pins(&old, &[]), |_| None), |_| None)[0].uid, "old");
    }

    #[test]
    fn a_uid_in_the_spec_decides() {
        let named = json!({"namespace": "other", "name": "farm-b", "uid": "new"});
        for before in [json!([]), consented("old")] {
            let router = router("mine", named.clone(), before);
            assert_eq!(verdict(&router, "new"), Ok(()));
            assert_eq!(verdict(&router, "old"), Err("PeerChanged"));
            assert!(consents(&router, &theirs(), "new") && !consents(&router, &theirs(), "old"));
            assert_eq!(kept(&router, |_| None)[0].uid, "new");
        }
    }

    #[test]
    fn consent_to_another_farm_is_another_consent() {
        let router = router("mine", json!({"namespace": "third", "name": "farm-c"}), consented("old"));
        assert_eq!(verdict(&router, "any"), Ok(()));
        assert_eq!(kept(&router, |_| None), []);
    }

    #[test]
    fn in_one_namespace_a_name_is_enough() {
        let router = router("other", json!({"namespace": "other", "name": "farm-b"}), json!([]));
        assert_eq!(kept(&router, |_| Some("any".to_owned())), []);
        assert_eq!(verdict(&router, "any"), Ok(()));
    }
}
