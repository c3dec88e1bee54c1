//! The block device as its transport sees it.

use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_model::{DiskAccess, DiskCaching, DiskErasure, DiskFormat, OnIoError};

use super::counters::BlockCounters;
use super::disk::{DiskError, DiskSerial, examine};
use super::engine::{
    Backend, BlockEngine, DiskFiles, EngineChoice, EngineKind, ThreadedEngine, open_engine, retire,
};
use super::file_end::FileEnd;
use super::kept::KeptRequests;
use super::lanes::Lanes;
use super::qcow2::Qcow2Image;
use super::service::{Service, WriteMode};
use super::shape::{CONFIGURATION_BYTES, DiskShape, QueueShape, SECTOR_BYTES};
use super::slots::Slots;
use crate::virtio::configuration::read_configuration;
use crate::virtio::queue::QueueFault;
use crate::virtio::rate_limiter::RateLimiter;
use crate::virtio::{
    ActivateError, Activation, DeviceEvent, QueueSize, RateLimits, VirtioDevice, VirtioDeviceType,
};

/// The completions' token among the device's events.
const COMPLETIONS: u16 = 0;
/// The token of the rate limit's timer.
const TIMER: u16 = 1;

/// What a block device is made of.
pub struct BlockDeviceConfig {
    /// The disk: a regular file or block device.
    pub file: OwnedFd,
    /// The same opened for direct I/O, where this process may not do that itself. Read where `caching` says so.
    pub direct_file: Option<OwnedFd>,
    /// How the disk lies in it. Of formats but raw, a thread of the disk's own serves it.
    pub format: DiskFormat,
    /// Whether the guest may write.
    pub access: DiskAccess,
    /// Whether the guest may discard and zero parts of it.
    pub erasure: DiskErasure,
    /// Whether transfers go through the host's page cache.
    pub caching: DiskCaching,
    /// What the guest reads as serial number.
    pub serial: DiskSerial,
    /// Request queues. The guest's driver uses as many of them as it has use for, one a processor.
    pub queue_count: NonZeroU16,
    /// Each queue's largest size.
    pub queue_size: QueueSize,
    /// How much the guest may move in a time.
    pub rate_limits: RateLimits,
    /// What follows when the host cannot carry out a request.
    pub on_io_error: OnIoError,
    /// How transfers reach the file.
    pub engine: EngineChoice,
    /// Names the disk in logs and its thread if it has one: at most 15 bytes are shown.
    pub name: String,
}

/// A virtio block device.
pub struct BlockDevice {
    /// `None` only while the device is being dropped.
    service: Option<Service>,
    state: State,
    configuration: [u8; CONFIGURATION_BYTES],
    features: u64,
    queue_sizes: Vec<u16>,
    counters: Arc<BlockCounters>,
    engine_kind: EngineKind,
}

enum State {
    Reset,
    Active {
        lanes: Lanes,
        mode: WriteMode,
    },
    /// The queues are ignored until reset (virtio 1.2 §2.1.2).
    Broken,
}

