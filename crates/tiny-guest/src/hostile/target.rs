//! The devices that hostile guests attack: where each is, how a driver sets it up, and how it is used as it should be.

use super::{DATA, HEADER, INDIRECT_FEATURE, NEXT, STATUS, WRITE, descriptor, read_sector};
use crate::script::{DESCRIPTORS, Place, Script, Width, queue_at};

/// The device that a hostile guest attacks, and with which of its queues. Those that a device looks at as soon as their
/// doorbell rings are enough: all share what reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The disk and its only queue.
    Block,
    /// The entropy device and its only queue.
    Entropy,
    /// The network card, where it puts frames for the guest.
    NetReceive,
    /// The network card, where it finds frames of the guest.
    NetTransmit,
    /// The network card, where it finds commands.
    NetControl,
    /// The balloon, where it finds pages to take.
    Balloon,
    /// The socket device, where it finds packets of the guest.
    Sockets,
    /// The console, where it finds what the guest writes.
    Console,
}

/// `VIRTIO_NET_F_CTRL_VQ`.
const CONTROL_FEATURE: u32 = 1 << 17;
/// Where the machine places the memory of the device in slot 0; each slot has as much.
const FIRST_BAR: u32 = 0xc000_0000;
const BAR_STRIDE: u32 = 0x10_0000;
/// The page that the balloon gets.
const PAGE: u32 = 0x30_0000;
const USED: u32 = 0x2000;

impl Target {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Block,
        Self::Entropy,
        Self::NetReceive,
        Self::NetTransmit,
        Self::NetControl,
        Self::Balloon,
        Self::Sockets,
        Self::Console,
    ];

    /// Whether it is the network card.
    #[must_use]
    pub fn is_net(self) -> bool {
        matches!(self, Self::NetReceive | Self::NetTransmit | Self::NetControl)
    }

    /// What the guest says when the device does what it is there for.
    #[must_use]
    pub fn proof(self) -> &'static str {
        match self {
            Self::Block => "read 00000000\ndata 6b736964\n",
            Self::Entropy => "entropy 00000010\n",
            // A command that does not exist is refused.
            Self::NetReceive | Self::NetTransmit | Self::NetControl => "command 00000001\n",
            Self::Balloon => "page 00000000\n",
            // A reset: nobody listens.
            Self::Sockets => "answer 00000003\n",
            Self::Console => "console\n",
        }
    }

    /// The devices that must still work when this one was attacked.
    pub(super) fn bystanders(self) -> &'static [Self] {
        match self {
            Self::Block => &[Self::Entropy],
            Self::Entropy => &[Self::Block],
            Self::NetReceive
            | Self::NetTransmit
            | Self::NetControl
            | Self::Balloon
            | Self::Sockets
            | Self::Console => &[Self::Block, Self::Entropy],
        }
    }

    /// The device that this one's memory is moved onto.
    pub(super) fn neighbour(self) -> Self {
        if self == Self::Entropy { Self::Block } else { Self::Entropy }
    }

    /// The number of the attacked queue.
    pub(super) fn queue(self) -> u32 {
        match self {
            Self::Block | Self::Entropy | Self::NetReceive | Self::Balloon => 0,
            Self::NetTransmit | Self::Sockets | Self::Console => 1,
            Self::NetControl => 2,
        }
    }

    /// The address of the device's memory.
    pub(super) fn bar(self) -> u32 {
        let slot = match self {
            Self::Block => 1,
            Self::Entropy | Self::NetReceive | Self::NetTransmit | Self::NetControl => 2,
            Self::Balloon | Self::Sockets | Self::Console => 3,
        };
        FIRST_BAR + slot * BAR_STRIDE
    }

    /// The address of the neighbour's memory: a card comes before the entropy device.
    pub(super) fn neighbour_bar(self) -> u32 {
        if self.is_net() { FIRST_BAR + 3 * BAR_STRIDE } else { self.neighbour().bar() }
    }

    /// The device's number (virtio 1.2 §5).
    pub(super) fn kind(self) -> u16 {
        match self {
            Self::NetReceive | Self::NetTransmit | Self::NetControl => 1,
            Self::Block => 2,
            Self::Console => 3,
            Self::Entropy => 4,
            Self::Balloon => 5,
            Self::Sockets => 19,
        }
    }

    /// How many queues its driver sets up, from the first on.
    fn queues(self) -> u32 {
        match self {
            Self::Block | Self::Entropy => 1,
            Self::Balloon | Self::Sockets | Self::Console => 2,
            Self::NetReceive | Self::NetTransmit | Self::NetControl => 3,
        }
    }

    /// Resets it and negotiates.
    pub(super) fn negotiate(self, script: Script) -> Script {
        let control = if self.is_net() { CONTROL_FEATURE } else { 0 };
        script.open(self.kind(), INDIRECT_FEATURE | control)
    }

    /// Resets it, negotiates, and sets up all queues but the attacked one.
    pub(super) fn open_others(self, script: Script) -> Script {
        let others = (0..self.queues()).filter(|queue| *queue != self.queue());
        others.fold(self.negotiate(script), Script::open_queue)
    }

    /// Does all that comes before `DRIVER_OK`; the attacked queue is the selected one.
    pub(super) fn open(self, script: Script) -> Script {
        self.open_others(script).open_queue(self.queue())
    }

    /// Uses it as it should be, and says [`Target::proof`].
    pub(super) fn exercise(self, script: Script) -> Script {
        match self {
            Self::Block => read_sector(script),
            Self::Entropy => fetch_entropy(script),
            Self::NetReceive | Self::NetTransmit | Self::NetControl => send_frame_and_command(script),
            Self::Balloon => give_page(script),
            Self::Sockets => connect(script),
            Self::Console => write_line(script),
        }
    }
}

