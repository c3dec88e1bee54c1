//! The entropy source (virtio 1.2 §5.4): the host's random numbers, a bounded amount a turn.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::queue::{Chain, Queue, QueueFault};
use super::{ActivateError, Activation, DeviceEvent, VirtioDevice, VirtioDeviceType};
use crate::wake::WakeEvent;

const QUEUE_SIZE: u16 = 64;
/// Token: a turn ended before its work did.
const GO_ON: u16 = 0;
/// The most bytes one request gets; the driver asks again if it wants more.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// Bytes after which a turn ends.
const TURN_BYTES: u64 = 64 << 10;
/// Requests after which a turn ends, however small.
const TURN_REQUESTS: u32 = 64;
/// Bytes taken from the host at a time.
const PIECE_BYTES: usize = 1024;

/// A virtio entropy source.
pub struct RngDevice {
    state: State,
    go_on: WakeEvent,
}

enum State {
    Reset,
    Active(Queue),
    /// The queue is ignored until reset (virtio 1.2 §2.1.2).
    Broken,
}

impl RngDevice {
    /// A source in reset.
    ///
    /// # Errors
    /// The process or the host has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { state: State::Reset, go_on: WakeEvent::new()? })
    }

    fn turn(&mut self) {
        let State::Active(queue) = &mut self.state else { return };
        match serve(queue) {
            Ok(true) => self.go_on.ring(),
            Ok(false) => {}
            Err(fault) => {
                tracing::debug!(error = %fault, "an entropy source's queue is broken");
                self.state = State::Broken;
            }
        }
    }
}

/// Fills requests until there are none, or too many for one turn: then `true`.
fn serve(queue: &mut Queue) -> Result<bool, QueueFault> {
    let (mut requests, mut bytes) = (0, 0);
    let more = loop {
        queue.suppress_doorbells();
        while requests < TURN_REQUESTS
            && bytes < TURN_BYTES
            && let Some(chain) = queue.pop()?
        {
            let filled = fill(queue, &chain);
            queue.complete(chain.head(), filled)?;
            requests += 1;
            bytes += u64::from(filled);
        }
        if requests >= TURN_REQUESTS || bytes >= TURN_BYTES {
            break true;
        }
        if !queue.enable_doorbells()? {
            break false;
        }
    };
    queue.notify()?;
    Ok(more)
}

/// Fills `chain` from its start: the bytes written, fewer than it has room for where the host fails.
fn fill(queue: &Queue, chain: &Chain) -> u32 {
    let wanted = chain.writable_len().min(REQUEST_BYTES_MAX);
    let mut piece = [0; PIECE_BYTES];
    let mut filled = 0;
    while filled < wanted {
        let length = usize::try_from(wanted - filled).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES));
        let piece = &mut piece[..length];
        if getrandom(&mut *piece, GetRandomFlags::empty()).ok() != Some(length)
            || chain.write_at(queue.memory(), filled, piece).is_err()
        {
            break;
        }
        filled += length as u64;
    }
    u32::try_from(filled).unwrap_or(u32::MAX)
}

impl VirtioDevice for RngDevice {
    fn device_type(&self) -> VirtioDeviceType {
        VirtioDeviceType::Entropy
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn offered_features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    /// There is no configuration.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().next().flatten();
        self.state = State::Active(queue.ok_or(ActivateError::QueueDisabled { index: 0 })?);
        Ok(())
    }

    fn events(&self) -> Vec<DeviceEvent<'_>> {
        vec![DeviceEvent { fd: self.go_on.as_fd(), token: GO_ON }]
    }

    fn doorbell(&mut self, _index: u16) {
        self.turn();
    }

    fn event(&mut self, _token: u16) {
        self.turn();
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
mod tests {
    use std::sync::Arc;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::virtio::queue::RingFeatures;
    use crate::virtio::queue::testing::{Buffer, DriverQueue, small_memory};

    const DATA: GuestAddress = GuestAddress(0x10000);

    fn active() -> (RngDevice, DriverQueue) {
        let driver = DriverQueue::new(small_memory(0x100000), GuestAddress(0), QUEUE_SIZE);
        let (queue, _interrupt) = driver.device_queue(RingFeatures::default());
        let mut device = RngDevice::new().unwrap();
        device
            .activate(Activation {
                memory: Arc::clone(&driver.memory),
                features: 0,
                queues: vec![Some(queue)],
            })
            .unwrap();
        (device, driver)
    }

    #[test]
    fn a_request_is_filled_to_its_last_byte_and_no_further() {
        let (mut device, mut driver) = active();
        let head = driver.add_chain(&[
            Buffer::Writable(DATA, 1500),
            Buffer::Writable(GuestAddress(DATA.0 + 0x1000), 1500),
        ]);
        device.doorbell(0);
        assert_eq!(driver.drain_used(), [(head, 3000)]);
        let mut content = [0; 1504];
        driver.memory.read_slice(&mut content, DATA).unwrap();
        assert!(content[..1500].chunks(100).all(|piece| piece.iter().any(|byte| *byte != 0)));
        assert_eq!(content[1500..], [0; 4]);
    }

    #[test]
    fn a_request_is_capped_and_a_turn_bounded() {
        let (mut device, mut driver) = active();
        for _ in 0..2 {
            driver.add_chain(&[Buffer::Writable(DATA, 0x20000)]);
        }
        device.doorbell(0);
        assert_eq!(driver.drain_used(), [(0, 0x10000)]);
        assert!(device.go_on.take());
        device.event(GO_ON);
        assert_eq!(driver.drain_used(), [(1, 0x10000)]);
    }

    #[test]
    fn readable_buffers_go_back_empty_and_faults_break_until_reset() {
        let (mut device, mut driver) = active();
        driver.add_chain(&[Buffer::Readable(DATA, 16)]);
        device.doorbell(0);
        assert_eq!(driver.drain_used(), [(0, 0)]);
        driver.add_chain(&[Buffer::Raw(u64::MAX, 16, 0)]);
        device.doorbell(0);
        assert!(device.is_broken());
        device.reset();
        assert!(!device.is_broken());
        device.doorbell(0);
        device.event(GO_ON);
    }
}
