//! What hostile guests do to a device of their machine, each as a script.
//!
//! An attack starts from a device that was set up properly, and ends with a look at the device's status. Then the
//! guest resets the device and uses it, and others, as a driver should: all must work.

mod target;

use crate::script::{
    AVAILABLE, BUFFERS, DESCRIPTORS, Descriptor, Place, QUEUE_SIZE, Script, Width, queue_at,
};
pub use target::Target;

/// What a hostile guest does wrong. Sections are of virtio 1.2, unless they name another specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attack {
    /// A chain whose second descriptor leads back to its first (§2.7.5.2).
    DescriptorLoop,
    /// A descriptor that leads to one past the table (§2.7.5).
    DescriptorPastTable,
    /// A chain in an indirect table, one descriptor longer than the queue (§2.7.5.3.1).
    ChainLongerThanQueue,
    /// A buffer where there is no memory.
    BufferOutsideMemory,
    /// A buffer that begins in memory and ends outside.
    BufferAcrossMemoryEnd,
    /// A buffer that wraps around the end of the address space.
    BufferWrapsAround,
    /// A buffer of no bytes.
    EmptyBuffer,
    /// An indirect table within an indirect table (§2.7.5.3.1).
    NestedIndirect,
    /// An indirect table whose length is no whole number of descriptors (§2.7.5.3.1).
    IndirectOfOddLength,
    /// An available index far ahead of the last one (§2.7.6).
    AvailableIndexJump,
    /// A queue placed outside of memory (§4.1.4.3).
    QueueOutsideMemory,
    /// 2,000 doorbells without anything behind them, also for queues that do not exist (§4.1.4.4).
    DoorbellStorm,
    /// Writes to the configuration at widths and places that no field has (§4.1.3.1).
    OddWidths,
    /// Features, queue addresses, sizes and enables written after `DRIVER_OK` (§4.1.4.3.2).
    SettingsAfterDriverOk,
    /// Interrupt vectors that do not exist, and writes past the MSI-X table (§4.1.5.1.2.1, PCI 3.0 §6.8.2).
    VectorsOutOfRange,
    /// The device's memory moved onto the guest's own (PCI 3.0 §6.2.5.1).
    BarOntoMemory,
    /// The device's memory moved onto another device's.
    BarOntoBar,
    /// A reset right behind a doorbell (§2.4.1): the requests may be in flight by then or not. Only a disk has any.
    ResetInFlight,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::DescriptorLoop,
        Self::DescriptorPastTable,
        Self::ChainLongerThanQueue,
        Self::BufferOutsideMemory,
        Self::BufferAcrossMemoryEnd,
        Self::BufferWrapsAround,
        Self::EmptyBuffer,
        Self::NestedIndirect,
        Self::IndirectOfOddLength,
        Self::AvailableIndexJump,
        Self::QueueOutsideMemory,
        Self::DoorbellStorm,
        Self::OddWidths,
        Self::SettingsAfterDriverOk,
        Self::VectorsOutOfRange,
        Self::BarOntoMemory,
        Self::BarOntoBar,
        Self::ResetInFlight,
    ];

    /// Whether the device must ask for a reset (`DEVICE_NEEDS_RESET`, §2.1.2). After the others it goes on.
    #[must_use]
    pub fn breaks_the_device(self) -> bool {
        self.malformed_chain(DESCRIPTORS).is_some()
            || matches!(self, Self::AvailableIndexJump | Self::QueueOutsideMemory)
    }

    /// Whether there is such an attack on `target`.
    #[must_use]
    pub fn fits(self, target: Target) -> bool {
        target == Target::Block || self != Self::ResetInFlight
    }

    /// The steps of this attack on `target`, from the first to the last.
    pub(crate) fn script(self, target: Target) -> Vec<u8> {
        let attacked = Script::default().then(|script| self.attack(target, script)).then(look);
        let devices = std::iter::once(target).chain(target.bystanders().iter().copied());
        devices.fold(attacked, |script, device| device.exercise(device.open(script).start())).finish()
    }

    /// Up to where the device's status is looked at.
    fn attack(self, target: Target, script: Script) -> Script {
        let queue = target.queue();
        if let Some(chain) = self.malformed_chain(queue_at(queue)) {
            let script = target.open(script).start();
            return await_breakage(chain.into_iter().fold(script, describe).submit_to(queue, 0));
        }
        match self {
            Self::AvailableIndexJump => await_breakage(
                target
                    .open(script)
                    .start()
                    .write(Place::Memory(queue_at(queue) + AVAILABLE + 2), Width::Word, 0x8000)
                    .write(Place::Notify(4 * queue), Width::Word, queue),
            ),
            Self::QueueOutsideMemory => await_breakage(
                target
                    .open_others(script)
                    .write(Place::Common(22), Width::Word, queue)
                    .write(Place::Common(32), Width::Double, NOWHERE)
                    .write(Place::Common(40), Width::Double, NOWHERE)
                    .write(Place::Common(48), Width::Double, NOWHERE)
                    .write(Place::Common(28), Width::Word, 1)
                    .start(),
            ),
            Self::DoorbellStorm => doorbell_storm(target.open(script).start(), 500),
            Self::OddWidths => odd_widths(target, target.open(script).start()),
            Self::SettingsAfterDriverOk => settings_after_driver_ok(target, target.open(script).start()),
            Self::VectorsOutOfRange => vectors_out_of_range(target, target.open(script).start()),
            Self::BarOntoMemory => move_bar(target, script, NEW_PLACE_IN_MEMORY),
            Self::BarOntoBar => move_bar(target, script, target.neighbour_bar()),
            _ => reset_in_flight(target.open(script).start()),
        }
    }

    /// The descriptors to write, by table and slot; the chain begins at slot 0 of the queue's own table `own`. `None`
    /// where the attack is no chain.
    fn malformed_chain(self, own: u32) -> Option<Vec<(u32, u32, Descriptor)>> {
        let header = |next| (own, 0, descriptor(HEADER.into(), 16, NEXT, next));
        let buffer = |address, length| (own, 1, descriptor(address, length, WRITE, 0));
        let table = |length| (own, 0, descriptor(TABLE.into(), length, INDIRECT, 0));
        Some(match self {
            Self::DescriptorLoop => {
                vec![header(1), (own, 1, descriptor(DATA.into(), 512, NEXT, 0))]
            }
            Self::DescriptorPastTable => vec![header(QUEUE_SIZE)],
            Self::ChainLongerThanQueue => {
                let entries = (0..=QUEUE_SIZE).map(|slot| {
                    (TABLE, slot, descriptor(DATA.into(), 16, NEXT & u32::from(slot < QUEUE_SIZE), slot + 1))
                });
                std::iter::once(table(16 * (QUEUE_SIZE + 1))).chain(entries).collect()
            }
            Self::BufferOutsideMemory => vec![header(1), buffer(NOWHERE.into(), 512)],
            Self::BufferAcrossMemoryEnd => vec![header(1), buffer(MEMORY_END - 256, 512)],
            Self::BufferWrapsAround => vec![header(1), buffer(u64::MAX - 255, 512)],
            Self::EmptyBuffer => vec![header(1), buffer(DATA.into(), 0)],
            Self::NestedIndirect => {
                vec![table(32), (TABLE, 0, descriptor(TABLE.into(), 32, INDIRECT, 0))]
            }
            Self::IndirectOfOddLength => vec![table(24)],
            _ => return None,
        })
    }
}

