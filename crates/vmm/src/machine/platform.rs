//! The devices every machine has, whatever its description: serial port, sleep register, event device, keyboard
//! controller, clock.

use std::io;
use std::sync::Arc;

use devices::acpi::{EVENT_DEVICE_LENGTH, EventDevice, SleepRegister};
use devices::bus::{BusBuilder, BusError};
use devices::cmos::Cmos;
use devices::keyboard_controller::KeyboardController;
use devices::pvpanic::{PVPANIC_LENGTH, PanicDevice};
use devices::serial::{ConsoleSink, SerialPort};
use hypervisor::Vm;
use vm_model::SerialMode;

use super::BuildError;
use super::console::{ConsoleTap, NullSink};
use crate::interrupts::WiredInterrupt;
use crate::layout;
use crate::outcome::Outcome;

/// The platform's devices.
pub(super) struct Platform {
    pub(super) serial: Arc<SerialPort>,
    pub(super) serial_mode: SerialMode,
    pub(super) event_device: Arc<EventDevice>,
    sleep: Arc<SleepRegister>,
    keyboard: Arc<KeyboardController>,
    clock: Arc<Cmos>,
    panic: Option<Arc<PanicDevice>>,
}

impl Platform {
    /// Makes them; what the guest writes to its serial port goes to `console` if `mode` says so.
    pub(super) fn build(
        vm: &Vm,
        mode: SerialMode,
        panic_device: bool,
        console: &ConsoleTap,
        outcome: &Arc<Outcome>,
    ) -> Result<Self, BuildError> {
        let sink: Box<dyn ConsoleSink> = match mode {
            SerialMode::Console => Box::new(console.clone()),
            SerialMode::Null => Box::new(NullSink),
        };
        let serial_line = wire(vm, layout::SERIAL_GSI, "the serial port")?;
        let serial = SerialPort::new(serial_line, sink).map_err(|error| failed("the serial port", error))?;
        let event_line = wire(vm, layout::EVENT_DEVICE_GSI, "the event device")?;
        Ok(Self {
            serial: Arc::new(serial),
            serial_mode: mode,
            event_device: Arc::new(EventDevice::new(event_line, outcome.clone())),
            sleep: Arc::new(SleepRegister::new(outcome.clone())),
            keyboard: Arc::new(KeyboardController::new(outcome.clone())),
            clock: Arc::new(Cmos::new()),
            panic: panic_device.then(|| Arc::new(PanicDevice::new(outcome.clone()))),
        })
    }

    /// Puts them where the layout has them.
    pub(super) fn attach(&self, ports: &mut BusBuilder, memory: &mut BusBuilder) -> Result<(), BusError> {
        let length = |range: &std::ops::Range<u64>| range.end - range.start;
        for (name, range, device) in [
            ("serial port", layout::SERIAL_PORTS, self.serial.clone() as Arc<dyn devices::bus::BusDevice>),
            ("sleep register", layout::SLEEP_PORTS, self.sleep.clone()),
            ("keyboard controller", layout::KEYBOARD_PORTS, self.keyboard.clone()),
            ("clock", layout::RTC_PORTS, self.clock.clone()),
        ] {
            ports.add(name, range.start, length(&range), device)?;
        }
        if let Some(panic) = &self.panic {
            ports.add("panic device", layout::PANIC_PORTS.start, PVPANIC_LENGTH, panic.clone())?;
        }
        memory.add(
            "event device",
            layout::EVENT_DEVICE.start,
            EVENT_DEVICE_LENGTH,
            self.event_device.clone(),
        )?;
        Ok(())
    }
}

fn wire(vm: &Vm, gsi: u32, device: &str) -> Result<Arc<WiredInterrupt>, BuildError> {
    WiredInterrupt::connect(vm, gsi).map(Arc::new).map_err(|error| failed(device, error))
}

fn failed(device: &str, error: io::Error) -> BuildError {
    BuildError::Device { device: device.to_owned(), source: error.into() }
}
