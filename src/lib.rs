//! Cascina turns plain libvirt hosts into a private science cloud. `docs/architecture.md` is the way in.

#![cfg_attr(
    not(any(test, fuzzing)),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::todo)
)]

pub mod api;
pub mod clock;
pub mod controllers;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod guest;
pub mod images;
// The one module that speaks with a C library.
#[allow(unsafe_code)]
pub mod libvirt;
pub mod metrics;
pub mod network;
pub mod operator;
mod text;
mod xml;
