//! A disk of the description as the block device that serves it, and rate limits as devices take them; and which of a
//! machine's disks are in trouble.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use devices::virtio::block::{BlockCounters, BlockDevice, BlockDeviceConfig, DiskSerial, EngineChoice};
use devices::virtio::{BucketLimits, BucketLimitsError, QueueSize, RateLimits};
use vm_model::{DiskSpec, DiskTrouble, RateLimitSpec, TokenBucketSpec};

use super::BuildError;

/// A machine's disks among its functions.
#[derive(Default)]
pub(super) struct Disks(Vec<Disk>);

/// One of them.
pub(super) struct Disk {
    id: String,
    pub(super) function: usize,
    counters: Arc<BlockCounters>,
}

impl Disks {
    pub(super) fn add(&mut self, id: String, function: usize, counters: Arc<BlockCounters>) {
        self.0.push(Disk { id, function, counters });
    }

    /// Those that keep requests which the host cannot carry out. Looked at in each turn of the event loop: nothing is
    /// locked for it.
    pub(super) fn in_trouble(&self) -> impl Iterator<Item = &Disk> {
        self.0.iter().filter(|disk| disk.counters.problem().is_some())
    }

    /// The first of them.
    pub(super) fn trouble(&self) -> Option<DiskTrouble> {
        self.0.iter().find_map(|disk| {
            let problem = disk.counters.problem()?;
            Some(DiskTrouble { disk: disk.id.clone(), problem: problem.to_string() })
        })
    }
}

/// Makes the device of `disk`.
pub(super) fn block_device(disk: DiskSpec<OwnedFd>) -> Result<BlockDevice, BuildError> {
    let config = BlockDeviceConfig {
        file: disk.file,
        direct_file: disk.direct_file,
        format: disk.format,
        access: disk.access,
        erasure: disk.options.erasure,
        caching: disk.options.caching,
        serial: DiskSerial::new(disk.serial.as_deref().unwrap_or(&disk.id)),
        engine: EngineChoice::Automatic,
        queue_count: disk.options.queue_count,
        queue_size: QueueSize::new(disk.queue_size).map_err(|error| failed(&disk.id, error))?,
        rate_limits: rate_limits(&disk.options.rate_limits).map_err(|error| failed(&disk.id, error))?,
        on_io_error: disk.options.on_io_error,
        name: disk.id.clone(),
    };
    BlockDevice::new(config).map_err(|error| failed(&disk.id, error))
}

/// Turns the description's limits into a device's.
pub(super) fn rate_limits(spec: &RateLimitSpec) -> Result<RateLimits, BucketLimitsError> {
    let bucket = |spec: &TokenBucketSpec| {
        let refill_time = Duration::from_millis(spec.refill_time_ms);
        BucketLimits::new(spec.size, spec.one_time_burst, refill_time)
    };
    Ok(RateLimits {
        bandwidth: spec.bandwidth.as_ref().map(bucket).transpose()?,
        operations: spec.operations.as_ref().map(bucket).transpose()?,
    })
}

fn failed(disk: &str, error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    BuildError::Device { device: disk.to_owned(), source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_keep_their_figures_and_bad_ones_are_refused() {
        let bucket = |size| Some(TokenBucketSpec { size, one_time_burst: 7, refill_time_ms: 100 });
        let spec = RateLimitSpec { bandwidth: bucket(5), operations: None };
        let limits = rate_limits(&spec).unwrap();
        let expected = BucketLimits::new(5, 7, Duration::from_millis(100)).unwrap();
        assert_eq!((limits.bandwidth, limits.operations), (Some(expected), None));
        let spec = RateLimitSpec { bandwidth: None, operations: bucket(0) };
        assert_eq!(rate_limits(&spec), Err(BucketLimitsError::Size { size: 0 }));
    }
}
