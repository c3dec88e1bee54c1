//! Steps for the guest that follows a script, as bytes that its assembly reads (`assembly/script.s`).

/// What a step does; the discriminant is its index in the assembly's table.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Operation {
    PowerOff,
    Open,
    OpenQueue,
    Start,
    Write,
    Say,
    Text,
    Await,
    Submit,
    Wait,
    AwaitClear,
}

/// Where a step reads or writes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// A guest-physical address.
    Memory(u32),
    /// An offset in the common configuration of the open device.
    Common(u32),
    /// An offset from the first notification address of the open device.
    Notify(u32),
    /// A byte of the PCI configuration space of the open device.
    Configuration(u32),
    /// An I/O port.
    Port(u32),
}

impl Place {
    fn parts(self) -> (u8, u32) {
        match self {
            Self::Memory(address) => (0, address),
            Self::Common(offset) => (1, offset),
            Self::Notify(offset) => (2, offset),
            Self::Configuration(offset) => (3, offset),
            Self::Port(port) => (4, port),
        }
    }
}

/// How many bytes a step reads or writes.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(crate) enum Width {
    Byte = 1,
    Word = 2,
    Double = 4,
}

/// Where queue 0 lies in the guest's memory (`assembly/virtio.s`).
pub(crate) const DESCRIPTORS: u32 = 0x10_4000;
/// Where queue 1 lies.
pub(crate) const SECOND_DESCRIPTORS: u32 = queue_at(1);
/// From a queue on, its available ring.
pub(crate) const AVAILABLE: u32 = 0x1000;
/// Room for buffers, eight pages.
pub(crate) const BUFFERS: u32 = queue_at(3);
/// The most descriptors that the guest gives a queue.
pub(crate) const QUEUE_SIZE: u32 = 16;

/// Where queue `queue` lies, 0 to 2.
pub(crate) const fn queue_at(queue: u32) -> u32 {
    DESCRIPTORS + queue * 0x3000
}

/// One descriptor (virtio 1.2 §2.7.5).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u32,
    pub(crate) next: u32,
}

/// Steps, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script(Vec<u8>);

impl Script {
    fn step(mut self, operation: Operation, width: Width, place: Place, value: u32, count: u32) -> Self {
        let (kind, address) = place.parts();
        self.0.extend_from_slice(&[operation as u8, width as u8, kind, 0]);
        for word in [address, value, count] {
            self.0.extend_from_slice(&word.to_le_bytes());
        }
        self
    }

    /// Finds the virtio device of this kind, resets it and negotiates `features` (the low 32) as far as offered.
    pub(crate) fn open(self, kind: u16, features: u32) -> Self {
        let register = (0x1040 + u32::from(kind)) << 16 | 0x1af4;
        self.step(Operation::Open, Width::Double, Place::Memory(register), features, 0)
    }

    /// Sets up queue `queue`, 0 to 2.
    pub(crate) fn open_queue(self, queue: u32) -> Self {
        self.step(Operation::OpenQueue, Width::Double, Place::Memory(0), queue, 0)
    }

    /// Sets `DRIVER_OK`.
    pub(crate) fn start(self) -> Self {
        self.step(Operation::Start, Width::Double, Place::Memory(0), 0, 0)
    }

    /// Writes once.
    pub(crate) fn write(self, place: Place, width: Width, value: u32) -> Self {
        self.write_often(place, width, value, 1)
    }

    /// Writes `count` times; 0 is as good as for ever.
    pub(crate) fn write_often(self, place: Place, width: Width, value: u32, count: u32) -> Self {
        self.step(Operation::Write, width, place, value, count)
    }

    /// Says `label` (at most 10 bytes), what is read in eight hexadecimal digits, and ends the line.
    pub(crate) fn say(self, label: &str, place: Place, width: Width) -> Self {
        self.text(label).text(" ").step(Operation::Say, width, place, 0, 0)
    }

    /// Says `text`, at most 11 bytes.
    pub(crate) fn text(mut self, text: &str) -> Self {
        assert!(text.len() < 12, "{text:?} does not fit a step");
        let mut step = [0; 16];
        step[0] = Operation::Text as u8;
        step[4..4 + text.len()].copy_from_slice(text.as_bytes());
        self.0.extend_from_slice(&step);
        self
    }

    /// Reads until any of `bits` is set.
    pub(crate) fn wait_for(self, place: Place, width: Width, bits: u32) -> Self {
        self.step(Operation::Await, width, place, bits, 0)
    }

    /// Reads until none of `bits` is set.
    pub(crate) fn wait_until_clear(self, place: Place, width: Width, bits: u32) -> Self {
        self.step(Operation::AwaitClear, width, place, bits, 0)
    }

    /// Makes the chain at descriptor `head` available in queue 0 and rings.
    pub(crate) fn submit(self, head: u32) -> Self {
        self.submit_to(0, head)
    }

    /// As [`Script::submit`], in queue `queue`, 0 to 2.
    pub(crate) fn submit_to(self, queue: u32, head: u32) -> Self {
        self.step(Operation::Submit, Width::Double, Place::Memory(queue), head, 0)
    }

    /// Waits until queue 0 has one more used chain.
    pub(crate) fn wait_used(self) -> Self {
        self.wait_used_of(0)
    }

    /// As [`Script::wait_used`], of queue `queue`, 0 to 2.
    pub(crate) fn wait_used_of(self, queue: u32) -> Self {
        self.step(Operation::Wait, Width::Double, Place::Memory(queue), 0, 0)
    }

    /// Writes entry `slot` of the table of descriptors at `table`.
    pub(crate) fn describe(self, table: u32, slot: u32, descriptor: Descriptor) -> Self {
        let Descriptor { address, length, flags, next } = descriptor;
        let [low, high] = [address & 0xffff_ffff, address >> 32]
            .map(|half| u32::try_from(half).expect("half of a 64-bit number"));
        let words = [low, high, length, next << 16 | flags];
        (0..).zip(words).fold(self, |script, (index, word)| {
            script.write(Place::Memory(table + slot * 16 + index * 4), Width::Double, word)
        })
    }

    /// Appends the steps of `part`.
    pub(crate) fn then(self, part: impl FnOnce(Self) -> Self) -> Self {
        part(self)
    }

    /// The bytes for the guest, which powers off after the last step.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.step(Operation::PowerOff, Width::Byte, Place::Memory(0), 0, 0).0
    }
}
