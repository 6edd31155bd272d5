//! The real libvirtd of the box, over TLS: what a host does, and what a host that hangs doesn't do to others.
//!
//! Runs in the control network of a running box: `make test` sets `CASCINA_BOX_DIR` and enters it.

mod agent;
#[path = "../support/emulated.rs"]
mod emulated;
mod events;
mod filters;
mod life;
mod machine;
mod silence;
mod the_box;
#[path = "../support/turn.rs"]
mod turn;
mod volumes;
