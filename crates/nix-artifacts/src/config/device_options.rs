//! How disks and interfaces are served, read from their keys.

use std::num::NonZeroU16;

use vm_model::{
    DiskCaching, DiskErasure, DiskOptions, NicOffloads, NicOptions, Offload, OnIoError, RateLimitSpec,
    TokenBucketSpec,
};

use super::machine::contradiction;
use super::refusal::Refusal;
use super::section::Section;

/// Reads what of the entry `disk` is about its service.
pub(super) fn disk_options(disk: &Section) -> Result<DiskOptions, Box<Refusal>> {
    Ok(DiskOptions {
        queue_count: disk.integer("num_queues").and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN),
        caching: match disk.boolean("direct") {
            Some(true) => DiskCaching::Direct,
            Some(false) | None => DiskCaching::Cached,
        },
        erasure: match disk.boolean("sparse") {
            Some(false) => DiskErasure::Withheld,
            Some(true) | None => DiskErasure::Offered,
        },
        rate_limits: rate_limits(disk)?,
        on_io_error: OnIoError::default(),
    })
}

/// Reads what of the entry `nic` is about its service.
pub(super) fn nic_options(nic: &Section) -> Result<NicOptions, Box<Refusal>> {
    let offload = |key| match nic.boolean(key) {
        Some(false) => Offload::Withheld,
        Some(true) | None => Offload::Offered,
    };
    Ok(NicOptions {
        rate_limits: rate_limits(nic)?,
        offloads: NicOffloads {
            checksums: offload("offload_csum"),
            tcp_segmentation: offload("offload_tso"),
            udp_segmentation: offload("offload_ufo"),
        },
    })
}

/// Reads the `rate_limiter_config` of a disk or an interface.
fn rate_limits(device: &Section) -> Result<RateLimitSpec, Box<Refusal>> {
    let Some(limits) = device.section("rate_limiter_config") else {
        return Ok(RateLimitSpec::default());
    };
    Ok(RateLimitSpec { bandwidth: bucket(limits, "bandwidth")?, operations: bucket(limits, "ops")? })
}

fn bucket(limits: &Section, name: &str) -> Result<Option<TokenBucketSpec>, Box<Refusal>> {
    let Some(bucket) = limits.section(name) else {
        return Ok(None);
    };
    let required = |key: &str| {
        bucket.integer(key).ok_or_else(|| {
            let rule = "a limit is so much in such a time".to_owned();
            contradiction(bucket.path_of(key), "missing", rule, "an integer".to_owned())
        })
    };
    let (size, refill_time_ms): (u64, u64) = (required("size")?, required("refill_time")?);
    let one_time_burst = bucket.integer("one_time_burst").unwrap_or(0);
    // As in Cloud Hypervisor, either being zero turns the limit off.
    let limits = size > 0 && refill_time_ms > 0;
    Ok(limits.then_some(TokenBucketSpec { size, one_time_burst, refill_time_ms }))
}
