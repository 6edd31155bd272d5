//! The router's image in QEMU, told what to do as its controller does.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cascina::network::MacAddress;
use cascina::network::router::{Router, pieces};
use serde_json::{Value, json};

use crate::emulated::{Emulated, WITHIN};

/// How long it took to tell a router what to do.
#[derive(Clone, Copy)]
pub struct Took {
    /// Handing over the files that changed.
    pub push: Duration,
    /// Checking them and putting them in force.
    pub apply: Duration,
}

impl fmt::Display for Took {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.2} | {:.2}", self.push.as_secs_f64(), self.apply.as_secs_f64())
    }
}

/// A router that runs.
pub struct Appliance {
    guest: Emulated,
    /// The files that it was handed last.
    known: Mutex<BTreeMap<String, String>>,
}

impl Appliance {
    /// Boots one in a network namespace, with cards on these devices there, and waits for its agent.
    pub fn boot(state: &Path, namespace: &str, cards: &[(String, MacAddress)]) -> Self {
        Self { guest: Emulated::boot(state, "router", namespace, cards), known: Mutex::default() }
    }

    /// What is in force and what was counted.
    pub fn status(&self) -> Value {
        let mut state: Value = serde_json::from_str(&self.run("cascina-router", &["state"], b"")).unwrap();
        let counts: Value = serde_json::from_str(&self.run("cascina-router", &["count", "0"], b"")).unwrap();
        state.as_object_mut().unwrap().extend(counts.as_object().unwrap().clone());
        state
    }

    /// Hands over what changed; its answer, and how long handing over and putting in force took.
    pub fn hand(&self, router: &Router) -> (Value, Took) {
        let documents = router.documents();
        let bundle = documents.bundle(&self.known.lock().unwrap());
        let begin = Instant::now();
        for (place, piece) in pieces(&bundle) {
            self.run("cascina-router", &["take", &place.to_string()], piece);
        }
        let push = begin.elapsed();
        let answer = self.run("cascina-router", &["apply"], b"");
        let took = Took { push, apply: begin.elapsed().saturating_sub(push) };
        let hashes = documents.hashes().into_iter().map(|(name, hash)| (name.file().to_owned(), hash.to_string()));
        *self.known.lock().unwrap() = hashes.collect();
        (serde_json::from_str(&answer).unwrap(), took)
    }

    /// The same, and it has to be in force then; until then names are served too.
    pub fn works_by(&self, router: &Router) -> Took {
        let (answer, took) = self.hand(router);
        assert_eq!(answer, json!({"hash": router.documents().hash().to_string()}));
        let end = Instant::now() + WITHIN;
        while self.status()["serves"] != true {
            assert!(Instant::now() < end, "names aren't served");
        }
        took
    }

    /// Packets that a counter counted.
    pub fn counted(&self, counter: &str) -> u64 {
        self.status()["counters"][counter][0].as_u64().unwrap_or_default()
    }
}

impl Deref for Appliance {
    type Target = Emulated;

    fn deref(&self) -> &Emulated {
        &self.guest
    }
}