/// How much memory the machine must have: what [`Attack::BufferAcrossMemoryEnd`] reaches across.
pub const HOSTILE_MEMORY_SIZE: u64 = MEMORY_END;
/// What the guest says it found in the first four bytes of the disk, which must be these.
pub const HOSTILE_DISK_START: [u8; 4] = *b"disk";

/// `VIRTIO_F_INDIRECT_DESC`.
const INDIRECT_FEATURE: u32 = 1 << 28;

const NEXT: u32 = 1;
const WRITE: u32 = 2;
const INDIRECT: u32 = 4;

pub(crate) const COMMON_STATUS: Place = Place::Common(20);
const NEEDS_RESET: u32 = 64;
const PCI_BAR: Place = Place::Configuration(0x10);

const HEADER: u32 = BUFFERS;
pub(crate) const STATUS: u32 = BUFFERS + 0x100;
pub(crate) const DATA: u32 = BUFFERS + 0x1000;
const TABLE: u32 = BUFFERS + 0x2000;
/// Where no machine of these tests has memory or devices.
const NOWHERE: u32 = 0xb000_0000;
const MEMORY_END: u64 = 64 << 20;
/// Unused memory.
const NEW_PLACE_IN_MEMORY: u32 = 0x200_0000;

fn descriptor(address: u64, length: u32, flags: u32, next: u32) -> Descriptor {
    Descriptor { address, length, flags, next }
}

