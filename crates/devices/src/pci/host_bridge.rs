//! The host bridge in slot 0: only an identity, so that guests accept the bus as a PC's.

use super::bar::Bar;
use super::config::{ClassCode, PciConfig, PciIdentity};
use super::root::PciFunction;

/// Ids that Linux and other guests know as a plain virtual host bridge without quirks.
const IDENTITY: PciIdentity = PciIdentity {
    vendor: 0x8086,
    device: 0x0d57,
    revision: 0,
    class: ClassCode { class: 0x06, subclass: 0x00, interface: 0x00 },
    subsystem_vendor: 0,
    subsystem: 0,
};

/// A host bridge without registers of its own.
#[derive(Clone, Copy, Debug)]
pub struct HostBridge {
    config: PciConfig,
}

impl Default for HostBridge {
    fn default() -> Self {
        Self { config: PciConfig::new(&IDENTITY) }
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn decoded_bar(&self) -> Option<Bar> {
        None
    }

    fn place_bar(&mut self, _base: Option<u64>) {}

    fn read_bar(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&mut self, _offset: u64, _data: &[u8]) {}
}
