//! How much a run tries: a share of everything in `make test`, everything in `make soak`.

/// Whether everything is to be tried, however long it takes.
pub fn soaks() -> bool {
    std::env::var_os("CASCINA_SOAK").is_some()
}

/// The number that chance begins with; `CASCINA_SEED` repeats a run.
pub fn seed() -> u64 {
    let given = std::env::var("CASCINA_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(0..1_000_000))
}

/// Every so-manieth of a list, from a random one on.
pub fn share<T>(all: Vec<T>, every: usize) -> Vec<T> {
    let seed = seed();
    let first = usize::try_from(seed).unwrap_or_default() % every;
    println!("CASCINA_SEED={seed}: every {every}th, from the {first}th on");
    all.into_iter().skip(first).step_by(every).collect()
}
