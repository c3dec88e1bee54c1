//! The console as a virtio device: its two queues and its configuration space.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::handle::{ConsoleHandle, ConsoleSize};
use super::receive::receive;
use super::transmit::Transmit;
use crate::serial::ConsoleSink;
use crate::virtio::configuration::read_configuration;
use crate::virtio::queue::{Queue, QueueFault};
use crate::virtio::{ActivateError, Activation, DeviceEvent, VirtioDevice, VirtioDeviceType};
use crate::wake::WakeEvent;

/// The configuration space has the console's size (virtio 1.2 §5.3.3).
const SIZE: u64 = 1 << 0;

/// Numbers of queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const QUEUE_SIZES: [u16; 2] = [64, 64];

/// Tokens.
const GO_ON: u16 = 0;
const TYPED: u16 = 1;

/// What a console is made of.
pub struct ConsoleDeviceConfig {
    /// Takes what the guest transmits.
    pub sink: Box<dyn ConsoleSink>,
    /// Its size until it is changed.
    pub size: ConsoleSize,
}

/// A console with one port.
pub struct ConsoleDevice {
    handle: Arc<ConsoleHandle>,
    sink: Box<dyn ConsoleSink>,
    state: State,
    go_on: WakeEvent,
}

enum State {
    Reset,
    Active(Box<Queues>),
    /// The queues are ignored until reset (virtio 1.2 §2.1.2).
    Broken,
}

struct Queues {
    receive: Queue,
    transmit: Transmit,
}

impl ConsoleDevice {
    /// A console in reset.
    ///
    /// # Errors
    /// The process or the host has no file descriptor left.
    pub fn new(config: ConsoleDeviceConfig) -> io::Result<Self> {
        Ok(Self {
            handle: Arc::new(ConsoleHandle::new(config.size)?),
            sink: config.sink,
            state: State::Reset,
            go_on: WakeEvent::new()?,
        })
    }

    /// Its input and size.
    #[must_use]
    pub fn handle(&self) -> Arc<ConsoleHandle> {
        Arc::clone(&self.handle)
    }

    /// Does `work` on the queues of an active console. `work` returns whether there is more to do.
    fn turn(
        &mut self,
        work: impl FnOnce(&mut Queues, &ConsoleHandle, &mut dyn ConsoleSink) -> Result<bool, QueueFault>,
    ) {
        let State::Active(queues) = &mut self.state else { return };
        match work(queues, &self.handle, self.sink.as_mut()) {
            Ok(true) => self.go_on.ring(),
            Ok(false) => {}
            Err(fault) => {
                tracing::debug!(error = %fault, "a console's queue is broken");
                self.state = State::Broken;
            }
        }
    }
}

impl Queues {
    fn all(&mut self, handle: &ConsoleHandle, sink: &mut dyn ConsoleSink) -> Result<bool, QueueFault> {
        // Both queues are served, whatever the first call returns.
        let more = [receive(&mut self.receive, handle)?, self.transmit.serve(sink)?];
        Ok(more.contains(&true))
    }
}

impl VirtioDevice for ConsoleDevice {
    fn device_type(&self) -> VirtioDeviceType {
        VirtioDeviceType::Console
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn offered_features(&self) -> u64 {
        SIZE | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    /// Columns and rows; the fields after them belong to features that are not offered (§5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let ConsoleSize { columns, rows } = self.handle.size();
        read_configuration([columns.to_le_bytes(), rows.to_le_bytes()].as_flattened(), offset, data);
    }

    /// Nothing in it is the driver's.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut queues = activation.queues.into_iter();
        let mut take = |index| queues.next().flatten().ok_or(ActivateError::QueueDisabled { index });
        let (receive, transmit) = (take(RECEIVE)?, Transmit::new(take(TRANSMIT)?));
        self.state = State::Active(Box::new(Queues { receive, transmit }));
        Ok(())
    }

    fn events(&self) -> Vec<DeviceEvent<'_>> {
        vec![
            DeviceEvent { fd: self.go_on.as_fd(), token: GO_ON },
            DeviceEvent { fd: self.handle.typed_event(), token: TYPED },
        ]
    }

    fn doorbell(&mut self, index: u16) {
        match index {
            RECEIVE => self.turn(|queues, handle, _sink| receive(&mut queues.receive, handle)),
            TRANSMIT => self.turn(|queues, _handle, sink| queues.transmit.serve(sink)),
            _ => {}
        }
    }

    fn event(&mut self, token: u16) {
        match token {
            TYPED => self.turn(|queues, handle, _sink| receive(&mut queues.receive, handle)),
            _ => self.turn(Queues::all),
        }
    }

    /// Nothing is ever in flight between calls.
    fn drain(&mut self, _deadline: Instant) -> bool {
        true
    }

    fn reset(&mut self) {
        self.state = State::Reset;
    }

    fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }
}

#[cfg(test)]
mod tests;