fn describe(script: Script, (table, slot, descriptor): (u32, u32, Descriptor)) -> Script {
    script.describe(table, slot, descriptor)
}

pub(crate) fn open_block(script: Script) -> Script {
    Target::Block.open(script)
}

fn await_breakage(script: Script) -> Script {
    script.wait_for(COMMON_STATUS, Width::Byte, NEEDS_RESET)
}

/// Says `status` and the device's status.
fn look(script: Script) -> Script {
    script.say("status", COMMON_STATUS, Width::Byte)
}

/// Describes a read of sector 0 from descriptor `first` on.
pub(crate) fn describe_read(script: Script, first: u32) -> Script {
    let script =
        (0..4).fold(script, |script, word| script.write(Place::Memory(HEADER + word * 4), Width::Double, 0));
    script
        .describe(DESCRIPTORS, first, descriptor(HEADER.into(), 16, NEXT, first + 1))
        .describe(DESCRIPTORS, first + 1, descriptor(DATA.into(), 512, NEXT | WRITE, first + 2))
        .describe(DESCRIPTORS, first + 2, descriptor(STATUS.into(), 1, WRITE, 0))
        .write(Place::Memory(STATUS), Width::Byte, 0xff)
}

/// Reads sector 0 and says `read` with the status, and `data` with the first four bytes.
pub(crate) fn read_sector(script: Script) -> Script {
    describe_read(script, 0)
        .write(Place::Memory(DATA), Width::Double, 0)
        .submit(0)
        .wait_used()
        .say("read", Place::Memory(STATUS), Width::Byte)
        .say("data", Place::Memory(DATA), Width::Double)
}

/// `rounds` times four doorbells, none of them with anything behind it.
fn doorbell_storm(script: Script, rounds: u32) -> Script {
    script
        .write_often(Place::Notify(0), Width::Word, 0, rounds)
        .write_often(Place::Notify(0), Width::Double, 0xffff_ffff, rounds)
        .write_often(Place::Notify(4), Width::Word, 1, rounds)
        .write_often(Place::Notify(0xffc), Width::Byte, 0, rounds)
}

/// Whole fields in pieces, several fields at once, and places between fields. None may have an effect but a
/// write of the status's own byte, which this leaves out.
fn odd_widths(target: Target, script: Script) -> Script {
    let writes = [
        (8, Width::Byte, 1),
        (13, Width::Double, 0xffff_ffff),
        (14, Width::Word, 0xffff),
        (17, Width::Double, 0),
        (19, Width::Double, 0),
        (21, Width::Byte, 0xff),
        (23, Width::Word, 0xffff),
        (24, Width::Byte, 1),
        (25, Width::Double, 0),
        (33, Width::Byte, 0xff),
        (46, Width::Double, 0xffff_ffff),
        (57, Width::Double, 0xffff_ffff),
    ];
    let script = writes
        .into_iter()
        .fold(script, |script, (offset, width, value)| script.write(Place::Common(offset), width, value));
    // Ports next to and across the configuration mechanism's, and across the end of the clock chip's.
    let ports = [(0xcf9, Width::Byte), (0xcfa, Width::Word), (0xcfe, Width::Double), (0x71, Width::Word)];
    let script = ports
        .into_iter()
        .fold(script, |script, (port, width)| script.write(Place::Port(port), width, 0xffff_ffff));
    // Half of an address, and the whole of it again.
    target.exercise(script).write(Place::Configuration(0x12), Width::Word, 0xffff).write(
        PCI_BAR,
        Width::Double,
        target.bar(),
    )
}

