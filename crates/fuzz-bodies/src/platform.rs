//! The small devices of a PC: serial port, clock chip, keyboard controller, ACPI registers, panic device,
//! watchdog.

use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::acpi::{EVENT_DEVICE_LENGTH, EventDevice, SLEEP_REGISTER_LENGTH, SleepRegister};
use devices::bus::{Bus, BusDevice};
use devices::cmos::{CMOS_LENGTH, Cmos};
use devices::keyboard_controller::{KEYBOARD_CONTROLLER_LENGTH, KeyboardController};
use devices::pci::PciFunction;
use devices::pvpanic::{PVPANIC_LENGTH, PanicDevice};
use devices::serial::SerialPort;
use devices::watchdog::WatchdogDevice;

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
    let events = Arc::new(EventDevice::new(line, Arc::new(Nowhere)));
    let mut ports = Bus::builder();
    let mut places = vec![(0, 0u64)];
    let devices: [(u64, u64, Arc<dyn BusDevice>); 5] = [
        (0x60, KEYBOARD_CONTROLLER_LENGTH, Arc::new(KeyboardController::new(Arc::new(Nowhere)))),
        (0x70, CMOS_LENGTH, Arc::new(Cmos::new())),
        (0x600, SLEEP_REGISTER_LENGTH, Arc::new(SleepRegister::new(Arc::new(Nowhere)))),
        (0x700, EVENT_DEVICE_LENGTH, events.clone()),
        (0x505, PVPANIC_LENGTH, Arc::new(PanicDevice::new(Arc::new(Nowhere)))),
    ];
    for (base, length, device) in devices {
        ports.add("device", base, length, device).expect("they do not overlap");
        places.push((base, length));
    }
    let ports = ports.build();
    let mut watchdog = WatchdogDevice::new(0xc000_0000, Arc::new(Nowhere)).expect("a descriptor");
    while !input.is_empty() {
        if input.below(4) == 0 {
            touch_watchdog(&mut input, &mut watchdog);
            continue;
        }
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

/// An access to the watchdog's registers, in time or out of it.
fn touch_watchdog(input: &mut Input<'_>, watchdog: &mut WatchdogDevice) {
    let now = Instant::now() + Duration::from_millis(input.word().into());
    let (offset, width) = (input.below(16), input.width().min(8));
    let width_in_bar = width.min(16 - offset);
    let register = 0x5c + offset;
    match input.below(8) {
        0 => watchdog.read_config(register, &mut vec![0; width]),
        1 | 2 => watchdog.write_config(register, input.piece(width)),
        3 => watchdog.read_bar(offset as u64, &mut vec![0; width_in_bar]),
        4 => watchdog.write_bar(offset as u64, input.piece(width_in_bar)),
        5 => {
            // As a driver unlocks the next write.
            watchdog.write_bar(0xc, &[0x80, 0]);
            watchdog.write_bar(0xc, &[0x86, 0]);
        }
        6 => watchdog.handle_timer(now),
        _ if input.flag() => watchdog.freeze(now),
        _ => watchdog.thaw(now),
    }
}
