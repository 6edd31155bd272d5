use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// A small change of an input.
#[derive(Clone, Debug)]
enum Edit {
    Put(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
}

impl Edit {
    fn apply(&self, input: &mut Vec<u8>) {
        let place = |index: &Index| index.index(input.len() + 1);
        match self {
            Self::Put(index, byte) => {
                let place = place(index);
                input.splice(place..(place + 1).min(input.len()), [*byte]);
            }
            Self::Insert(index, bytes) => {
                let place = place(index);
                input.splice(place..place, bytes.iter().copied());
            }
            Self::Remove(index, count) => {
                let place = place(index);
                input.drain(place..(place + count).min(input.len()));
            }
            Self::Repeat(index, count) => {
                let again = input[place(index)..].iter().take(*count).copied().collect::<Vec<_>>();
                input.extend(again);
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    // What means something to one of the readers.
    let telling = prop::sample::select(vec![
        "<",
        "]]>",
        "&a;",
        "<!--",
        "\"",
        "'",
        "\n",
        "\r",
        ": ",
        "- ",
        "#",
        "&a ",
        "*a",
        "!!",
        "|",
        "---",
        "{",
        "[",
        "\0",
        "\u{202e}",
        "\u{85}",
        "\u{2028}",
        "-1",
        "1e999",
        "18446744073709551616",
        "../",
        "$(",
        "`",
        "%00",
        "@",
        "\\u0000",
    ]);
    let bytes = prop_oneof![
        telling.prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..9),
        Just(vec![0xff]),
    ];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(index, byte)| Edit::Put(index, byte)),
        (any::<Index>(), bytes).prop_map(|(index, bytes)| Edit::Insert(index, bytes)),
        (any::<Index>(), 1..40_usize).prop_map(|(index, count)| Edit::Remove(index, count)),
        (any::<Index>(), 1..200_usize).prop_map(|(index, count)| Edit::Repeat(index, count)),
    ]
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    // Asked at run time: checkouts may share what was built.
    let checkout = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let folder = Path::new(&checkout).join("fuzz/corpus").join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let corpus: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!corpus.is_empty(), "{} has nothing to begin with", folder.display());
    corpus
}

/// Runs a target on its corpus, and on so many changed inputs of it.
fn stands(name: &str, inputs: u32) {
    let Target { run, .. } = target(name).unwrap();
    let corpus = corpus(name);
    corpus.iter().for_each(|input| run(input));
    let changed = (prop::sample::select(corpus), prop::collection::vec(edit(), 1..6));
    let outcome = TestRunner::new(Config { cases: inputs, failure_persistence: None, ..Config::default() }).run(
        &changed,
        |(mut input, edits)| {
            edits.iter().for_each(|edit| edit.apply(&mut input));
            run(&input);
            Ok(())
        },
    );
    outcome.unwrap();
}

#[test]
fn agent_answers() {
    stands("agent-answers", 2000);
}

#[test]
fn disk_headers() {
    stands("disk-header", 2000);
}

#[test]
fn domains() {
    stands("domain-xml", 300);
}

#[test]
fn host_answers() {
    stands("host-answers", 2000);
}

#[test]
fn sources_of_images() {
    stands("image-source", 2000);
}

#[test]
fn seeds() {
    stands("seed", 300);
}

#[test]
fn sites() {
    stands("site", 500);
}

#[test]
fn user_data() {
    stands("user-data", 20);
}
