//! How a network interface is served, beside what it is.

use serde::{Deserialize, Serialize};

use crate::RateLimitSpec;

/// How a network interface is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NicOptions {
    /// How much the guest may send in a time, and how much it may receive: each direction has limits of its own.
    pub rate_limits: RateLimitSpec,
    /// What guest and host may leave to each other.
    pub offloads: NicOffloads,
}

/// What guest and host leave to each other in frames that do not leave the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NicOffloads {
    /// Checksums; where they are withheld, so is all segmentation.
    pub checksums: Offload,
    /// Segmentation of TCP.
    pub tcp_segmentation: Offload,
    /// Segmentation of UDP, where the host has it.
    pub udp_segmentation: Offload,
}

/// Whether a kind of work may be left to the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// It may.
    #[default]
    Offered,
    /// Each side does its own.
    Withheld,
}

/// Whether frames pass an interface's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// They do.
    #[default]
    Up,
    /// They are lost, in both directions.
    Down,
}
