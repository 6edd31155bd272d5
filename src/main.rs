//! One subcommand per process that the chart runs.

fn main() {}
