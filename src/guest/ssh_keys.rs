//! Public SSH keys, read before they are written anywhere.

use std::fmt;

use ssh_key::PublicKey;
use ssh_key::public::KeyData;

use crate::text::is_hidden;

/// The longest line that is read; RSA keys of 16384 bits are shorter.
const LONGEST: usize = 4096;

/// What the names of all types of certificates have in them.
const CERTIFICATE: &str = "-cert-v01@";

/// A list of keys, read: one that isn't any doesn't keep the others from being used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshKeys {
    /// Those that are keys, in their order.
    pub good: Vec<PublicKey>,
    /// Those that aren't.
    pub bad: Vec<BadSshKey>,
}

impl SshKeys {
    /// These keys and then others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.good.extend(others.good);
        self.bad.extend(others.bad);
        self
    }
}

/// A key that isn't one. The key itself is not repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSshKey {
    /// The list's place in its object.
    field: String,
    /// Which of the list, from 0.
    index: usize,
    /// What is wrong with it.
    problem: &'static str,
}

impl fmt::Display for BadSshKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}[{}]: {}", self.field, self.index, self.problem)
    }
}

/// Reads a list of keys in OpenSSH's one-line form. `field` is the list's place in the object, such as `spec.sshKeys`.
#[must_use]
pub fn read_ssh_keys(field: &str, keys: &[String]) -> SshKeys {
    let mut read = SshKeys::default();
    for (index, key) in keys.iter().enumerate() {
        match parse(key) {
            Ok(key) => read.good.push(key),
            Err(problem) => read.bad.push(BadSshKey { field: field.to_owned(), index, problem }),
        }
    }
    read
}

fn parse(line: &str) -> Result<PublicKey, &'static str> {
    let line = line.trim_matches([' ', '\n']);
    if line.is_empty() {
        return Err("empty");
    }
    if line.len() > LONGEST {
        return Err("longer than 4096 characters");
    }
    if line.contains("PRIVATE KEY") {
        return Err("looks like a private key: replace that key, then give the public one (the .pub file)");
    }
    if line.contains(is_hidden) {
        return Err("contains a line break or another control character: give one key in one line");
    }
    if line.split(' ').next().is_some_and(|kind| kind.contains(CERTIFICATE)) {
        return Err("a certificate, and certificates aren't taken: give the key that it was made for");
    }
    let key = PublicKey::from_openssh(line).map_err(|_| {
        "not an OpenSSH public key, or cut: expected `<type> <base64> [comment]`, whole and without options before it"
    })?;
    match key.key_data() {
        KeyData::Other(_) => Err("of a type that isn't known: use ed25519, ecdsa, rsa or their sk- forms"),
        _ => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn read(key: &str) -> SshKeys {
        read_ssh_keys("spec.sshKeys", &[KEY.to_owned(), key.to_owned()])
    }

    #[test]
    fn keys_are_read_with_their_comments() {
        let keys = read(&[KEY, "ann@lab, the second"].join(" "));
        assert_eq!(keys.good[1].comment(), "ann@lab, the second");
        assert_eq!(read(&[KEY, "\n"].concat()).bad, []);
    }

    #[test]
    fn a_bad_key_is_named_by_place_and_not_repeated_and_the_others_are_used() {
        let changed_type = KEY.replace("ssh-ed25519", "ssh-rsa");
        let long = [KEY, &"x".repeat(5000)].join(" ");
        for bad in [
            "",
            "secret",
            "ssh-ed25519 secret",
            changed_type.as_str(),
            &KEY[..KEY.len() - 4],
            &[KEY, "a\nruncmd: [secret]"].join(" "),
            &[KEY, "a\u{2028}secret"].join(" "),
            &["command=\"secret\"", KEY].join(" "),
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            long.as_str(),
        ] {
            let keys = read(bad);
            assert_eq!(keys.good.len(), 1, "{bad}");
            let message = keys.bad[0].to_string();
            assert!(message.starts_with("spec.sshKeys[1]: "), "{message}");
            assert!(!message.contains("secret") && !message.contains("AAAA"), "{message}");
        }
    }

    #[test]
    fn a_certificate_is_called_one() {
        let certificate = KEY.replace("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com");
        let message = read(&certificate).bad[0].to_string();
        assert!(message.contains("certificates aren't taken"), "{message}");
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC{0,200}", comment in ".{0,40}") {
            let _ = read(&text);
            let _ = read(&[KEY, &comment].join(" "));
        }
    }
}
