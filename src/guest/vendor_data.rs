//! What a farm gives to all its machines, as vendor-data: the owner's user-data wins over each of its settings.

use serde::Serialize;

use super::cloud_config::{HEADER, openssh, yaml};
use super::{Guest, GuestError};

/// The first line by which cloud-init knows a list of documents.
const ARCHIVE: &str = "#cloud-config-archive\n";

/// Runs in the guest at each of its boots. It is no setting, so user-data doesn't replace it by having one of the kind.
const BRING_KEYS: &str = include_str!("bring_keys.sh");

/// What of [`BRING_KEYS`] stands for the keys, one a line.
const KEYS: &str = "@KEYS@";

const FILE: &str = "vendor-data";

#[derive(Serialize)]
struct Settings {
    fqdn: String,
    /// `localhost`: keeps the machine's own name in /etc/hosts and leaves the rest of the file alone.
    manage_etc_hosts: &'static str,
    disable_root: bool,
    ssh_pwauth: bool,
    /// Only in seeds of the first form.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh_authorized_keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updates: Option<Updates>,
}

/// When cloud-init applies again what it is told.
#[derive(Serialize)]
struct Updates {
    network: When,
}

#[derive(Serialize)]
struct When {
    when: [&'static str; 2],
}

/// A part of an archive.
#[derive(Serialize)]
struct Part {
    r#type: &'static str,
    content: String,
}

fn settings(guest: &Guest) -> Settings {
    Settings {
        fqdn: guest.hostname.in_domain(&guest.domain),
        manage_etc_hosts: "localhost",
        disable_root: false,
        ssh_pwauth: false,
        ssh_authorized_keys: Vec::new(),
        updates: None,
    }
}

/// The program that brings these keys. Their base64 tells them apart; what people write behind it isn't in the program.
pub(super) fn with_keys(keys: &[String]) -> String {
    let base64: Vec<_> = keys.iter().filter_map(|key| key.split(' ').nth(1)).collect();
    BRING_KEYS.replace(KEYS, &base64.join("\n"))
}

/// The settings, and what brings keys to a guest that knows others.
pub(super) fn vendor_data(guest: &Guest) -> Result<String, GuestError> {
    let updates = Some(Updates { network: When { when: ["boot-new-instance", "boot"] } });
    let settings = yaml(FILE, &Settings { updates, ..settings(guest) })?;
    let script = with_keys(&openssh(FILE, guest)?);
    let parts = [
        Part { r#type: "text/cloud-config", content: settings },
        Part { r#type: "text/cloud-boothook", content: script },
    ];
    Ok([ARCHIVE, &yaml(FILE, &parts)?].concat())
}

/// As seeds of the first form have it: the keys are settings that user-data replaces.
pub(super) fn first_vendor_data(guest: &Guest) -> Result<String, GuestError> {
    let settings = Settings { ssh_authorized_keys: openssh(FILE, guest)?, ..settings(guest) };
    Ok([HEADER, &yaml(FILE, &settings)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::read_ssh_keys;
    use crate::guest::sample::guest;
    use serde_yaml::Value;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn parts(guest: &Guest) -> Vec<(String, String)> {
        let archive: Value = serde_yaml::from_str(&vendor_data(guest).unwrap()).unwrap();
        let text = |part: &Value, field| part[field].as_str().unwrap().to_owned();
        archive.as_sequence().unwrap().iter().map(|part| (text(part, "type"), text(part, "content"))).collect()
    }

    #[test]
    fn the_settings_read_as_people_expect() {
        let [(kind, settings), (hook, _)] = &parts(&guest())[..] else { panic!("two parts") };
        assert_eq!([kind, hook], ["text/cloud-config", "text/cloud-boothook"]);
        insta::assert_snapshot!(settings, @r"
        fqdn: worker-1.atlas.cascina.internal
        manage_etc_hosts: localhost
        disable_root: false
        ssh_pwauth: false
        updates:
          network:
            when:
            - boot-new-instance
            - boot
        ");
    }

    #[test]
    fn nothing_that_people_write_is_in_the_program() {
        let comments = ["", "ann@lab", "$(touch /tmp/no) `id`", "END", "@KEYS@", "ä€𝄞 # ;"];
        let lines: Vec<_> = comments.iter().map(|comment| [KEY, comment].join(" ")).collect();
        let mut guest = guest();
        guest.ssh_keys = read_ssh_keys("sshKeys", &lines).good;
        let base64 = KEY.split(' ').nth(1).unwrap();
        assert_eq!(parts(&guest)[1].1, BRING_KEYS.replace(KEYS, &[base64; 6].join("\n")));
    }

    /// The program with another place for all that it touches, and programs that do nothing for those that it calls.
    #[test]
    fn a_withdrawn_key_is_taken_out_of_every_account_but_not_from_the_user_data() {
        let keys = [KEY.to_owned(), KEY.replace("LM", "AA"), KEY.replace("LM", "BB"), KEY.replace("LM", "CC")];
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let write = |path: &str, content: &str| {
            std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            std::fs::write(at(path), content).unwrap();
        };
        let root = folder.path().to_str().unwrap();
        write("instance/sem/config_ssh", "");
        write("instance/user-data.txt", &keys[2]);
        write("passwd", &format!("root:x:0:0:root:{root}/root:/bin/sh\nann:x:1:1::{root}/ann:/bin/sh\n"));
        write("root/.ssh/authorized_keys", &keys.join("\n"));
        write("ann/.ssh/authorized_keys", &keys[1]);
        write(
            "bin/cloud-init",
            "#!/bin/sh\necho \"$@\" >>\"${0%/*}/../ran\"; cat \"$CLOUD_CFG\" >>\"${0%/*}/../ran\"\n",
        );
        std::process::Command::new("chmod").arg("+x").arg(at("bin/cloud-init")).status().unwrap();
        let boot = |keys: &[String]| {
            let program = with_keys(keys).replace("/var/lib/cloud/instance", &[root, "/instance"].concat());
            let program = program.replace("/etc/passwd", &[root, "/passwd"].concat());
            let path = [root, "/bin:", &std::env::var("PATH").unwrap()].concat();
            let booted = std::process::Command::new("sh").args(["-c", &program]).env("PATH", path).status().unwrap();
            assert!(booted.success());
            std::fs::read_to_string(at("ran")).unwrap_or_default().lines().count()
        };
        let read = |path: &str| std::fs::read_to_string(at(path)).unwrap();
        assert_eq!(boot(&keys[..3]), 3, "a guest that knows of none takes them, with two settings");
        assert_eq!(boot(&keys[..3]), 3, "and then they are the same");
        assert_eq!(boot(&keys[..1]), 6);
        assert_eq!(read("root/.ssh/authorized_keys").trim(), [&*keys[0], &keys[2], &keys[3]].join("\n"));
        assert_eq!(read("ann/.ssh/authorized_keys"), "");
        assert!(read("ran").contains("single --name ssh --frequency always\nssh_deletekeys: false\n"));
    }
}
