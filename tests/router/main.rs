//! A farm's router between its farm and the outside: the image as it is built, the files as they are rendered, real packets.
//!
//! `make test` runs this. By hand: `. .box/env`, then `cargo test --test router -- --include-ignored --nocapture`. The
//! router boots in QEMU; network namespaces play the machines and the world.

mod appliance;
mod attacks;
mod cuts;
mod denials;
mod dns;
#[path = "../support/emulated.rs"]
mod emulated;
mod names;
#[path = "../support/namespaces.rs"]
mod namespaces;
mod place;
mod serves;
mod size;
mod talk;
#[path = "../support/turn.rs"]
mod turn;
mod turns;
mod vpn;
mod ways;
#[path = "../support/words.rs"]
mod words;
