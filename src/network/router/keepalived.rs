//! Whose turn it is, of two routers: what keepalived(8) reads, which speaks VRRP (RFC 9568).
//!
//! They tell each other half-secondly that they are there, from address to address: the filters of their cards let no group be
//! called, and nobody else can send from these addresses. Who hasn't heard the other for three times as long takes its turn, and
//! keeps it: a router that returns interrupts nothing again.

use super::{FARM_CARD, PUBLIC_CARD, Router};
use crate::network::RouterSeat;

/// What every router's copy of the file begins a line with that is for one of them only.
const fn mark(seat: RouterSeat) -> &'static str {
    match seat {
        RouterSeat::Only => "",
        RouterSeat::First => "@first",
        RouterSeat::Second => "@second",
    }
}

/// Empty for a router that is alone.
pub(super) fn document(router: &Router) -> String {
    if !router.paired {
        return String::new();
    }
    let [first, second] = RouterSeat::PAIR.map(|seat| (mark(seat), router.farm.router_address(seat)));
    let peer = |(mark, own), (_, other)| {
        [
            format!("{mark}    unicast_src_ip {own}"),
            format!("{mark}    unicast_peer {{"),
            format!("{mark}        {other}"),
            format!("{mark}    }}"),
        ]
    };
    let mut lines: Vec<String> = [
        "global_defs {",
        "    vrrp_version 3",
        "    enable_script_security",
        "    script_user root",
        "}",
        "vrrp_instance gateway {",
        "    state BACKUP",
        "    nopreempt",
        "    virtual_router_id 1",
        "    priority 100",
        "    advert_int 0.5",
        // Who missed that the turn changed, or heard the other one last when both had it, is told within a second.
        "    garp_master_delay 1",
        "    garp_master_refresh 1",
    ]
    .map(str::to_owned)
    .into();
    lines.push(format!("    interface {FARM_CARD}"));
    lines.extend(peer(first, second));
    lines.extend(peer(second, first));
    lines.extend(block("virtual_ipaddress", [format!("{}/24 dev {FARM_CARD}", router.farm.gateway())]));
    if let Some(public) = router.public {
        lines.extend(block("track_interface", [PUBLIC_CARD.to_owned()]));
        // The two compare the addresses that they tell each other, and these change while they run.
        let addresses = router.public_addresses().map(|address| format!("{address} dev {PUBLIC_CARD}"));
        lines.extend(block("virtual_ipaddress_excluded", addresses));
        lines.extend(block("virtual_routes", [format!("default via {} dev {PUBLIC_CARD}", public.gateway)]));
    }
    for turn in ["master", "backup", "fault", "stop"] {
        lines.push(format!("    notify_{turn} \"/usr/bin/cascina-router turn\""));
    }
    lines.push("}".to_owned());
    lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect()
}

fn block(name: &str, lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let lines = lines.into_iter().map(|line| format!("        {line}"));
    std::iter::once(format!("    {name} {{")).chain(lines).chain(["    }".to_owned()]).collect()
}
