//! The guest that proves a host's isolation: here it always does, since no frames are simulated.

use cascina::libvirt::{GuestCommand, GuestOutput};
use serde_json::json;

/// What it tries, and whether honest frames arrive with it.
const CHECKS: [(&str, bool); 9] = [
    ("good", true),
    ("cross-farm-unicast", false),
    ("cross-farm-broadcast", false),
    ("mac-spoof", false),
    ("ip-spoof", false),
    ("arp-claim", false),
    ("vlan-tag", false),
    ("steal-by-frame", true),
    ("steal-by-link-local", true),
];

/// What `cascina-canary` answers.
pub fn report(command: &GuestCommand) -> GuestOutput {
    assert_eq!(command.program, "cascina-canary", "a canary has no other program for the operator");
    let check = |(name, arrives): (&str, bool)| json!({"name": name, "sent": 3, "arrived": if arrives { 3 } else { 0 }, "strayed": 0});
    let report = json!({"nonce": command.arguments[1], "checks": CHECKS.map(check)});
    GuestOutput { exit_code: Some(0), output: report.to_string().into_bytes(), errors: Vec::new() }
}
