//! The crate against the real KVM of this machine, with guests of a few bytes in real mode.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod harness;
mod kick;
mod open;
mod run;
mod setup;
mod state;
mod tiny_guests;
