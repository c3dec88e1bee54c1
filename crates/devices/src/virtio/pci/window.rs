//! The access window in configuration space (virtio 1.2 §4.1.4.9), for firmware that cannot map a BAR: the guest
//! writes BAR, offset and length, then reads or writes the data field.

use super::device::VirtioPciDevice;
use super::layout::BAR_BYTES;
use crate::pci::PciFunction;

/// Offsets in the capability: which BAR, where in it, how many bytes, and the data.
const BAR: u8 = 4;
const OFFSET: u8 = 8;
const LENGTH: u8 = 12;
const DATA: u8 = 16;

/// Bytes of the data field.
const DATA_BYTES: usize = 4;

impl VirtioPciDevice {
    /// Before a read of `length` bytes at `offset` of configuration space: if it takes in the data field, the
    /// field is filled from the BAR.
    pub(super) fn read_through_window(&mut self, offset: usize, length: usize) {
        if !self.takes_in_data(offset, length) {
            return;
        }
        let Some((place, width)) = self.window_target() else {
            return;
        };
        let mut data = [0; DATA_BYTES];
        self.read_bar(place, &mut data[..width]);
        self.config.set(usize::from(self.capabilities.window + DATA), &data[..width]);
    }

    /// After a write of `length` bytes at `offset` of configuration space: if it took in the data field, the
    /// field goes to the BAR.
    pub(super) fn write_through_window(&mut self, offset: usize, length: usize) {
        if !self.takes_in_data(offset, length) {
            return;
        }
        let Some((place, width)) = self.window_target() else {
            return;
        };
        let data = self.config.u32_at(self.capabilities.window + DATA).to_le_bytes();
        self.write_bar(place, &data[..width]);
    }

    fn takes_in_data(&self, offset: usize, length: usize) -> bool {
        let data = usize::from(self.capabilities.window + DATA);
        offset < data + DATA_BYTES && data < offset.saturating_add(length)
    }

    /// Offset and width of the access that the guest set up, if §4.1.4.9.1 allows it.
    fn window_target(&self) -> Option<(u64, usize)> {
        let window = self.capabilities.window;
        let [bar, ..] = self.config.u32_at(window + BAR).to_le_bytes();
        let offset = u64::from(self.config.u32_at(window + OFFSET));
        let length = self.config.u32_at(window + LENGTH);
        let width = usize::try_from(length).ok().filter(|width| matches!(width, 1 | 2 | 4))?;
        let fits = bar == 0 && offset.is_multiple_of(u64::from(length)) && offset < BAR_BYTES;
        fits.then_some((offset, width))
    }
}