impl BlockDevice {
    /// A device in reset.
    ///
    /// # Errors
    /// The file cannot be a disk, or no engine could be had.
    pub fn new(config: BlockDeviceConfig) -> Result<Self, DiskError> {
        let mut shape = examine(&config.file, config.access, config.erasure)?;
        let mut end = FileEnd::of(&config.file, &config.name).map_err(DiskError::Examine)?;
        let queues = QueueShape { count: config.queue_count.get(), size: config.queue_size.get() };
        let limiter = RateLimiter::new(&config.rate_limits).map_err(DiskError::RateLimit)?;
        let engine = match config.format {
            DiskFormat::Raw => {
                let files = match config.caching {
                    DiskCaching::Cached => DiskFiles::cached(config.file),
                    DiskCaching::Direct => {
                        DiskFiles::direct(config.file, config.direct_file).map_err(DiskError::Direct)?
                    }
                };
                open_engine(config.engine, files, queues.slots(), &config.name)
            }
            DiskFormat::Qcow2 => {
                if config.caching == DiskCaching::Direct || config.access == DiskAccess::ReadWrite {
                    return Err(DiskError::ImageUse);
                }
                let image = Qcow2Image::open(config.file.into()).map_err(DiskError::Image)?;
                shape.sectors = image.disk_bytes() / SECTOR_BYTES;
                // Where in its file a sector lies is the image's to know, which looks by itself.
                end = None;
                let backend = Backend::Qcow2(Box::new(image));
                let engine = ThreadedEngine::new(backend, queues.slots(), &config.name);
                engine.map(|engine| Box::new(engine) as Box<dyn BlockEngine>)
            }
        }
        .map_err(DiskError::Engine)?;
        let parts = EngineParts { engine, shape, end, serial: config.serial, limiter };
        Ok(Self::on_engine(parts, queues, config.on_io_error))
    }

    fn on_engine(parts: EngineParts, queues: QueueShape, on_io_error: OnIoError) -> Self {
        let EngineParts { engine, shape, end, serial, limiter } = parts;
        let counters = Arc::new(BlockCounters::default());
        let kept = KeptRequests::new(on_io_error, Arc::clone(&counters));
        let slots = Slots::new(queues.slots());
        Self {
            state: State::Reset,
            configuration: shape.configuration(queues),
            features: features(&shape, queues),
            queue_sizes: vec![queues.size; usize::from(queues.count)],
            counters: Arc::clone(&counters),
            engine_kind: engine.kind(),
            service: Some(Service { engine, slots, shape, end, serial, limiter, kept, counters }),
        }
    }

    /// What the disk has done so far, to be read from any thread.
    #[must_use]
    pub fn counters(&self) -> Arc<BlockCounters> {
        Arc::clone(&self.counters)
    }

    /// The engine in use.
    #[must_use]
    pub fn engine(&self) -> EngineKind {
        self.engine_kind
    }

    fn turn(&mut self) {
        let Some(service) = &mut self.service else { return };
        let served = match &mut self.state {
            State::Active { lanes, mode } => service.turn(lanes, *mode),
            State::Reset | State::Broken => return settle_now(service),
        };
        self.note(served);
    }

    fn note(&mut self, served: Result<(), QueueFault>) {
        if let Err(fault) = served {
            tracing::debug!(error = %fault, "a block device's queue is broken");
            self.state = State::Broken;
            if let Some(service) = &mut self.service {
                service.abandon_all();
            }
        }
    }
}

/// What a device is made of once its file was examined.
struct EngineParts {
    engine: Box<dyn BlockEngine>,
    shape: DiskShape,
    end: Option<FileEnd>,
    serial: DiskSerial,
    limiter: Option<RateLimiter>,
}

/// What a disk of `shape` offers (virtio 1.2 §5.2.3).
fn features(shape: &DiskShape, queues: QueueShape) -> u64 {
    let always = [
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_RING_F_EVENT_IDX,
    ];
    let erasure: &[u32] =
        if shape.offers_erasure() { &[VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES] } else { &[] };
    let access: &[u32] = match shape.access {
        DiskAccess::ReadOnly => &[VIRTIO_BLK_F_RO],
        DiskAccess::ReadWrite => &[],
    };
    let queues: &[u32] = if queues.count > 1 { &[VIRTIO_BLK_F_MQ] } else { &[] };
    let all = always.iter().chain(erasure).chain(access).chain(queues);
    all.fold(0, |bits, feature| bits | 1u64 << feature)
}

/// Frees what ended and nobody waits for.
fn settle_now(service: &mut Service) {
    while let Some(finished) = service.engine.finished() {
        service.release(finished.slot, finished.transfer.vectors);
    }
}

