//! One subcommand per process that the chart runs.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::todo)
)]

use std::process::ExitCode;

use cascina::libvirt::end_process;
use cascina::operator;
use clap::{Parser, Subcommand};

/// The system's allocator takes half of the CPU of an operator at rest, which reads many small things of many hosts.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Cascina turns plain libvirt hosts into a private science cloud.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the operator.
    Run(Box<operator::Options>),
    /// Writes the custom resource definitions as YAML to standard output, one document each.
    Crds,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(options) => end_process(told(operator::run(*options))),
        Command::Crds => {
            if told(crds()) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Whether it went well; if not, somebody is told why.
fn told(outcome: anyhow::Result<()>) -> bool {
    if let Err(error) = &outcome {
        eprintln!("cascina: {error:#}");
    }
    outcome.is_ok()
}

fn crds() -> anyhow::Result<()> {
    for definition in cascina::api::custom_resource_definitions() {
        println!("---\n{}", serde_yaml::to_string(&definition)?.trim_end());
    }
    Ok(())
}
