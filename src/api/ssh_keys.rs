//! The form of a list of public SSH keys.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A key in OpenSSH's one-line form, without options before it. Where a type has one length, a cut shows; RSA's has not.
const KEY: &str = concat!(
    r"^(ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI[A-Za-z0-9+/]{43}",
    r"|ssh-rsa AAAAB3NzaC1yc2EA([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    r"|ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABB[A-Za-z0-9+/]{87}=",
    r"|ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABh[A-Za-z0-9+/]{130}==",
    r"|ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACF[A-Za-z0-9+/]{178}==",
    r"|sk-ssh-ed25519@openssh[.]com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAI[A-Za-z0-9+/]{50,}={0,2}",
    r"|sk-ecdsa-sha2-nistp256@openssh[.]com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20A[A-Za-z0-9+/]{100,}={0,2})",
    r"( [^\x00-\x1f\x7f]*)?$",
);

/// How keys begin: with their type, which their base64 repeats.
const BEGINNINGS: [&str; 7] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI",
    "ssh-rsa AAAAB3NzaC1yc2EA",
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYA",
    "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQA",
    "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEA",
    "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t",
    "sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20A",
];

/// What is said of a certificate.
const NO_CERTIFICATES: &str =
    "certificates aren't taken: give the key that it was made for, the .pub file without -cert in its name";

/// What is said of what doesn't begin as a key does.
const NO_KEY: &str = "each key is one line of a .pub file, whole and without options before it; its type is ssh-ed25519, \
     ssh-rsa, ecdsa-sha2-nistp256, -384, -521, sk-ssh-ed25519@openssh.com or sk-ecdsa-sha2-nistp256@openssh.com, and its \
     base64 is of that type";

/// A list of keys, as it stands in the schema of each kind that has one. The pattern is exact, and the rules have words.
pub fn ssh_keys(_: &mut SchemaGenerator) -> Schema {
    let certificate = "self.contains('-cert-v01@')";
    let begins: Vec<_> = BEGINNINGS.iter().map(|beginning| format!("self.startsWith('{beginning}')")).collect();
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {
            "type": "string",
            "maxLength": 4096,
            "pattern": KEY,
            "x-kubernetes-validations": [
                {"rule": format!("!{certificate}"), "message": NO_CERTIFICATES},
                {"rule": format!("{certificate} || {}", begins.join(" || ")), "message": NO_KEY},
            ],
        },
    })
}
