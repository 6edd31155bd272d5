//! The NoCloud seed: a volume labelled `CIDATA` with the files that cloud-init reads.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Guest, GuestError, UserDataText, cloud_config, user_data, vendor_data, vfat};

/// The way documents are laid out in an image. Another one makes other images of the same documents: another number.
const LAYOUT: u64 = 1;

/// How a seed says what it says. A guest that runs has the seed that it was started with, so what it would be told is
/// compared in the form in which it was told; each start is in the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedForm {
    /// Keys are vendor-data, and a guest takes keys and network at its first boot only.
    First,
    /// Keys are meta-data; keys and network are taken at each boot.
    EachBoot,
}

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

/// Hexadecimal digits that stand for the content of a seed: twelve for all of it in the first form, ten for each document
/// since then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeedHash(String);

/// Digits of a document's hash.
const DIGITS: usize = 10;

impl SeedHash {
    fn of(documents: &[(&str, String); 4], form: SeedForm) -> Self {
        Self(match form {
            SeedForm::First => digits(documents, 12),
            SeedForm::EachBoot => documents.chunks(1).map(|document| digits(document, DIGITS)).collect(),
        })
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

fn digits(documents: &[(&str, String)], count: usize) -> String {
    let mut hash = Sha256::new();
    hash.update(LAYOUT.to_be_bytes());
    for (name, content) in documents {
        for part in [name.as_bytes(), content.as_bytes()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hash.finalize().iter().take(count / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// What a guest is told by its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its keys.
    Keys,
    /// Its user-data.
    UserData,
    /// Its domain.
    Domain,
    /// Its gateway, DNS servers or domain.
    Network,
}

/// What a guest is told anew by the second of two seeds, by the names of their volumes; nothing where those don't tell,
/// because one is of the first form.
#[must_use]
pub fn told_anew(before: &str, after: &str) -> Vec<Told> {
    let (Some(before), Some(after)) = (hashes(before), hashes(after)) else { return Vec::new() };
    let told = [Told::Keys, Told::UserData, Told::Domain, Told::Network].into_iter().zip(before.iter().zip(&after));
    let mut anew: Vec<_> = told.filter(|(_, (before, after))| before != after).map(|(told, _)| told).collect();
    // The vendor-data has the keys too, and the network the domain.
    if anew.contains(&Told::Keys) || anew.contains(&Told::Network) {
        anew.retain(|told| *told != Told::Domain);
    }
    anew
}

/// The hashes of the documents of a seed, by the name of its volume.
fn hashes(volume: &str) -> Option<[&str; 4]> {
    let (_, hash) = volume.strip_suffix(".img")?.split_once("-seed-")?;
    let of = |index: usize| hash.get(index * DIGITS..(index + 1) * DIGITS);
    let hashes = [of(0)?, of(1)?, of(2)?, of(3)?];
    (hash.len() == 4 * DIGITS).then_some(hashes)
}

/// The name of a machine's seed volume.
#[must_use]
pub fn seed_volume(uid: Uuid, hash: &SeedHash) -> String {
    format!("{}-seed-{hash}.img", uid.hyphenated())
}

/// Makes the seed of a guest. The same guest gives the same bytes in the same form.
///
/// # Errors
/// When there are more keys than fit.
pub fn seed(guest: &Guest, form: SeedForm) -> Result<Seed, GuestError> {
    let (meta_data, vendor_data) = match form {
        SeedForm::First => (cloud_config::first_meta_data(guest)?, vendor_data::first_vendor_data(guest)?),
        SeedForm::EachBoot => (cloud_config::meta_data(guest)?, vendor_data::vendor_data(guest)?),
    };
    let user_data = guest.user_data.as_ref().map_or("", UserDataText::as_str);
    let documents = [
        ("meta-data", meta_data),
        ("user-data", if user_data.is_empty() { user_data::NOTHING } else { user_data }.to_owned()),
        ("vendor-data", vendor_data),
        ("network-config", cloud_config::network_config(guest)?),
    ];
    let actual = documents.iter().map(|(_, content)| content.len()).sum();
    if actual > vfat::CAPACITY {
        return Err(GuestError::SeedTooLarge { limit: vfat::CAPACITY, actual });
    }
    Ok(Seed { hash: SeedHash::of(&documents, form), documents })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::guest::SeedForm::{EachBoot, First};
    use crate::guest::fuzz::file;
    use crate::guest::read_ssh_keys;
    use crate::guest::sample::guest;
    use proptest::prelude::*;

    fn available(tool: &str) -> bool {
        Command::new(tool).arg("--version").output().is_ok()
    }

    #[test]
    fn the_same_guest_gives_the_same_bytes() {
        for form in [First, EachBoot] {
            let made = seed(&guest(), form).unwrap();
            let image = made.image().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
            let again = seed(&guest(), form).unwrap();
            assert_eq!((&made, &image), (&again, &again.image().unwrap()));
            // A change of one of these values asks for a restart of every machine of a site that runs: what its seed says in
            // another way belongs into another form. Another image of the same documents asks for another LAYOUT.
            let digest: String = Sha256::digest(&image).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
            let golden = match form {
                First => (1, "e1fed05c9707", "3ef19e844c66"),
                EachBoot => (1, "02623af7268409d3626e9ff5b2649c37f88911e4", "b98d305ce136"),
            };
            assert_eq!((LAYOUT, made.hash.as_str(), digest.as_str()), golden, "{form:?}");
        }
        let name = seed_volume(guest().instance_id, &seed(&guest(), First).unwrap().hash);
        assert_eq!(name, "6f0c6a5e-0000-4000-8000-00000000000a-seed-e1fed05c9707.img");
    }

    #[test]
    fn another_guest_gives_another_hash() {
        let mut other = guest();
        other.user_data = Some(UserDataText::parse(b"#!/bin/sh\n").unwrap());
        assert_ne!(seed(&guest(), EachBoot).unwrap().hash, seed(&other, EachBoot).unwrap().hash);
    }

    #[test]
    fn the_names_of_two_seeds_tell_what_is_new() {
        let before = guest();
        let name = |guest: &Guest, form| seed_volume(guest.instance_id, &seed(guest, form).unwrap().hash);
        let told = |change: &dyn Fn(&mut Guest)| {
            let mut after = guest();
            change(&mut after);
            told_anew(&name(&before, EachBoot), &name(&after, EachBoot))
        };
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti".to_owned();
        assert_eq!(told(&|_| ()), []);
        assert_eq!(told(&|guest| guest.nic.gateway = None), [Told::Network]);
        assert_eq!(told(&|guest| guest.domain = "cms.cascina.internal".parse().unwrap()), [Told::Network]);
        assert_eq!(told(&|guest| guest.user_data = UserDataText::parse(b"#!/bin/sh").ok()), [Told::UserData]);
        let keys = read_ssh_keys("", std::slice::from_ref(&key)).good;
        assert_eq!(told(&|guest| guest.ssh_keys.clone_from(&keys)), [Told::Keys]);
        assert_eq!(told_anew(&name(&before, First), &name(&before, EachBoot)), [], "nobody can tell");
    }

    #[test]
    fn nothing_given_is_an_empty_cloud_config() {
        assert_eq!(file(&seed(&guest(), EachBoot).unwrap().image().unwrap(), "user-data"), b"#cloud-config\n{}\n");
    }

    #[test]
    fn all_that_the_api_admits_fits_and_more_is_refused() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
        let longest = [key, &"c".repeat(4095 - key.len())].join(" ");
        let mut guest = guest();
        guest.user_data = Some(UserDataText::parse(&vec![b'#'; UserDataText::LIMIT]).unwrap());
        guest.ssh_keys = read_ssh_keys("sshKeys", &vec![longest.clone(); 128]).good;
        let image = seed(&guest, EachBoot).unwrap().image().unwrap();
        assert_eq!(file(&image, "user-data").len(), UserDataText::LIMIT);
        guest.ssh_keys = read_ssh_keys("sshKeys", &vec![longest; 400]).good;
        let message = seed(&guest, EachBoot).unwrap_err().to_string();
        assert!(message.contains("fewer SSH keys"), "{message}");
    }

    #[test]
    fn other_tools_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.img");
        let made = seed(&guest(), EachBoot).unwrap().image().unwrap();
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
            let made = seed(&guest, EachBoot).unwrap().image().unwrap();
            prop_assert_eq!(file(&made, "user-data"), text.as_bytes());
            let untouched = seed(&crate::guest::sample::guest(), EachBoot).unwrap().image().unwrap();
            for name in ["meta-data", "vendor-data", "network-config"] {
                prop_assert_eq!(file(&made, name), file(&untouched, name));
            }
        }
    }
}
