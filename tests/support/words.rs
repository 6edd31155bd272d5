//! Words that programs which read our files know, in `tests/words.yaml`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What one program knows.
#[derive(Deserialize)]
pub struct Reader {
    /// Which part of which document says so.
    pub source: String,
    /// Its words.
    pub words: Vec<String>,
}

/// The words of each program, by its name.
pub fn words() -> BTreeMap<String, Reader> {
    let readers: BTreeMap<String, Reader> = serde_yaml::from_str(include_str!("../words.yaml")).unwrap();
    assert!(readers.values().all(|reader| !reader.source.is_empty() && !reader.words.is_empty()));
    readers
}
