//! What is fuzzed: one function for each place where text or bytes of others are read or written. A function panics if
//! its law doesn't hold. `make test` runs each on its corpus and on some changed inputs of it, `make fuzz` hands each to
//! a fuzzer that watches which code runs.

use std::borrow::Cow;

use crate::api::Bytes;
use crate::api::site::Site;
use crate::{guest, images, libvirt};

/// One thing to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus below `fuzz/corpus`.
    pub name: &'static str,
    /// Panics if an input breaks the law.
    pub run: fn(&[u8]),
}

/// All that is fuzzed.
pub const TARGETS: [Target; 8] = [
    Target { name: "agent-answers", run: libvirt::fuzz::agent_answers },
    Target { name: "disk-header", run: images::fuzz::disk },
    Target { name: "domain-xml", run: libvirt::fuzz::domain },
    Target { name: "host-answers", run: libvirt::fuzz::host_answers },
    Target { name: "image-source", run: images::fuzz::source },
    Target { name: "seed", run: guest::fuzz::names_and_keys },
    Target { name: "site", run: site },
    Target { name: "user-data", run: guest::fuzz::user_data },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// An input as several texts: what separates them is no part of any text in UTF-8.
pub(crate) fn texts(data: &[u8]) -> impl Iterator<Item = Cow<'_, str>> {
    data.split(|byte| *byte == 0xff).map(String::from_utf8_lossy)
}

/// The site's configuration is refused, or written and read back it is the same. Sizes never overflow.
fn site(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(size) = text.parse::<Bytes>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
    if let Ok(site) = Site::parse(&text) {
        let written = serde_yaml::to_string(&site).unwrap();
        assert_eq!(Site::parse(&written).unwrap(), site);
    }
}

#[cfg(test)]
mod tests;
