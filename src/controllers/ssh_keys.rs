//! What is told of SSH keys that aren't any, on the object that has them and on those that are made from it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::conditions::{State, find};
use crate::guest::BadSshKey;

/// Condition of a farm or a machine with a key that isn't one; without such a key it isn't there.
pub const SSH_KEYS_VALID: &str = "SshKeysValid";

/// Why a key isn't used.
pub const INVALID_SSH_KEY: &str = "InvalidSshKey";

/// The condition, if there is a bad key.
#[must_use]
pub fn ssh_keys_valid(bad: &[BadSshKey]) -> Option<State> {
    let told: Vec<_> = bad.iter().map(ToString::to_string).collect();
    (!told.is_empty())
        .then(|| State::no(SSH_KEYS_VALID, INVALID_SSH_KEY, format!("{}; the others are used", told.join("; "))))
}

/// What a person should hear of: keys that weren't bad before.
#[must_use]
pub fn news<'a>(before: &[Condition], after: &'a [Condition]) -> Option<&'a str> {
    let told = |conditions| find(conditions, SSH_KEYS_VALID).map(|condition| condition.message.as_str());
    find(after, SSH_KEYS_VALID)
        .map(|condition| condition.message.as_str())
        .filter(|message| told(before) != Some(*message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::stamp;
    use crate::guest::read_ssh_keys;
    use jiff::Timestamp;

    #[test]
    fn a_bad_key_is_told_once_and_again_when_another_is() {
        let told = |keys: &[&str]| {
            let keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
            let state = ssh_keys_valid(&read_ssh_keys("spec.sshKeys", &keys).bad);
            stamp(state.into_iter().collect(), &[], None, Timestamp::UNIX_EPOCH)
        };
        let (none, one, two) = (told(&[]), told(&["ssh-rsa AAAA"]), told(&["ssh-rsa AAAA", "ssh-rsa AAAA"]));
        assert_eq!(none, []);
        assert!(news(&none, &one).unwrap().starts_with("spec.sshKeys[0]: "), "{one:?}");
        assert_eq!(news(&one, &one), None);
        assert!(news(&one, &two).is_some());
        assert_eq!(news(&two, &none), None);
    }
}
