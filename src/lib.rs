//! Cascina turns plain libvirt hosts into a private science cloud. `docs/architecture.md` is the way in.

mod xml;
pub mod api;
pub mod controllers;
pub mod guest;
pub mod images;
pub mod libvirt;
pub mod metrics;
pub mod network;
pub mod operator;
