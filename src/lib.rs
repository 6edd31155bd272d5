//! Cascina turns plain libvirt hosts into a private science cloud. `docs/architecture.md` is the way in.

pub mod api;
pub mod controllers;
pub mod guest;
pub mod images;
// The one module that speaks with a C library.
#[allow(unsafe_code)]
pub mod libvirt;
pub mod metrics;
pub mod network;
pub mod operator;
mod xml;