/// Asks for 16 bytes and says `entropy` with how many came.
fn fetch_entropy(script: Script) -> Script {
    script.describe(DESCRIPTORS, 0, descriptor(DATA.into(), 16, WRITE, 0)).submit(0).wait_used().say(
        "entropy",
        Place::Memory(DESCRIPTORS + USED + 8),
        Width::Double,
    )
}

/// Sends a frame without meaning, then a command that does not exist, and says `command` with the answer to that.
fn send_frame_and_command(script: Script) -> Script {
    script
        .describe(queue_at(1), 0, descriptor(DATA.into(), 12 + 60, 0, 0))
        .submit_to(1, 0)
        .wait_used_of(1)
        .write(Place::Memory(HEADER), Width::Word, 0x7f)
        .write(Place::Memory(STATUS), Width::Byte, 0xff)
        .describe(queue_at(2), 0, descriptor(HEADER.into(), 2, NEXT, 1))
        .describe(queue_at(2), 1, descriptor(STATUS.into(), 1, WRITE, 0))
        .submit_to(2, 0)
        .wait_used_of(2)
        .say("command", Place::Memory(STATUS), Width::Byte)
}

/// Gives a page that is not empty and says `page` with its first bytes.
fn give_page(script: Script) -> Script {
    script
        .write(Place::Memory(PAGE), Width::Double, 0xaaaa_aaaa)
        .write(Place::Memory(HEADER), Width::Double, PAGE >> 12)
        .describe(DESCRIPTORS, 0, descriptor(HEADER.into(), 4, 0, 0))
        .submit(0)
        .wait_used()
        .say("page", Place::Memory(PAGE), Width::Double)
}

/// Asks the host for a port that nobody listens on and says `answer` with the operation that comes back.
fn connect(script: Script) -> Script {
    // Addresses 3 and 2, ports 1024 and 9, no data, a stream's request, room for 64 KiB (virtio 1.2 §5.10.6).
    let header = [3, 0, 2, 0, 1024, 9, 0, 1 | 1 << 16, 0, 0x1_0000, 0];
    let script = (HEADER..)
        .step_by(4)
        .zip(header)
        .fold(script, |script, (address, word)| script.write(Place::Memory(address), Width::Double, word));
    script
        .describe(DESCRIPTORS, 0, descriptor(DATA.into(), 0x1000, WRITE, 0))
        .submit(0)
        .describe(queue_at(1), 0, descriptor(HEADER.into(), 44, 0, 0))
        .submit_to(1, 0)
        .wait_used_of(1)
        .wait_used()
        .say("answer", Place::Memory(DATA + 30), Width::Word)
}

/// Writes a line.
fn write_line(script: Script) -> Script {
    script
        .write(Place::Memory(DATA), Width::Double, u32::from_le_bytes(*b"cons"))
        .write(Place::Memory(DATA + 4), Width::Double, u32::from_le_bytes(*b"ole\n"))
        .describe(queue_at(1), 0, descriptor(DATA.into(), 8, 0, 0))
        .submit_to(1, 0)
        .wait_used_of(1)
}
