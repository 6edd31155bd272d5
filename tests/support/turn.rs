//! Whose turn it is in the box: tests of tenants run side by side, one that disturbs hosts or asserts seconds has it to itself.
//!
//! The law stands in two lock files of the box, so it holds between threads and between test programs alike. Whoever comes
//! passes the gate first and waits behind it for those who are inside; so a test that wants to be alone waits for them only,
//! and not for ever for new ones.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Who may be in the box beside a test.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Other tests of tenants.
    Others,
    /// Nobody.
    Nobody,
}

/// A test's time in the box. When it ends, how long it took is noted in the file `log/tests` of the box.
pub struct Turn {
    inside: File,
    times: PathBuf,
    test: String,
    begin: Instant,
}

/// The gate, passed; the next one comes in when this is dropped.
pub struct Gate(File);

/// Where the box keeps its state.
///
/// # Panics
///
/// Without a box: a test that needs one doesn't pass because there is none.
pub fn box_directory() -> PathBuf {
    let directory = std::env::var_os("CASCINA_BOX_DIR").map(PathBuf::from);
    directory.expect("this test needs a box: make up, then . .box/env")
}

/// Waits for a place in the box that lies here. As long as the gate isn't dropped nobody else comes in: time to see that
/// the box is whole.
pub fn turn(state: &Path, beside: Beside) -> (Gate, Turn) {
    let open = |name: &str| {
        let path = state.join("run").join(name);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let gate = open("tests.gate");
    gate.lock().unwrap();
    let inside = open("tests.inside");
    match beside {
        Beside::Others => inside.lock_shared().unwrap(),
        Beside::Nobody => inside.lock().unwrap(),
    }
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    (Gate(gate), Turn { inside, times: state.join("log/tests"), test, begin: Instant::now() })
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // One write, so that lines of tests that end together don't mix.
        let line = format!("{:5} s  {}\n", self.begin.elapsed().as_secs(), self.test);
        let file = File::options().create(true).append(true).open(&self.times);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("how long {} took can't be noted: {error}", self.test);
        }
        let _ = self.inside.unlock();
    }
}
