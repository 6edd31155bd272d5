//! The real libvirtd of the box, over TLS: what a host does, and what a host that hangs doesn't do to others.
//!
//! Runs in the control network of a running box: `make test` sets `CASCINA_BOX_DIR` and enters it.

#[path = "libvirt_host/agent.rs"]
mod agent;
#[path = "support/emulated.rs"]
mod emulated;
#[path = "libvirt_host/events.rs"]
mod events;
#[path = "libvirt_host/filters.rs"]
mod filters;
#[path = "libvirt_host/life.rs"]
mod life;
#[path = "libvirt_host/machine.rs"]
mod machine;
#[path = "libvirt_host/silence.rs"]
mod silence;
#[path = "libvirt_host/the_box.rs"]
mod the_box;
#[path = "libvirt_host/volumes.rs"]
mod volumes;