/// Tries to change everything that `DRIVER_OK` froze, then uses the device, and says what it shows.
fn settings_after_driver_ok(target: Target, script: Script) -> Script {
    let writes = [
        (8, Width::Double, 0),
        (12, Width::Double, 0),
        (22, Width::Word, target.queue()),
        (24, Width::Word, 2),
        (28, Width::Word, 0),
        (32, Width::Double, NOWHERE),
        (36, Width::Double, 1),
        (40, Width::Double, NOWHERE),
        (48, Width::Double, NOWHERE),
        // Taking a stage back is no reset either.
        (20, Width::Byte, 3),
    ];
    let script = writes
        .into_iter()
        .fold(script, |script, (offset, width, value)| script.write(Place::Common(offset), width, value));
    target
        .exercise(script)
        .say("size", Place::Common(24), Width::Word)
        .say("enabled", Place::Common(28), Width::Word)
        .say("table", Place::Common(32), Width::Double)
}

/// Says the vectors that the device took: none.
fn vectors_out_of_range(target: Target, script: Script) -> Script {
    let script = script
        .write(Place::Common(16), Width::Word, 0x7fff)
        .write(Place::Common(26), Width::Word, 0x7ffe)
        .say("config", Place::Common(16), Width::Word)
        .say("queue", Place::Common(26), Width::Word);
    // The table is in the page after the doorbells; the bits pending, which are read-only, in the one after it.
    let writes =
        [(0x1000, 0xffff_ffff), (0x1ffc, 0), (0x1001, 0xffff_ffff), (0x2000, 0xffff_ffff), (0x2ffc, 1)];
    let script = writes
        .into_iter()
        .fold(script, |script, (offset, value)| script.write(Place::Notify(offset), Width::Double, value));
    target.exercise(script)
}

/// Moves the device's memory to `place` and back again. In between it says what is where the device was, what is in
/// the guest's memory, and the status of another device, whose features were negotiated before.
fn move_bar(target: Target, script: Script, place: u32) -> Script {
    let script = target.open(script.open(target.neighbour().kind(), 0)).start();
    let script = script
        .write(Place::Memory(NEW_PLACE_IN_MEMORY + 0x14), Width::Double, 0x1234_5678)
        .write(PCI_BAR, Width::Double, place)
        .say("old", COMMON_STATUS, Width::Byte)
        .say("memory", Place::Memory(NEW_PLACE_IN_MEMORY + 0x14), Width::Double)
        .say("other", Place::Memory(target.neighbour_bar() + 0x14), Width::Byte)
        .write(Place::Notify(0), Width::Word, 0)
        .write(PCI_BAR, Width::Double, target.bar());
    target.exercise(script)
}

/// Five reads at once, and a reset right behind the doorbell.
fn reset_in_flight(script: Script) -> Script {
    let heads = (0..5).map(|chain| chain * 3);
    let script = heads.clone().fold(script, describe_read);
    let script = heads.fold(script, Script::submit);
    script.write(COMMON_STATUS, Width::Byte, 0)
}

/// Doorbells until the machine is ended.
pub(crate) fn endless_storm() -> Vec<u8> {
    let script = Target::Block.open(Script::default()).start().text("ready\n");
    script.write_often(Place::Notify(0), Width::Word, 0, 0).finish()
}
