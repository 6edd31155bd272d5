//! Whose turn it is in a box: tests of tenants run side by side, one that disturbs hosts or asserts seconds has it to itself.
//!
//! The law stands in lock files of the box, so it holds between threads and between test programs alike. Tests of tenants say
//! at once that they come, and the others wait until all of them are through: a box that empties before each test that wants
//! to be alone would stand idle for as long as the slowest of those that run.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Who may be in the box beside a test.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Other tests of tenants.
    Others,
    /// Nobody.
    Nobody,
}

/// Between two looks whether a seat is free.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A test's time in a box. When it ends, how long it took is noted in the file `log/tests` of the box.
pub struct Turn {
    /// Where the box keeps its state.
    pub state: PathBuf,
    /// The box's name, by which its scripts know it.
    pub name: String,
    /// What the names of its namespaces and its addresses follow from.
    pub index: String,
    /// Unlocked when they are closed, also by a test that is killed.
    _locks: Vec<File>,
    test: String,
    begin: Instant,
}

impl Turn {
    /// A script of `box/` on this box; one that hangs is ended after two minutes.
    pub fn script(&self, name: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "120"]).arg(self.state.parent().unwrap().join("box").join(name));
        command.env("BOX", &self.name);
        command
    }
}

/// The gate of a box; the next test begins when this is dropped.
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

/// Waits for a place in the box. As long as the gate isn't dropped nobody else begins: time to see that the box is whole.
pub fn turn(beside: Beside) -> (Gate, Turn) {
    let state = box_directory();
    let inside = lock_file(&state, "tests.inside");
    let mut locks = Vec::new();
    match beside {
        Beside::Others => {
            inside.lock_shared().unwrap();
            locks.extend(seat(&state));
        }
        Beside::Nobody => inside.lock().unwrap(),
    }
    locks.push(inside);
    let gate = lock_file(&state, "tests.gate");
    gate.lock().unwrap();
    let environment = std::fs::read_to_string(state.join("env")).unwrap();
    let told = |name: &str| {
        let (_, value) = environment.split_once(&format!("{name}='")).unwrap_or_else(|| panic!("no {name} in env"));
        value.split('\'').next().unwrap().to_owned()
    };
    let (name, index) = (told("CASCINA_BOX"), told("CASCINA_BOX_INDEX"));
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    (Gate(gate), Turn { state, name, index, _locks: locks, test, begin: Instant::now() })
}

fn lock_file(state: &Path, name: &str) -> File {
    let path = state.join("run").join(name);
    let file = File::options().create(true).append(true).open(&path);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One of the `CASCINA_TESTS_BESIDE` seats for tests of tenants, if they are counted: more guests at a time than the
/// processors carry would only make each of them slow.
fn seat(state: &Path) -> Option<File> {
    let seats: u32 = std::env::var("CASCINA_TESTS_BESIDE").ok()?.parse().expect("CASCINA_TESTS_BESIDE is a number");
    loop {
        for number in 0..seats {
            let seat = lock_file(state, &format!("tests.seat-{number}"));
            if seat.try_lock().is_ok() {
                return Some(seat);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
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
        let file = File::options().create(true).append(true).open(self.state.join("log/tests"));
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("how long {} took can't be noted: {error}", self.test);
        }
    }
}
