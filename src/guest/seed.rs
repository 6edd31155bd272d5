//! The NoCloud seed: a volume labelled `CIDATA` with the files that cloud-init reads.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Guest, GuestError, UserDataText, cloud_config, user_data, vfat};

/// The way documents are laid out in an image. Another one makes other images of the same documents: another number.
const LAYOUT: u64 = 1;

/// What a guest is told, and the hash of that.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    /// Names of files and what they hold.
    documents: [(&'static str, String); 4],
    /// Their hash; another hash is another volume.
    pub hash: SeedHash,
}

impl Seed {
    /// The image, byte for byte what the volume holds. It is a mebibyte, so it is made when it is written and not kept.
    ///
    /// # Errors
    /// What the file system says; the documents were made to fit.
    pub fn image(&self) -> Result<Vec<u8>, GuestError> {
        let files = self.documents.each_ref().map(|(name, content)| (*name, content.as_bytes()));
        vfat::image(&files).map_err(|error| GuestError::Encoding { file: "image", message: error.to_string() })
    }
}

/// Twelve hexadecimal digits that stand for the content of a seed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeedHash(String);

impl SeedHash {
    fn of(documents: &[(&str, String)]) -> Self {
        let mut hash = Sha256::new();
        hash.update(LAYOUT.to_be_bytes());
        for (name, content) in documents {
            for part in [name.as_bytes(), content.as_bytes()] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        Self(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SeedHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Seed").field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// The name of a machine's seed volume.
#[must_use]
pub fn seed_volume(uid: Uuid, hash: &SeedHash) -> String {
    format!("{}-seed-{hash}.img", uid.hyphenated())
}

/// Makes the seed of a guest. The same guest gives the same bytes.
///
/// # Errors
/// When there are more keys than fit.
pub fn seed(guest: &Guest) -> Result<Seed, GuestError> {
    let user_data = guest.user_data.as_ref().map_or("", UserDataText::as_str);
    let documents = [
        ("meta-data", cloud_config::meta_data(guest)?),
        ("user-data", if user_data.is_empty() { user_data::NOTHING } else { user_data }.to_owned()),
        ("vendor-data", cloud_config::vendor_data(guest)?),
        ("network-config", cloud_config::network_config(guest)?),
    ];
    let actual = documents.iter().map(|(_, content)| content.len()).sum();
    if actual > vfat::CAPACITY {
        return Err(GuestError::SeedTooLarge { limit: vfat::CAPACITY, actual });
    }
    Ok(Seed { hash: SeedHash::of(&documents), documents })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::guest::fuzz::file;
    use crate::guest::parse_ssh_keys;
    use crate::guest::sample::guest;
    use proptest::prelude::*;

    fn available(tool: &str) -> bool {
        Command::new(tool).arg("--version").output().is_ok()
    }

    #[test]
    fn the_same_guest_gives_the_same_bytes() {
        let first = seed(&guest()).unwrap();
        let image = first.image().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let second = seed(&guest()).unwrap();
        assert_eq!((&first, &image), (&second, &second.image().unwrap()));
        // A change of this value gives every machine of a site a new seed: let it not happen by accident.
        assert_eq!(first.hash.as_str(), "e1fed05c9707");
        // Another image of the same documents asks for another LAYOUT.
        let digest: String = Sha256::digest(&image).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((LAYOUT, digest.as_str()), (1, "3ef19e844c66"));
        let name = seed_volume(guest().instance_id, &first.hash);
        assert_eq!(name, "6f0c6a5e-0000-4000-8000-00000000000a-seed-e1fed05c9707.img");
    }

    #[test]
    fn another_guest_gives_another_hash() {
        let mut other = guest();
        other.user_data = Some(UserDataText::parse(b"#!/bin/sh\n").unwrap());
        assert_ne!(seed(&guest()).unwrap().hash, seed(&other).unwrap().hash);
    }

    #[test]
    fn nothing_given_is_an_empty_cloud_config() {
        assert_eq!(file(&seed(&guest()).unwrap().image().unwrap(), "user-data"), b"#cloud-config\n{}\n");
    }

    #[test]
    fn all_that_the_api_admits_fits_and_more_is_refused() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
        let longest = [key, &"c".repeat(4095 - key.len())].join(" ");
        let mut guest = guest();
        guest.user_data = Some(UserDataText::parse(&vec![b'#'; UserDataText::LIMIT]).unwrap());
        guest.ssh_keys = parse_ssh_keys("sshKeys", &vec![longest.clone(); 128]).unwrap();
        let image = seed(&guest).unwrap().image().unwrap();
        assert_eq!(file(&image, "user-data").len(), UserDataText::LIMIT);
        guest.ssh_keys = parse_ssh_keys("sshKeys", &vec![longest; 400]).unwrap();
        let message = seed(&guest).unwrap_err().to_string();
        assert!(message.contains("fewer SSH keys"), "{message}");
    }

    #[test]
    fn other_tools_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.img");
        let made = seed(&guest()).unwrap().image().unwrap();
        std::fs::write(&path, &made).unwrap();
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        if available("blkid") {
            let told = String::from_utf8(run(Command::new("blkid").args(["-p", "-o", "export"]).arg(&path))).unwrap();
            assert!(told.contains("\nLABEL=CIDATA\n"), "{told}");
            assert!(told.contains("\nTYPE=vfat\n"), "{told}");
        }
        if available("mcopy") {
            for name in ["meta-data", "user-data", "vendor-data", "network-config"] {
                let source = ["::", name].concat();
                let told = run(Command::new("mcopy").arg("-i").arg(&path).args([source.as_str(), "-"]));
                assert_eq!(told, file(&made, name), "{name}");
            }
        }
        if available("fsck.vfat") {
            run(Command::new("fsck.vfat").arg("-n").arg(&path));
        }
        // Mounting needs privileges that not every machine gives; where they are there, the kernel's word counts.
        let target = folder.path().join("mounted");
        std::fs::create_dir(&target).unwrap();
        let mounted = Command::new("mount").args(["-t", "vfat", "-o", "loop,ro"]).arg(&path).arg(&target).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            let content = std::fs::read(target.join("network-config"));
            run(Command::new("umount").arg(&target));
            assert_eq!(content.unwrap(), file(&made, "network-config"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn user_data_goes_through_byte_for_byte(text in "[^\0]{1,400}") {
            let mut guest = guest();
            guest.user_data = Some(UserDataText::parse(text.as_bytes()).unwrap());
            let made = seed(&guest).unwrap().image().unwrap();
            prop_assert_eq!(file(&made, "user-data"), text.as_bytes());
            let untouched = seed(&crate::guest::sample::guest()).unwrap().image().unwrap();
            for name in ["meta-data", "vendor-data", "network-config"] {
                prop_assert_eq!(file(&made, name), file(&untouched, name));
            }
        }
    }
}
