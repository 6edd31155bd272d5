//! The guest of a router as far as it is told what to do: it takes pieces of a bundle and works by its files until it is
//! switched off.

use std::collections::BTreeMap;

use cascina::libvirt::{GuestCommand, GuestOutput};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::world::{World, is_active};

/// What a router's guest knows.
#[derive(Clone, Debug, Default)]
pub struct RouterGuest {
    bundle: Vec<u8>,
    documents: BTreeMap<String, String>,
    /// The hash of the files that it works by.
    pub hash: String,
    /// Whether it is its turn; `None`: it is alone, or was told nothing.
    pub leads: Option<bool>,
}

#[derive(Deserialize)]
struct Bundle {
    hash: String,
    documents: BTreeMap<String, Document>,
}

#[derive(Deserialize)]
struct Document {
    hash: String,
    content: Option<String>,
}

impl RouterGuest {
    /// What `cascina-router` answers in a guest with these cards.
    pub fn run(&mut self, command: &GuestCommand, cards: &[String]) -> GuestOutput {
        assert_eq!(command.program, "cascina-router", "a router has no other program for the operator");
        let arguments: Vec<_> = command.arguments.iter().map(String::as_str).collect();
        match arguments[..] {
            ["state"] => said(&json!({"hash": self.hash, "leads": self.leads, "documents": self.documents})),
            ["count", "0"] => said(&json!({"connections": 1, "mostConnections": 100})),
            ["take", place] => self.take(place.parse().unwrap(), &command.input),
            ["apply"] => self.apply(cards),
            _ => panic!("cascina-router doesn't know {arguments:?}"),
        }
    }

    fn take(&mut self, place: usize, piece: &[u8]) -> GuestOutput {
        if place > self.bundle.len() {
            return GuestOutput { exit_code: Some(1), ..GuestOutput::default() };
        }
        self.bundle.truncate(place);
        self.bundle.extend(piece);
        GuestOutput { exit_code: Some(0), ..GuestOutput::default() }
    }

    fn apply(&mut self, cards: &[String]) -> GuestOutput {
        let bundle: Bundle = serde_json::from_slice(&self.bundle).expect("a whole bundle");
        let lacks = |(name, document): &(&String, &Document)| {
            document.content.is_none() && self.documents.get(*name) != Some(&document.hash)
        };
        let interfaces = bundle.documents.get("interfaces.json").and_then(|document| document.content.as_ref());
        if let Some(interfaces) = interfaces.map(|content| serde_json::from_str::<Value>(content).unwrap()) {
            let is_there = |card: &Value| {
                let own = card["cards"].as_array().into_iter().flatten();
                card.is_null()
                    || own.filter_map(|own| own["mac"].as_str()).any(|mac| cards.iter().any(|card| card == mac))
            };
            // A real one has replaced its wall by then, and finds no card behind it.
            assert!(["farm", "public"].iter().all(|name| is_there(&interfaces[*name])), "{cards:?}, not {interfaces}");
        }
        // Empty for one that is alone.
        if let Some(turns) = bundle.documents.get("keepalived.conf").and_then(|document| document.content.as_ref()) {
            self.leads = (!turns.is_empty()).then_some(self.leads == Some(true));
        }
        let missing: Vec<_> = bundle.documents.iter().filter(lacks).map(|(name, _)| name.clone()).collect();
        if missing.is_empty() {
            self.documents = bundle.documents.into_iter().map(|(name, document)| (name, document.hash)).collect();
            self.hash = bundle.hash;
        }
        said(&json!({"hash": self.hash, "leads": self.leads, "missing": missing}))
    }
}

impl World {
    /// Of a farm's two routers that run and were told what to do one has its turn: the one that has it, else any. As between
    /// real ones the operator has no part in that.
    pub fn routers_agree(&mut self) {
        let mut farms: BTreeMap<String, Vec<&mut RouterGuest>> = BTreeMap::new();
        let mut doubles = Vec::new();
        let domains = self.hosts.values_mut().filter(|host| host.powered).flat_map(|host| host.domains.values_mut());
        for domain in domains.filter(|domain| is_active(domain.run) && !domain.router.hash.is_empty()) {
            let farm = domain.spec.title.rsplit_once("-router-").map_or(&*domain.spec.title, |(farm, _)| farm);
            farms.entry(farm.to_owned()).or_default().push(&mut domain.router);
        }
        for (farm, mut routers) in farms {
            if !routers.iter().any(|router| router.leads != Some(false)) {
                routers[0].leads = Some(true);
            }
            let gateways = routers.iter().filter(|router| router.leads != Some(false)).count();
            doubles.extend((gateways > 1).then(|| format!("{gateways} routers of {farm} have the gateway's address")));
        }
        doubles.into_iter().for_each(|double| self.violated(double));
    }
}

fn said(answer: &Value) -> GuestOutput {
    GuestOutput { exit_code: Some(0), output: answer.to_string().into_bytes(), errors: Vec::new() }
}
