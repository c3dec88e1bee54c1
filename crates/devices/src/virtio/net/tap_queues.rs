//! The TAP queues of a card, one for each pair of virtqueues, and which of them the host gives frames to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};

use vm_model::LinkState;

use super::offloads::{Offloads, UdpSegmentation};
use super::port::{FramePort, PortUse};

/// All TAP queues of a card. The first `attached` are in use, at least one.
pub(super) struct TapQueues {
    queues: Vec<TapQueue>,
    attached: usize,
    /// The offloads that the interface was last set to. Nobody else sets them.
    offloads: Offloads,
}

struct TapQueue {
    port: Box<dyn FramePort>,
    /// An epoll that watches the port for room while a transmitter is blocked, and is readable when there is.
    room: OwnedFd,
}

impl TapQueues {
    /// Takes `ports`, at least one, with the first alone in use.
    ///
    /// # Errors
    /// The process or the host has no file descriptor left, or a port cannot be watched or left unused.
    pub(super) fn new(ports: Vec<Box<dyn FramePort>>) -> io::Result<Self> {
        let queues = ports.into_iter().map(TapQueue::new).collect::<io::Result<Vec<_>>>()?;
        for (index, tap_queue) in queues.iter().enumerate().rev() {
            let wanted = if index == 0 { PortUse::Attached } else { PortUse::Detached };
            if tap_queue.port.initial_use() != wanted {
                tap_queue.port.set_use(wanted)?;
            }
        }
        Ok(Self { attached: 1, queues, offloads: Offloads::default() })
    }

    /// How many are in use.
    pub(super) fn attached(&self) -> usize {
        self.attached
    }

    /// Attaches exactly the first `count` ports, so that the host gives frames to no others. Frames that wait in a port
    /// that is detached are lost, as on a link that goes down.
    ///
    /// # Errors
    /// The host refused; some ports may have changed.
    pub(super) fn attach(&mut self, count: usize) -> io::Result<()> {
        while self.attached < count.min(self.queues.len()) {
            self.queues[self.attached].port.set_use(PortUse::Attached)?;
            self.attached += 1;
        }
        while self.attached > count.max(1) {
            self.queues[self.attached - 1].port.set_use(PortUse::Detached)?;
            self.attached -= 1;
        }
        Ok(())
    }

    /// The offloads that the guest accepts in frames.
    pub(super) fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Sets the offloads that the guest accepts in frames. The ports belong to one interface: it is set once, and only on a
    /// change.
    ///
    /// # Errors
    /// The host refused.
    pub(super) fn set_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        if offloads != self.offloads
            && let Some(tap_queue) = self.queues.first()
        {
            tap_queue.port.set_offloads(offloads)?;
        }
        self.offloads = offloads;
        Ok(())
    }

    /// Sets the interface's carrier, once for all of its ports, to the state of the guest's link. A host that does not
    /// support it goes on sending frames, which are lost.
    pub(super) fn set_carrier(&self, link: LinkState) {
        if let Some(tap_queue) = self.queues.first()
            && let Err(error) = tap_queue.port.set_carrier(link)
        {
            tracing::debug!(?link, %error, "the host is not told of a network card's link");
        }
    }

    /// Whether the interface segments UDP.
    pub(super) fn udp_segmentation(&self) -> UdpSegmentation {
        self.queues
            .first()
            .map_or(UdpSegmentation::Unsupported, |tap_queue| tap_queue.port.udp_segmentation())
    }

    /// The port of pair `index`.
    pub(super) fn port(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.queues.get(index).map(|tap_queue| tap_queue.port.fd())
    }

    /// Discards at most `most` frames that wait in the port of pair `index`, and returns their number.
    pub(super) fn discard(&self, index: usize, most: usize) -> usize {
        let Some(port) = self.port(index) else { return 0 };
        // A read takes a whole frame, however little of it fits.
        let mut start = [0; 64];
        (0..most).take_while(|_| rustix::io::read(port, &mut start).is_ok_and(|bytes| bytes > 0)).count()
    }

    /// Port and room of each.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, BorrowedFd<'_>)> {
        self.queues.iter().map(|tap_queue| (tap_queue.port.fd(), tap_queue.room.as_fd()))
    }

    /// Makes the room of `index` readable once, when the port has some: also at once, if it has by now.
    pub(super) fn watch_for_room(&self, index: usize) -> io::Result<()> {
        let Some(tap_queue) = self.queues.get(index) else { return Ok(()) };
        let flags = epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT;
        epoll::modify(&tap_queue.room, tap_queue.port.fd(), epoll::EventData::new_u64(0), flags)?;
        Ok(())
    }

    /// Takes the event of room of `index`, so that the next one makes a new edge.
    pub(super) fn take_room(&self, index: usize) {
        let Some(tap_queue) = self.queues.get(index) else { return };
        let mut events = Vec::with_capacity(1);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spare = rustix::buffer::spare_capacity(&mut events);
        let _interrupted = epoll::wait(&tap_queue.room, spare, Some(&now));
    }
}

impl TapQueue {
    fn new(port: Box<dyn FramePort>) -> io::Result<Self> {
        let room = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&room, port.fd(), epoll::EventData::new_u64(0), epoll::EventFlags::empty())?;
        Ok(Self { port, room })
    }
}
