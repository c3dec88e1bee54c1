//! Guests that follow a script and mean no harm.

use crate::script::{BUFFERS, DESCRIPTORS, Descriptor, Place, SECOND_DESCRIPTORS, Script, Width};
use crate::{EVENT_REGISTER_ADDRESS, Kind, TinyGuest};

impl TinyGuest {
    /// Uses the first virtio console alone, and powers off:
    ///
    /// ```text
    /// ready
    /// <four bytes>
    /// ```
    ///
    /// Between the two it waits until the console has 256 to 511 columns, and then for four typed bytes. It polls, and
    /// so uses its CPU.
    #[must_use]
    pub fn console() -> Self {
        Self { message: console(), ..Self::of(Kind::Script) }
    }

    /// Says the generation identifier at `address` as four numbers, waits for the event of another one in the register
    /// at [`EVENT_REGISTER_ADDRESS`], says that, and powers off:
    ///
    /// ```text
    /// id <8 digits>             four times
    /// ready
    /// id <8 digits>             four times
    /// ```
    #[must_use]
    pub fn generation(address: u32) -> Self {
        Self { message: generation(address), ..Self::of(Kind::Script) }
    }

    /// Sets the watchdog in slot 1 to a second, writes `ready\n` and never reloads it. It uses its CPU.
    #[must_use]
    pub fn watchdog() -> Self {
        Self { message: watchdog(), ..Self::of(Kind::Script) }
    }
}

const CONSOLE: u16 = 3;
/// `VIRTIO_CONSOLE_F_SIZE`.
const CONSOLE_SIZE_FEATURE: u32 = 1 << 0;
/// The device's own configuration, from the common one on; for a console it begins with the columns.
const DEVICE_CONFIGURATION: u32 = 0x200;

/// The event of a changed generation identifier.
const GENERATION_EVENT: u32 = 1 << 1;

const WRITE: u32 = 2;

/// Where a guest says and hears what it does on its console.
const SAID: u32 = BUFFERS;
const HEARD: u32 = BUFFERS + 0x1000;

/// The steps of [`crate::TinyGuest::console`].
fn console() -> Vec<u8> {
    let readable = |address: u32, length| Descriptor { address: address.into(), length, flags: 0, next: 0 };
    Script::default()
        .open(CONSOLE, CONSOLE_SIZE_FEATURE)
        .open_queue(0)
        .open_queue(1)
        .start()
        .write(Place::Memory(SAID), Width::Double, u32::from_le_bytes(*b"read"))
        .write(Place::Memory(SAID + 4), Width::Word, u32::from_le_bytes(*b"y\n\0\0"))
        .describe(SECOND_DESCRIPTORS, 0, readable(SAID, 6))
        .submit_to(1, 0)
        .wait_used_of(1)
        .wait_for(Place::Common(DEVICE_CONFIGURATION), Width::Word, 0x100)
        .describe(DESCRIPTORS, 0, Descriptor { flags: WRITE, ..readable(HEARD, 4) })
        .submit(0)
        .wait_used()
        .describe(SECOND_DESCRIPTORS, 1, readable(HEARD, 4))
        .submit_to(1, 1)
        .wait_used_of(1)
        .finish()
}

/// The steps of [`crate::TinyGuest::generation`].
fn generation(address: u32) -> Vec<u8> {
    let say = |script: Script| {
        (0..4).fold(script, |script, word| script.say("id", Place::Memory(address + 4 * word), Width::Double))
    };
    Script::default()
        .then(say)
        .text("ready\n")
        .wait_for(Place::Memory(EVENT_REGISTER_ADDRESS), Width::Double, GENERATION_EVENT)
        .then(say)
        .finish()
}

/// Where the machine places the registers of the device in slot 1.
const WATCHDOG: u32 = 0xc010_0000;
/// The watchdog's register that unlocks and reloads.
const WATCHDOG_RELOAD: u32 = WATCHDOG + 0xc;

/// The steps of [`crate::TinyGuest::watchdog`].
fn watchdog() -> Vec<u8> {
    let configure = |script: Script, register: u32, width, value| {
        let address = 0x8000_0000 | 1 << 11 | register & !3;
        script.write(Place::Port(0xcf8), Width::Double, address).write(
            Place::Port(0xcfc + register % 4),
            width,
            value,
        )
    };
    let unlock = |script: Script| {
        script.write(Place::Memory(WATCHDOG_RELOAD), Width::Word, 0x80).write(
            Place::Memory(WATCHDOG_RELOAD),
            Width::Word,
            0x86,
        )
    };
    Script::default()
        .then(|script| configure(script, 0x04, Width::Word, 2))
        .then(|script| configure(script, 0x60, Width::Word, 3))
        .then(unlock)
        .write(Place::Memory(WATCHDOG), Width::Double, WATCHDOG_TICKS)
        .then(unlock)
        .write(Place::Memory(WATCHDOG + 4), Width::Double, WATCHDOG_TICKS)
        .then(|script| configure(script, 0x68, Width::Byte, 2))
        .text("ready\n")
        // Nothing sets a bit there.
        .wait_for(Place::Memory(BUFFERS), Width::Double, 0)
        .finish()
}

/// Each of two stages, in milliseconds.
const WATCHDOG_TICKS: u32 = 500;
