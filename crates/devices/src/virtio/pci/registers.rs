//! The layout of the common configuration (virtio 1.2 §4.1.4.3): which bytes are which field.
//!
//! Writes of anything but a whole field, or half of a 64-bit one, are ignored: §4.1.3.1 forbids them. Reads may have
//! any width.

use super::common_config::{CommonConfig, CommonEffect, NO_VECTOR, QueueSettings};
use super::status::Stage;

/// Bytes of the registers, up to `queue_reset`.
pub(super) const COMMON_BYTES: u32 = 60;

impl CommonConfig {
    /// Reads any width at any offset; past the end zero.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let image = self.image();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (position, byte) in data.iter_mut().enumerate() {
            *byte = start.checked_add(position).and_then(|at| image.get(at)).copied().unwrap_or(0);
        }
    }

    fn image(&self) -> [u8; COMMON_BYTES as usize] {
        // No queue: size 0, and nothing that could be taken for one (§4.1.4.3.1).
        let none = QueueSettings { vector: NO_VECTOR, ..QueueSettings::new(0) };
        let queue = self.selected().map_or(none, |index| self.queues[index]);
        let queues = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        let mut image = [0; COMMON_BYTES as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.device_feature_select.to_le_bytes());
        put(4, &half(self.offered_features, self.device_feature_select).to_le_bytes());
        put(8, &self.driver_feature_select.to_le_bytes());
        put(12, &half(self.driver_features, self.driver_feature_select).to_le_bytes());
        put(16, &self.config_vector.to_le_bytes());
        put(18, &queues.to_le_bytes());
        put(20, &[self.status.bits(), self.config_generation]);
        put(22, &self.queue_select.to_le_bytes());
        put(24, &queue.size.to_le_bytes());
        put(26, &queue.vector.to_le_bytes());
        put(28, &u16::from(queue.enabled).to_le_bytes());
        // Each queue has a notification address of its own.
        put(30, &self.queue_select.to_le_bytes());
        put(32, &queue.descriptor_table.to_le_bytes());
        put(40, &queue.available_ring.to_le_bytes());
        put(48, &queue.used_ring.to_le_bytes());
        image
    }

    /// Takes a driver's write. While the device is being reset there is nothing to set up.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> CommonEffect {
        if self.status.resetting {
            return CommonEffect::Nothing;
        }
        match *data {
            [value] if offset == 20 => return self.write_status(value),
            [a, b] => return self.write_u16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_u32(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if matches!(offset, 32 | 40 | 48) => {
                self.write_u32(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_u32(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
        CommonEffect::Nothing
    }

    fn write_u16(&mut self, offset: u64, value: u16) -> CommonEffect {
        match offset {
            16 => {
                self.config_vector = self.vector(value);
                return CommonEffect::ConfigVector(self.config_vector);
            }
            22 => self.queue_select = value,
            26 => return self.write_queue_vector(value),
            24 => {
                if let Some(queue) = self.changeable_queue()
                    && value.is_power_of_two()
                    && value <= queue.maximum
                {
                    queue.size = value;
                }
            }
            28 => {
                // Only 1 may be written (§4.1.4.3.2): a queue is disabled by reset alone.
                if let Some(queue) = self.changeable_queue().filter(|_| value == 1) {
                    queue.enabled = true;
                }
            }
            _ => {}
        }
        CommonEffect::Nothing
    }

    fn write_u32(&mut self, offset: u64, value: u32) {
        match offset {
            0 => self.device_feature_select = value,
            8 => self.driver_feature_select = value,
            12 if self.status.stage < Stage::FeaturesOk => {
                set_half(&mut self.driver_features, self.driver_feature_select, value);
            }
            32..56 if offset.is_multiple_of(4) => {
                let high = u32::from(!offset.is_multiple_of(8));
                let Some(queue) = self.changeable_queue() else {
                    return;
                };
                let address = match offset {
                    32 | 36 => &mut queue.descriptor_table,
                    40 | 44 => &mut queue.available_ring,
                    _ => &mut queue.used_ring,
                };
                set_half(address, high, value);
            }
            _ => {}
        }
    }
}

/// The low (0) or high (1) word; there are no others.
fn half(value: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, word: u32) {
    match select {
        0 => *value = *value & !0xffff_ffff | u64::from(word),
        1 => *value = *value & 0xffff_ffff | u64::from(word) << 32,
        _ => {}
    }
}
