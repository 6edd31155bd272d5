//! Rules about names that get into the files of other programs.

use kube::core::Rule;

use crate::network::{NUMBERS, TAKEN, is_number};

/// What readers of YAML 1.1, cloud-init's among them, take for a truth value or a date.
const MISREAD: &str = "yes|no|on|off|[0-9]{4}-[0-9]{2}-[0-9]{2}";

/// Domains that resolvers keep to themselves: RFC 6761 (invalid, localhost), RFC 6762 (local), RFC 7686 (onion), RFC 3172
/// (arpa).
const KEPT: &str = "arpa|invalid|local|localhost|onion";

/// A name that the farm's zone can give, told with this field. What has another one already keeps it: a rule that it doesn't
/// pass would hold up its deletion.
pub(super) fn zone_name(name: &str, field: &str) -> Rule {
    let taken: Vec<_> = TAKEN.iter().map(|(word, _)| format!("'{word}'")).collect();
    let meant = format!("{name} in [{}] || {name}.matches('^({NUMBERS}|{MISREAD})$')", taken.join(", "));
    let message = format!(
        "{field}: to others it is an address, a date, a truth value, or the name of somebody whom every network has, such as \
         gateway or localhost; take another"
    );
    let rule = Rule::new(format!("oldSelf.hasValue() || !({meant})")).message(message.as_str());
    Rule { optional_old_self: Some(true), ..rule }
}

/// Whether resolvers ask nobody about a domain.
pub(super) fn is_kept(domain: &str) -> bool {
    let last = domain.rsplit('.').next().unwrap_or_default();
    is_number(last) || KEPT.split('|').any(|kept| kept == last)
}

/// A domain that a farm's zone can have.
pub(super) fn zone() -> Rule {
    Rule::new(format!("!self.matches('(^|[.])({NUMBERS}|{KEPT})$')")).message(
        "resolvers ask nobody about a domain that ends so (they read an address, or it is local to them); take another",
    )
}
