//! Hands the target that `FUZZ_TARGET` names to libFuzzer. `fuzz/run` builds and runs it.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use std::sync::LazyLock;

#[cfg(fuzzing)]
static TARGET: LazyLock<cascina::fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    cascina::fuzz::target(&name)
        .unwrap_or_else(|| panic!("FUZZ_TARGET={name}: give one of {:?}", cascina::fuzz::TARGETS))
});

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.run)(input));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without a fuzzer in it: use fuzz/run");
}
