//! The common configuration registers (virtio 1.2 §4.1.4.3) as plain data: what a driver sets up, and what it may
//! still change when.
//!
//! Features freeze at `FEATURES_OK`, a queue when it is enabled, all queues at `DRIVER_OK`; interrupt vectors stay
//! live. How they are laid out is `registers`' matter.

use vm_memory::GuestAddress;

use super::status::{DeviceStatus, Features, Stage, StatusEffect};
use crate::virtio::queue::{QueueLayout, RingFeatures};

/// No interrupt vector (§4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// `VIRTIO_F_VERSION_1`: a driver of the modern interface (§6).
const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_INDIRECT_DESC`.
const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
const EVENT_IDX: u64 = 1 << 29;
/// What a device may offer: its own bits (0–23 and 50–63, §2.2) and the ring features that queues implement.
const DEVICE_FEATURES: u64 = 0x00ff_ffff | !0 << 50 | INDIRECT_DESC | EVENT_IDX;

/// What a driver set up for one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// The largest size, a power of two.
    pub maximum: u16,
    /// The size, a power of two not above the maximum.
    pub size: u16,
    /// The interrupt vector, 0xffff for none.
    pub vector: u16,
    /// Whether the driver uses the queue.
    pub enabled: bool,
    /// Guest address of the descriptor table, unchecked.
    pub descriptor_table: u64,
    /// Guest address of the available ring, unchecked.
    pub available_ring: u64,
    /// Guest address of the used ring, unchecked.
    pub used_ring: u64,
}

impl QueueSettings {
    pub(super) fn new(maximum: u16) -> Self {
        Self {
            maximum,
            size: maximum,
            vector: NO_VECTOR,
            enabled: false,
            descriptor_table: 0,
            available_ring: 0,
            used_ring: 0,
        }
    }

    /// Where the queue lies, if the driver enabled it.
    pub(super) fn layout(&self) -> Option<QueueLayout> {
        self.enabled.then_some(QueueLayout {
            size: self.size,
            descriptor_table: GuestAddress(self.descriptor_table),
            available_ring: GuestAddress(self.available_ring),
            used_ring: GuestAddress(self.used_ring),
        })
    }
}

/// What the transport must do after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommonEffect {
    Nothing,
    /// The device is to be reset; the registers are reset by [`CommonConfig::reset`] afterwards.
    Reset,
    Activate,
    /// The vector of configuration changes is another.
    ConfigVector(u16),
    /// A queue's vector is another.
    QueueVector {
        queue: usize,
        vector: u16,
    },
}

/// All registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommonConfig {
    /// Device status.
    pub status: DeviceStatus,
    /// The features that the device offers.
    pub offered_features: u64,
    /// The features that the driver accepted.
    pub driver_features: u64,
    /// Which half of the offered features the driver reads (`device_feature_select`).
    pub device_feature_select: u32,
    /// Which half of the accepted features the driver writes (`driver_feature_select`).
    pub driver_feature_select: u32,
    /// The vector of configuration changes.
    pub config_vector: u16,
    /// The generation of the device's configuration; changes whenever that does.
    pub config_generation: u8,
    /// The queue that the queue registers show (`queue_select`).
    pub queue_select: u16,
    /// By number.
    pub queues: Vec<QueueSettings>,
    /// Interrupt vectors that exist.
    pub vectors: u16,
}

impl CommonConfig {
    pub(super) fn new(device_features: u64, queue_sizes: &[u16], vectors: u16) -> Self {
        Self {
            status: DeviceStatus::default(),
            offered_features: device_features & DEVICE_FEATURES | VERSION_1,
            driver_features: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            config_vector: NO_VECTOR,
            config_generation: 0,
            queue_select: 0,
            queues: queue_sizes.iter().copied().map(QueueSettings::new).collect(),
            vectors,
        }
    }

    /// Resets all registers to their initial values (§2.4), but for the generation, which must not seem unchanged.
    pub(super) fn reset(&mut self) {
        let sizes: Vec<_> = self.queues.iter().map(|queue| queue.maximum).collect();
        let generation = self.config_generation;
        *self = Self::new(self.offered_features, &sizes, self.vectors);
        self.config_generation = generation;
    }

    /// The ring features that were agreed on.
    pub(super) fn ring_features(&self) -> RingFeatures {
        RingFeatures {
            event_index: self.driver_features & EVENT_IDX != 0,
            indirect_descriptors: self.driver_features & INDIRECT_DESC != 0,
        }
    }

    pub(super) fn write_status(&mut self, value: u8) -> CommonEffect {
        let (status, effect) = self.status.write(value, self.judge_features());
        match effect {
            // Reads as zero only once the device has been reset (§2.4.1).
            StatusEffect::Reset => CommonEffect::Reset,
            StatusEffect::Activate => {
                self.status = status;
                CommonEffect::Activate
            }
            StatusEffect::Nothing => {
                self.status = status;
                CommonEffect::Nothing
            }
        }
    }

    fn judge_features(&self) -> Features {
        let known = self.driver_features & !self.offered_features == 0;
        // A device that offers VERSION_1 may insist on it (§6.1).
        if known && self.driver_features & VERSION_1 != 0 {
            Features::Acceptable
        } else {
            Features::Unacceptable
        }
    }

    pub(super) fn write_queue_vector(&mut self, value: u16) -> CommonEffect {
        let vector = self.vector(value);
        let Some(queue) = self.selected() else {
            return CommonEffect::Nothing;
        };
        self.queues[queue].vector = vector;
        CommonEffect::QueueVector { queue, vector }
    }

    /// A vector that does not exist reads back as none, which tells the driver (§4.1.5.1.2.1).
    pub(super) fn vector(&self, value: u16) -> u16 {
        if value < self.vectors { value } else { NO_VECTOR }
    }

    pub(super) fn selected(&self) -> Option<usize> {
        Some(usize::from(self.queue_select)).filter(|index| *index < self.queues.len())
    }

    /// The selected queue while it may be set up.
    pub(super) fn changeable_queue(&mut self) -> Option<&mut QueueSettings> {
        let running = self.status.stage == Stage::Running;
        let index = self.selected()?;
        self.queues.get_mut(index).filter(|queue| !running && !queue.enabled)
    }
}
