//! A farm's router between its farm and the outside: the image as it is built, the files as they are rendered, real packets.
//!
//! `make test` runs this. By hand: `. .box/env`, then `cargo test --test router -- --test-threads=1 --nocapture`. Without a
//! box each test says so and passes. The router boots in QEMU; network namespaces play the machines and the world.

#[path = "router/appliance.rs"]
mod appliance;
#[path = "router/attacks.rs"]
mod attacks;
#[path = "router/dns.rs"]
mod dns;
#[path = "support/emulated.rs"]
mod emulated;
#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "router/place.rs"]
mod place;
#[path = "router/serves.rs"]
mod serves;
#[path = "router/size.rs"]
mod size;
#[path = "router/talk.rs"]
mod talk;
#[path = "router/turns.rs"]
mod turns;
#[path = "router/vpn.rs"]
mod vpn;
#[path = "router/ways.rs"]
mod ways;
