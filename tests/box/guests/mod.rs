//! What guests are told, and what is noticed of them: keys, network, clocks, panics, hangs.

mod clocks;
mod ends;
mod told;
