//! The guest of a router as far as it is told what to do: it takes pieces of a bundle and works by its files until it is
//! switched off.

use std::collections::BTreeMap;

use cascina::libvirt::{GuestCommand, GuestOutput};
use serde::Deserialize;
use serde_json::{Value, json};

/// What a router's guest knows.
#[derive(Clone, Debug, Default)]
pub struct RouterGuest {
    bundle: Vec<u8>,
    documents: BTreeMap<String, String>,
    /// The hash of the files that it works by.
    pub hash: String,
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
    /// What `cascina-router` answers.
    pub fn run(&mut self, command: &GuestCommand) -> GuestOutput {
        assert_eq!(command.program, "cascina-router", "a router has no other program for the operator");
        let arguments: Vec<_> = command.arguments.iter().map(String::as_str).collect();
        match arguments[..] {
            ["state"] => said(&json!({"hash": self.hash, "documents": self.documents})),
            ["count", "0"] => said(&json!({"connections": 1, "mostConnections": 100})),
            ["take", place] => self.take(place.parse().unwrap(), &command.input),
            ["apply"] => self.apply(),
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

    fn apply(&mut self) -> GuestOutput {
        let bundle: Bundle = serde_json::from_slice(&self.bundle).expect("a whole bundle");
        let lacks = |(name, document): &(&String, &Document)| {
            document.content.is_none() && self.documents.get(*name) != Some(&document.hash)
        };
        let missing: Vec<_> = bundle.documents.iter().filter(lacks).map(|(name, _)| name.clone()).collect();
        if missing.is_empty() {
            self.documents = bundle.documents.into_iter().map(|(name, document)| (name, document.hash)).collect();
            self.hash = bundle.hash;
        }
        said(&json!({"hash": self.hash, "missing": missing}))
    }
}

fn said(answer: &Value) -> GuestOutput {
    GuestOutput { exit_code: Some(0), output: answer.to_string().into_bytes(), errors: Vec::new() }
}
