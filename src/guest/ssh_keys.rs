//! Public SSH keys, read before they are written anywhere.

use ssh_key::PublicKey;
use ssh_key::public::KeyData;

use super::GuestError;
use crate::text::is_hidden;

/// The longest line that is read; RSA keys of 16384 bits are shorter.
const LONGEST: usize = 4096;

/// Reads a list of keys in OpenSSH's one-line form. `field` is the list's place in the object, such as `spec.sshKeys`.
///
/// # Errors
/// Names the field, the index and what is wrong; never repeats the key.
pub fn parse_ssh_keys(field: &str, keys: &[String]) -> Result<Vec<PublicKey>, GuestError> {
    let read = |(index, key): (usize, &String)| {
        parse(key).map_err(|problem| GuestError::SshKey { field: field.to_owned(), index, problem })
    };
    keys.iter().enumerate().map(read).collect()
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
    let key = PublicKey::from_openssh(line)
        .map_err(|_| "not an OpenSSH public key: expected `<type> <base64> [comment]`, without options before it")?;
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

    fn read(key: &str) -> Result<Vec<PublicKey>, GuestError> {
        parse_ssh_keys("spec.sshKeys", &[KEY.to_owned(), key.to_owned()])
    }

    #[test]
    fn keys_are_read_with_their_comments() {
        let keys = read(&[KEY, "ann@lab, the second"].join(" ")).unwrap();
        assert_eq!(keys[1].comment(), "ann@lab, the second");
        assert!(read(&[KEY, "\n"].concat()).is_ok());
    }

    #[test]
    fn a_bad_key_is_named_by_place_and_not_repeated() {
        let changed_type = KEY.replace("ssh-ed25519", "ssh-rsa");
        let long = [KEY, &"x".repeat(5000)].join(" ");
        for bad in [
            "",
            "secret",
            "ssh-ed25519 secret",
            changed_type.as_str(),
            &[KEY, "a\nruncmd: [secret]"].join(" "),
            &[KEY, "a\u{2028}secret"].join(" "),
            &["command=\"secret\"", KEY].join(" "),
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            long.as_str(),
        ] {
            let message = read(bad).unwrap_err().to_string();
            assert!(message.starts_with("spec.sshKeys[1]: "), "{message}");
            assert!(!message.contains("secret") && !message.contains("AAAA"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC{0,200}", comment in ".{0,40}") {
            let _ = read(&text);
            let _ = read(&[KEY, &comment].join(" "));
        }
    }
}
