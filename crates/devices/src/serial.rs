//! The 16550A serial port: a register file over `vm-superio`, a sink for what the guest writes, and input with
//! back-pressure.
//!
//! ```text
//! vCPU threads ──read/write──→ SerialPort ──ConsoleSink──→ whoever keeps the console
//! event loop ────enqueue─────→    │  └──────LineInterrupt→ guest
//! event loop ←───room_event───────┘
//! ```
//!
//! Output reaches the sink in the same call, byte by byte, so nothing is lost when the machine dies right after.
//! What is kept of it, and where input comes from, is the caller's business.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{Error as UartError, NoEvents, Serial};

use crate::bus::BusDevice;
use crate::ports::LineInterrupt;
use crate::wake::WakeEvent;

/// Registers of the port, from its base address on.
pub const SERIAL_PORT_LENGTH: u64 = 8;

/// Free bytes in the receive FIFO (of 64) from which on more input is asked for.
const ROOM_WORTH_TELLING: usize = 32;

/// Takes what the guest writes, in order, from its first byte on.
///
/// Called with the lock of the port, or of the virtio console, held, on a vCPU's thread or the event loop: it must
/// neither block nor call back into the device.
pub trait ConsoleSink: Send {
    /// Takes `bytes`. There is no failure: a sink that cannot keep them counts them itself.
    fn write(&mut self, bytes: &[u8]);
}

/// One serial port at eight consecutive I/O ports.
pub struct SerialPort {
    /// Leaf lock: held while the sink and the interrupt are called.
    uart: Mutex<Uart>,
    room: WakeEvent,
    missed_interrupts: AtomicU64,
}

struct Uart {
    registers: Serial<EdgeTrigger, NoEvents, SinkWriter>,
    /// Input was cut short; ring `room` when there is some.
    starved: bool,
}

impl SerialPort {
    /// A port after reset.
    ///
    /// # Errors
    /// No eventfd could be created.
    pub fn new(interrupt: Arc<dyn LineInterrupt>, sink: Box<dyn ConsoleSink>) -> io::Result<Self> {
        let room = WakeEvent::new()?;
        let registers = Serial::new(EdgeTrigger(interrupt), SinkWriter(sink));
        Ok(Self {
            uart: Mutex::new(Uart { registers, starved: false }),
            room,
            missed_interrupts: AtomicU64::new(0),
        })
    }

    /// Types `bytes` at the guest: the number taken, from the first on. Fewer than all when the receive FIFO is
    /// full or looped back; [`SerialPort::room_event`] then becomes readable when it is worth trying again.
    pub fn enqueue(&self, bytes: &[u8]) -> usize {
        let mut uart = self.lock();
        let room = uart.registers.fifo_capacity();
        let taken = match uart.registers.enqueue_raw_bytes(bytes) {
            Ok(taken) => taken,
            // The bytes are in the FIFO already; only the edge is missing.
            Err(UartError::Trigger(_refused)) => {
                self.count_missed_interrupt();
                bytes.len().min(room)
            }
            Err(UartError::FullFifo | UartError::IOError(_)) => 0,
        };
        uart.starved = taken < bytes.len();
        taken
    }

    /// Readable (an eventfd, to be watched edge-triggered) when [`SerialPort::enqueue`] took less than it was
    /// given and there is room again.
    #[must_use]
    pub fn room_event(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    /// Interrupts that the host refused to deliver.
    #[must_use]
    pub fn missed_interrupts(&self) -> u64 {
        self.missed_interrupts.load(Ordering::Relaxed)
    }

    fn read_register(&self, uart: &mut Uart, register: u8) -> u8 {
        let value = uart.registers.read(register);
        self.tell_room(uart);
        value
    }

    fn write_register(&self, uart: &mut Uart, register: u8, value: u8) {
        match uart.registers.write(register, value) {
            Ok(()) => {}
            Err(UartError::Trigger(_refused)) => self.count_missed_interrupt(),
            // Neither comes from a write: the sink has no failure and input has its own path.
            Err(UartError::IOError(_) | UartError::FullFifo) => {}
        }
        self.tell_room(uart);
    }

    /// Called after each access, because leaving loopback (a write) makes room just as reading data does.
    fn tell_room(&self, uart: &mut Uart) {
        if uart.starved && uart.registers.fifo_capacity() >= ROOM_WORTH_TELLING {
            uart.starved = false;
            self.room.ring();
        }
    }

    fn count_missed_interrupt(&self) {
        self.missed_interrupts.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for SerialPort {
    /// A wider access is that many byte accesses to consecutive registers, as on an 8-bit bus.
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.lock();
        for (position, byte) in data.iter_mut().enumerate() {
            *byte = match register_number(offset, position) {
                Some(register) => self.read_register(&mut uart, register),
                None => 0xff,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut uart = self.lock();
        for (position, byte) in data.iter().enumerate() {
            if let Some(register) = register_number(offset, position) {
                self.write_register(&mut uart, register, *byte);
            }
        }
    }
}

fn register_number(offset: u64, position: usize) -> Option<u8> {
    let register = offset.checked_add(position as u64)?;
    u8::try_from(register).ok().filter(|_| register < SERIAL_PORT_LENGTH)
}

/// Lets the register file raise the port's interrupt.
struct EdgeTrigger(Arc<dyn LineInterrupt>);

impl Trigger for EdgeTrigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.trigger()
    }
}

/// Lets the register file write to the sink.
struct SinkWriter(Box<dyn ConsoleSink>);

impl io::Write for SinkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
