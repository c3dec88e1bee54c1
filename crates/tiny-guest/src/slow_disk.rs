//! Guests whose disk does not answer for a while, or ever. It is the block device in slot 1.

use crate::hostile::{COMMON_STATUS, DATA, STATUS, describe_read, open_block, read_sector};
use crate::script::{BUFFERS, DESCRIPTORS, Place, Script, Width};
use crate::{Kind, TinyGuest};

/// How many typed bytes [`TinyGuest::waiting_for_disk`] repeats.
const REPEATED: usize = 8;

impl TinyGuest {
    /// Asks its disk for sector 0 and, without waiting for it, repeats the first eight bytes that are typed. It never
    /// ends by itself, and uses its CPU.
    ///
    /// ```text
    /// asked
    /// typed <a byte, 8 digits>       for each
    /// ```
    #[must_use]
    pub fn waiting_for_disk() -> Self {
        let script = (0..REPEATED).fold(ask(Script::default()), |script, _| {
            wait_for_typing(script).say("typed", TYPED, Width::Byte)
        });
        // Nothing sets a bit there.
        let script = script.wait_for(Place::Memory(BUFFERS), Width::Double, 0);
        Self { message: script.finish(), ..Self::of(Kind::Script) }
    }

    /// Asks its disk for sector 0, waits for a typed byte, and resets the disk. When that is over, it looks at its
    /// memory at once and some thousand exits later, uses the disk as a driver should, and powers off. All numbers have
    /// eight digits.
    ///
    /// ```text
    /// asked
    /// during <the status while the reset goes on>
    /// after <the status when it is over>
    /// late <what the reset read brought in the end>
    /// kept 5a5a5a5a                  what the guest wrote there afterwards
    /// result 000000ff                as the guest wrote it: nobody answered that read
    /// used 00000000                  nor gave it back
    /// read 00000000
    /// data <what the disk begins with>
    /// ```
    #[must_use]
    pub fn reset_during_read() -> Self {
        let script = wait_for_typing(ask(Script::default()))
            .write(COMMON_STATUS, Width::Byte, 0)
            .say("during", COMMON_STATUS, Width::Byte)
            .wait_until_clear(COMMON_STATUS, Width::Byte, 0xff)
            .say("after", COMMON_STATUS, Width::Byte)
            .say("late", Place::Memory(DATA), Width::Double)
            .write(Place::Memory(DATA), Width::Double, 0x5a5a_5a5a)
            .write_often(DIAGNOSTIC, Width::Byte, 0, 5000)
            .say("kept", Place::Memory(DATA), Width::Double)
            .say("result", Place::Memory(STATUS), Width::Byte)
            .say("used", Place::Memory(DESCRIPTORS + USED_INDEX), Width::Word)
            .then(|script| open_block(script).start())
            .then(read_sector);
        Self { message: script.finish(), ..Self::of(Kind::Script) }
    }
}

/// The serial port's line status, whose bit 0 tells of a typed byte, and that byte.
const LINE_STATUS: Place = Place::Port(0x3fd);
const TYPED: Place = Place::Port(0x3f8);
/// A port where nothing is.
const DIAGNOSTIC: Place = Place::Port(0x80);
/// Where the used ring's index is from the descriptors on.
const USED_INDEX: u32 = 0x2002;

fn ask(script: Script) -> Script {
    describe_read(open_block(script).start(), 0)
        .write(Place::Memory(DATA), Width::Double, 0)
        .submit(0)
        .text("asked\n")
}

fn wait_for_typing(script: Script) -> Script {
    script.wait_for(LINE_STATUS, Width::Byte, 1)
}
