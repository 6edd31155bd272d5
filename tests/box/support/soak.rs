//! Short and long forms of a test, and what they measured.

use std::fmt::Display;
use std::io::Write;
use std::time::Instant;

/// `short` in `make test`, `long` in `make soak`. A test that has no short form is called `soak_…`.
pub fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var_os("CASCINA_SOAK").is_some() { long } else { short }
}

/// Prints what was measured, and keeps it for the table of `make soak`.
pub fn measured(fault: &str, what: &str, value: impl Display) {
    println!("{fault}: {what}: {value}");
    let Some(table) = std::env::var_os("CASCINA_SOAK_TABLE") else { return };
    let table = std::fs::File::options().append(true).create(true).open(table);
    writeln!(table.unwrap(), "| {fault} | {what} | {value} |").unwrap();
}

/// The time since then, as it is printed.
pub fn since(begin: Instant) -> String {
    format!("{:.1} s", begin.elapsed().as_secs_f64())
}

/// Dice that fall alike for the same seed: `CASCINA_SEED`, or one that is printed.
pub fn dice(test: &str) -> fastrand::Rng {
    let given = std::env::var("CASCINA_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    measured(test, "CASCINA_SEED", seed);
    fastrand::Rng::with_seed(seed)
}
