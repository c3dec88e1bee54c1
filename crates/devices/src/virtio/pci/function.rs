//! The transport as a PCI function: configuration space, and the registers in its BAR.

use super::device::VirtioPciDevice;
use super::layout::{NOTIFY_MULTIPLIER, Part};
use crate::pci::{Bar, PciFunction};

impl PciFunction for VirtioPciDevice {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.read_through_window(offset, data.len());
        self.config.set_interrupt_status(self.interrupts.is_asserted());
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        let control = self.config.u16_at(self.capabilities.msix + 2);
        self.interrupts.msix.set_control(control & 1 << 15 != 0, control & 1 << 14 != 0);
        self.write_through_window(offset, data.len());
    }

    fn decoded_bar(&self) -> Option<Bar> {
        self.config.bar().filter(|_| self.config.memory_enabled())
    }

    fn place_bar(&mut self, base: Option<u64>) {
        self.bells.place(base);
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((part, inside)) = Part::at(offset) else {
            return;
        };
        match part {
            Part::Common => {
                self.finish_reset();
                self.common.read(inside, data);
            }
            Part::Isr => {
                if let Some(status) = data.first_mut() {
                    *status = self.interrupts.take_isr();
                }
            }
            Part::Device => self.device.read_config(inside, data),
            Part::Notify => {}
            Part::MsixTable => self.interrupts.msix.read_table(inside, data),
            Part::MsixPending => self.interrupts.msix.read_pending(inside, data),
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        let Some((part, inside)) = Part::at(offset) else {
            return;
        };
        match part {
            Part::Common => {
                self.finish_reset();
                let effect = self.common.write(inside, data);
                self.apply(effect);
            }
            Part::Device => self.device.write_config(inside, data),
            Part::Notify => {
                if let Ok(queue) = usize::try_from(inside / u64::from(NOTIFY_MULTIPLIER)) {
                    self.bells.ring(queue);
                }
            }
            Part::MsixTable => self.interrupts.msix.write_table(inside, data),
            Part::Isr | Part::MsixPending => {}
        }
    }
}