impl VirtioDevice for BlockDevice {
    fn device_type(&self) -> VirtioDeviceType {
        VirtioDeviceType::Block
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn offered_features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_configuration(&self.configuration, offset, data);
    }

    /// No field is writable without `VIRTIO_BLK_F_CONFIG_WCE`.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Some(service) = &mut self.service else {
            return Err(ActivateError::Backend(std::io::ErrorKind::NotConnected.into()));
        };
        // Transfers from before the reset could still write to guest memory.
        settle_now(service);
        if service.engine.in_flight() > 0 {
            return Err(ActivateError::Backend(std::io::ErrorKind::TimedOut.into()));
        }
        // A driver need not use all queues, but the first is there with or without `VIRTIO_BLK_F_MQ`.
        if !matches!(activation.queues.first(), Some(Some(_))) {
            return Err(ActivateError::QueueDisabled { index: 0 });
        }
        let mode = if activation.features & 1 << VIRTIO_BLK_F_FLUSH != 0 {
            WriteMode::Back
        } else {
            WriteMode::Through
        };
        self.state = State::Active { lanes: Lanes::new(activation.queues), mode };
        Ok(())
    }

    fn events(&self) -> Vec<DeviceEvent<'_>> {
        let Some(service) = &self.service else { return Vec::new() };
        let completions = DeviceEvent { fd: service.engine.completions(), token: COMPLETIONS };
        let timer = service.limiter.iter().map(|limiter| DeviceEvent { fd: limiter.timer(), token: TIMER });
        std::iter::once(completions).chain(timer).collect()
    }

    fn doorbell(&mut self, index: u16) {
        if let State::Active { lanes, .. } = &mut self.state {
            lanes.ring(index);
        }
        self.turn();
    }

    fn event(&mut self, _token: u16) {
        self.turn();
    }

    fn retry(&mut self) {
        if let (Some(service), State::Active { lanes, .. }) = (&mut self.service, &mut self.state) {
            let tried = service.retry(lanes);
            self.note(tried);
        }
        self.turn();
    }

    fn drain(&mut self, deadline: Instant) -> bool {
        let Some(service) = &mut self.service else {
            return true;
        };
        let drained = match &mut self.state {
            State::Active { lanes, .. } => drain_lanes(service, lanes, deadline),
            State::Reset | State::Broken => Ok(drain_forgotten(service, deadline)),
        };
        match drained {
            Ok(drained) => drained,
            Err(fault) => {
                self.note(Err(fault));
                false
            }
        }
    }

    fn reset(&mut self) {
        self.state = State::Reset;
        if let Some(service) = &mut self.service {
            service.abandon_all();
        }
    }

    fn is_settled(&mut self) -> bool {
        self.service.as_mut().is_none_or(|service| {
            settle_now(service);
            service.engine.in_flight() == 0
        })
    }

    fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }
}

/// Completes requests until none is in flight; `false` when `deadline` passed first.
fn drain_lanes(service: &mut Service, lanes: &mut Lanes, deadline: Instant) -> Result<bool, QueueFault> {
    loop {
        service.look_at_end();
        service.finish_requests(lanes)?;
        lanes.notify()?;
        if service.engine.in_flight() == 0 {
            return Ok(true);
        }
        if !service.engine.wait(deadline) {
            return Ok(false);
        }
    }
}

/// Waits for transfers that nobody waits for any more; `false` when `deadline` passed first.
fn drain_forgotten(service: &mut Service, deadline: Instant) -> bool {
    loop {
        settle_now(service);
        if service.engine.in_flight() == 0 {
            return true;
        }
        if !service.engine.wait(deadline) {
            return false;
        }
    }
}

impl Drop for BlockDevice {
    /// Waits for nothing: whoever has patience with this disk drains it first.
    fn drop(&mut self) {
        if let Some(service) = self.service.take() {
            retire(service.engine);
        }
    }
}

#[cfg(test)]
mod tests;
