//! How a disk is served, beside what it is; and rate limits, which interfaces have, too.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// How a disk is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskOptions {
    /// Request queues.
    pub queue_count: NonZeroU16,
    /// Whether the host's page cache stands between guest and file.
    pub caching: DiskCaching,
    /// Whether the guest may discard and zero parts of a disk that it may write to.
    pub erasure: DiskErasure,
    /// How much the guest may move in a time.
    pub rate_limits: RateLimitSpec,
    /// What follows when the host cannot carry out a request.
    pub on_io_error: OnIoError,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            queue_count: NonZeroU16::MIN,
            caching: DiskCaching::default(),
            erasure: DiskErasure::default(),
            rate_limits: RateLimitSpec::default(),
            on_io_error: OnIoError::default(),
        }
    }
}

/// Whether the host's page cache stands between guest and file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskCaching {
    /// It does.
    #[default]
    Cached,
    /// It is passed by, for whatever the guest aligns as the file system wants it.
    Direct,
}

/// Whether a guest may discard and zero parts of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskErasure {
    /// What it discards becomes a hole in the file.
    #[default]
    Offered,
    /// The file keeps its space.
    Withheld,
}

/// What follows when the host cannot carry out a guest's request to a disk: no space, a failing device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnIoError {
    /// The VM is paused and the request kept. It is tried again until the host can carry it out; the guest then goes on
    /// and never learns of it.
    #[default]
    Pause,
    /// The guest is told that the request failed.
    Report,
}

/// The rate limits of one device. What is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimitSpec {
    /// Bytes of data.
    pub bandwidth: Option<TokenBucketSpec>,
    /// Requests or packets.
    pub operations: Option<TokenBucketSpec>,
}

/// How much passes: `size` each `refill_time_ms`, and `one_time_burst` on top of that once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucketSpec {
    /// Tokens; at least one.
    pub size: u64,
    /// Tokens.
    pub one_time_burst: u64,
    /// Milliseconds; at least one.
    pub refill_time_ms: u64,
}
