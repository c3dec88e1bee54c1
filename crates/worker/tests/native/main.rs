//! The whole library on real KVM, in a network namespace of its own, with tiny guests: a VM's life and every way
//! it can go wrong, in milliseconds each.

mod artifacts;
mod capacity;
mod cloud_init;
mod cycles;
mod edits;
mod endings;
mod explained;
mod fetching;
mod guests;
mod lifecycle;
mod networks;
mod nix_store;
mod node;
mod orders;
mod ports;
mod previews;
mod refusals;
mod rollouts;
mod sets;
mod sharing;
mod sources;
mod told;
mod trouble;
mod volumes;
mod workbench;
