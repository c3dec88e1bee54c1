//! The small devices of a PC at their ports: serial port, clock chip, keyboard controller, ACPI registers.

use std::sync::Arc;

use devices::acpi::{EVENT_DEVICE_LENGTH, EventDevice, SLEEP_REGISTER_LENGTH, SleepRegister};
use devices::bus::{Bus, BusDevice};
use devices::cmos::{CMOS_LENGTH, Cmos};
use devices::keyboard_controller::{KEYBOARD_CONTROLLER_LENGTH, KeyboardController};
use devices::serial::SerialPort;

use crate::input::Input;
use crate::ports::{Line, Nowhere};

/// Bytes in the port's receive FIFO (16550 data sheets have 16; the emulated one is longer).
const FIFO_BYTES_MAX: usize = 64;

/// Reads and writes of any width on the serial port while input is typed and interrupts fail.
pub(crate) fn serial_port(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let line = Arc::new(Line::new(input.flag()));
    let port = SerialPort::new(line, Box::new(Nowhere)).expect("a descriptor");
    while !input.is_empty() {
        match input.below(4) {
            0 => {
                let typed = input.below(256);
                let taken = port.enqueue(&vec![b'x'; typed]);
                assert!(taken <= typed.min(FIFO_BYTES_MAX), "{taken} of {typed} bytes taken");
            }
            1 => port.read(input.byte().into(), &mut vec![0; input.width()]),
            _ => {
                let (register, width) = (input.byte() % 9, input.width());
                port.write(register.into(), input.piece(width));
            }
        }
    }
}

/// Reads and writes of any width on everything else.
pub(crate) fn registers(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let line = Arc::new(Line::new(input.flag()));
    let events = Arc::new(EventDevice::new(line));
    let mut ports = Bus::builder();
    let mut places = vec![(0, 0u64)];
    let devices: [(u64, u64, Arc<dyn BusDevice>); 4] = [
        (0x60, KEYBOARD_CONTROLLER_LENGTH, Arc::new(KeyboardController::new(Arc::new(Nowhere)))),
        (0x70, CMOS_LENGTH, Arc::new(Cmos::new())),
        (0x600, SLEEP_REGISTER_LENGTH, Arc::new(SleepRegister::new(Arc::new(Nowhere)))),
        (0x700, EVENT_DEVICE_LENGTH, events.clone()),
    ];
    for (base, length, device) in devices {
        ports.add("device", base, length, device).expect("they do not overlap");
        places.push((base, length));
    }
    let ports = ports.build();
    while !input.is_empty() {
        let (base, length) = places[input.below(places.len())];
        let address = base + u64::from(input.byte()) % (length + 2);
        match input.below(4) {
            0 => ports.read(address, &mut vec![0; input.width()]),
            1 => {
                // An interrupt that the host refuses leaves the event pending.
                let _refused =
                    if input.flag() { events.announce_generation() } else { events.press_power_button() };
            }
            _ => {
                let width = input.width();
                ports.write(address, input.piece(width));
            }
        }
    }
}
