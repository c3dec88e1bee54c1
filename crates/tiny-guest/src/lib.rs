//! Guests of a few kilobytes that exercise a virtual machine on real KVM in milliseconds.
//!
//! Each is a PVH kernel: an ELF file entered in 32-bit protected mode that talks to the devices directly and says
//! on the serial port (0x3F8) what it finds. They need no interrupts, no paging and no vector instructions, so
//! they also run where KVM emulates every instruction. All guests share one image; a parameter picks one.
//!
//! Building the machine that runs them is left to the virtual machine monitor under test.
//!
//! ```
//! use tiny_guest::TinyGuest;
//!
//! let kernel = TinyGuest::hello("hello from the guest\n").elf();
//! assert_eq!(&kernel[..4], b"\x7fELF");
//! ```

use std::net::Ipv4Addr;

mod elf;
mod hostile;
mod image;
mod script;
mod slow_disk;
mod steps;

pub use hostile::{Attack, HOSTILE_DISK_START, HOSTILE_MEMORY_SIZE, Target};

/// Where every guest is loaded and entered: 1 MiB.
pub const ENTRY_ADDRESS: u32 = 0x10_0000;
/// Bytes from [`ENTRY_ADDRESS`] on that a guest uses: its code, stack, queues and buffers.
pub const MEMORY_SIZE: u64 = 0x2_0000;
/// The longest message, in bytes.
pub const LONGEST_MESSAGE: usize = 0x1000;
/// Where [`TinyGuest::power_button`] expects the 32-bit register of ACPI events, cleared by reading.
pub const EVENT_REGISTER_ADDRESS: u32 = 0xfec1_0000;

/// What [`TinyGuest::block`] writes to sector 1: byte `i` is `i` modulo 256.
pub const BLOCK_PATTERN: [u8; 512] = {
    let mut pattern = [0; 512];
    let mut index = 0_u8;
    loop {
        pattern[index as usize] = index;
        pattern[index as usize + 256] = index;
        if index == u8::MAX {
            break pattern;
        }
        index += 1;
    }
};
/// How many requests [`TinyGuest::churn`] has in flight at a time. Each is for one of the first sectors.
pub const CHURN_REQUESTS: u32 = 4;

/// What [`TinyGuest::churn`] has on its disk after `round`, from the first sector on.
#[must_use]
pub fn churned(round: u32) -> Vec<u8> {
    let first = round.wrapping_mul(0x9e37_79b1);
    (0..CHURN_REQUESTS * 128).flat_map(|word| first.wrapping_add(word).to_le_bytes()).collect()
}

/// The Ethernet type of the frames that [`TinyGuest::net`] sends and waits for: local experimental.
pub const NET_ETHERTYPE: u16 = 0x88b5;
/// What the frame of [`TinyGuest::net`] begins with after its Ethernet header.
pub const NET_PAYLOAD: &[u8] = b"tiny guest calling";

/// Which guest of the image is entered; the discriminant is its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Hello,
    Spin,
    Idle,
    AcpiReset,
    KeyboardReset,
    TripleFault,
    PowerButton,
    Echo,
    BootInformation,
    Block,
    Entropy,
    Net,
    Processors,
    NetworkHost,
    LastWords,
    Panic,
    Script,
    Balloon,
    Nmi,
    Lives,
    Churn,
    Stray,
    Presses,
    LatePresses,
    Relay,
}

/// A guest, ready to be made into a kernel file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TinyGuest {
    kind: Kind,
    message: Vec<u8>,
    count: u32,
    address: u32,
    network: Ipv4Addr,
}

impl TinyGuest {
    fn of(kind: Kind) -> Self {
        Self { kind, message: Vec::new(), count: 1, address: 0, network: Ipv4Addr::UNSPECIFIED }
    }

    /// Writes `message` (up to its first zero byte) and powers off through ACPI: 0x34 to port 0x600.
    ///
    /// # Panics
    /// When the message is longer than [`LONGEST_MESSAGE`].
    #[must_use]
    pub fn hello(message: impl Into<Vec<u8>>) -> Self {
        let message = message.into();
        assert!(message.len() <= LONGEST_MESSAGE, "a message of {} bytes is too long", message.len());
        Self { message, ..Self::of(Kind::Hello) }
    }

    /// As [`hello`](Self::hello), with the message written `count` times.
    ///
    /// # Panics
    /// As [`hello`](Self::hello).
    #[must_use]
    pub fn chatter(message: impl Into<Vec<u8>>, count: u32) -> Self {
        Self { count, ..Self::hello(message) }
    }

    /// Writes `message` and then halts for ever, as a kernel does that has given up.
    ///
    /// # Panics
    /// As [`hello`](Self::hello).
    #[must_use]
    pub fn last_words(message: impl Into<Vec<u8>>) -> Self {
        Self { kind: Kind::LastWords, ..Self::hello(message) }
    }

    /// Writes `message`, reports a panic to the device at port 0x505 (event 0) and halts for ever.
    ///
    /// # Panics
    /// As [`hello`](Self::hello).
    #[must_use]
    pub fn panic(message: impl Into<Vec<u8>>) -> Self {
        Self { kind: Kind::Panic, ..Self::hello(message) }
    }

    /// Writes `ready\n` and then uses its CPU for ever.
    #[must_use]
    pub fn spin() -> Self {
        Self::of(Kind::Spin)
    }

    /// Writes `ready\n` and then halts for ever, using no CPU.
    #[must_use]
    pub fn idle() -> Self {
        Self::of(Kind::Idle)
    }

    /// Writes `ready\n` and halts with interrupts off; at a non-maskable one it writes `nmi\n` and powers off.
    #[must_use]
    pub fn nmi() -> Self {
        Self::of(Kind::Nmi)
    }

    /// Writes `ready\n` and resets the machine through ACPI: 1 to port 0x600.
    #[must_use]
    pub fn acpi_reset() -> Self {
        Self::of(Kind::AcpiReset)
    }

    /// Writes `ready\n` and resets the machine through the keyboard controller: 0xFE to port 0x64.
    #[must_use]
    pub fn keyboard_reset() -> Self {
        Self::of(Kind::KeyboardReset)
    }

    /// Counts its lives on the first virtio block device, in the first four bytes of sector 0, and resets itself through
    /// ACPI until it has lived `resets` times; then it powers off. Each life says:
    ///
    /// ```text
    /// read status 00
    /// life <how many there were before it, 8 digits>
    /// write status 00
    /// ```
    ///
    /// Numbers are hexadecimal.
    #[must_use]
    pub fn lives(resets: u32) -> Self {
        Self { count: resets, ..Self::of(Kind::Lives) }
    }

    /// As [`lives`](Self::lives), but after the last reset it is [`idle`](Self::idle).
    #[must_use]
    pub fn lives_and_idle(resets: u32) -> Self {
        // See `assembly/lives.s`.
        Self { address: 1, ..Self::lives(resets) }
    }

    /// As [`lives`](Self::lives), but after the last reset it is a [`network_host`](Self::network_host).
    #[must_use]
    pub fn lives_and_network_host(resets: u32) -> Self {
        Self { count: resets, kind: Kind::Lives, ..Self::network_host(None) }
    }

    /// Writes `ready\n` and shuts its CPU down by a triple fault.
    #[must_use]
    pub fn triple_fault() -> Self {
        Self::of(Kind::TripleFault)
    }

    /// Writes `ready\n` and goes on at `address`.
    #[must_use]
    pub fn stray(address: u32) -> Self {
        Self { address, ..Self::of(Kind::Stray) }
    }

    /// Writes `ready\n`, polls the register at [`EVENT_REGISTER_ADDRESS`] until its bit 0 (the power button) is
    /// set, writes `bye\n` and powers off. Until then it uses its CPU.
    #[must_use]
    pub fn power_button() -> Self {
        Self { address: EVENT_REGISTER_ADDRESS, ..Self::of(Kind::PowerButton) }
    }

    /// As [`power_button`](Self::power_button), but powers off at the press number `count`: those before it are read, and
    /// ignored. Writes `press\n` at each.
    #[must_use]
    pub fn presses(count: u32) -> Self {
        Self { count, ..Self { kind: Kind::Presses, ..Self::power_button() } }
    }

    /// As [`presses`](Self::presses) with a count of one, but does not read the register before a byte came on the
    /// serial port.
    #[must_use]
    pub fn late_presses() -> Self {
        Self { kind: Kind::LatePresses, ..Self::presses(1) }
    }

    /// Writes `ready\n` and returns what it reads on the serial port; powers off at a `q`.
    #[must_use]
    pub fn echo() -> Self {
        Self::of(Kind::Echo)
    }

    /// Writes `ready\n`; each byte that it reads on the serial port it writes to the I/O port `port`, and then returns it.
    #[must_use]
    pub fn relay(port: u16) -> Self {
        Self { address: port.into(), ..Self::of(Kind::Relay) }
    }

    /// Writes what the boot protocol handed over, then powers off:
    ///
    /// ```text
    /// magic 336ec578
    /// command line console=ttyS0
    /// rsdp RSD PTR
    /// module <size> <first byte>
    /// memory <address> <size> <type>
    /// ```
    ///
    /// Numbers are hexadecimal, 8 digits for sizes of modules, 16 for addresses and sizes of memory and 2 for the
    /// rest; there is a `module` line for each module and a `memory` line for each entry of the memory map.
    #[must_use]
    pub fn boot_information() -> Self {
        Self::of(Kind::BootInformation)
    }

    /// Uses the first virtio block device and powers off. Polls, and needs no interrupts:
    ///
    /// ```text
    /// capacity <sectors, 8 digits>
    /// read status <2 digits>
    /// sector 0 <its first 16 bytes>
    /// write status <2 digits>
    /// identity status <2 digits> <text>
    /// flush status <2 digits>
    /// ```
    ///
    /// Numbers and bytes are hexadecimal. Sector 1 is written with [`BLOCK_PATTERN`].
    #[must_use]
    pub fn block() -> Self {
        Self::of(Kind::Block)
    }

    /// Writes what [`churned`] says to the first virtio block device and reads it back, other bytes in each round, with
    /// [`CHURN_REQUESTS`] requests in flight at a time, until a `q` comes on the serial port or something is wrong; then
    /// powers off. Needs no interrupts, and uses its CPU:
    ///
    /// ```text
    /// ready
    /// rounds <how many, 8 hexadecimal digits>
    /// ```
    ///
    /// `wrong` instead of `rounds`: in that round a request ended badly, twice or as another, or read what was not written.
    #[must_use]
    pub fn churn() -> Self {
        Self::of(Kind::Churn)
    }

    /// Asks the first virtio entropy device for 16 bytes and powers off:
    ///
    /// ```text
    /// entropy <bytes given, 2 digits> <the bytes>
    /// ```
    #[must_use]
    pub fn entropy() -> Self {
        Self::of(Kind::Entropy)
    }

    /// Waits until the first virtio balloon asks for a page, gives it the page at 3 MiB and powers off:
    ///
    /// ```text
    /// ready
    /// balloon <the page's first byte, 2 digits> <the next page's first byte>
    /// ```
    ///
    /// Before, it writes 0xAA there. Needs more than 3 MiB of memory, and uses its CPU.
    #[must_use]
    pub fn balloon() -> Self {
        Self::of(Kind::Balloon)
    }

    /// Sends one broadcast frame by the first virtio network interface, waits for one frame of the type
    /// [`NET_ETHERTYPE`] (others are skipped), and powers off:
    ///
    /// ```text
    /// mac <12 digits>
    /// sent
    /// received <the first 16 bytes after its Ethernet header>
    /// ```
    ///
    /// The frame it sends has that type too, and [`NET_PAYLOAD`] after its header.
    #[must_use]
    pub fn net() -> Self {
        Self::of(Kind::Net)
    }

    /// Answers ARP and echo requests for `address` by the first virtio network interface, until the power button is
    /// pressed as for [`power_button`](Self::power_button):
    ///
    /// ```text
    /// mac <12 digits>
    /// ready
    /// bye
    /// ```
    ///
    /// Without an address it takes the first one of an `ip=` argument of its command line. It polls, and so uses
    /// its CPU.
    #[must_use]
    pub fn network_host(address: Option<Ipv4Addr>) -> Self {
        let network = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        Self { address: EVENT_REGISTER_ADDRESS, network, ..Self::of(Kind::NetworkHost) }
    }

    /// Starts all other processors, waits until `count` run with its own, and powers off:
    ///
    /// ```text
    /// processors <how many, 2 digits>
    /// ids <2 digits> <2 digits> …
    /// ```
    ///
    /// Each processor notes its APIC id, as CPUID leaf 1 tells it; they are listed in ascending order. Numbers are
    /// hexadecimal.
    #[must_use]
    pub fn processors(count: u8) -> Self {
        Self { count: u32::from(count), ..Self::of(Kind::Processors) }
    }

    /// Does `attack` to its block device, as [`hostile_to`](Self::hostile_to).
    #[must_use]
    pub fn hostile(attack: Attack) -> Self {
        Self::hostile_to(Target::Block, attack)
    }

    /// Does `attack` to `target`, then uses that device, its block device and its entropy device properly, and powers
    /// off. The block device is in slot 1 and begins with [`HOSTILE_DISK_START`]. A network card follows it where that is
    /// the target, then comes the entropy device, and then the target if it is none of these. The machine has no other
    /// device on its bus, and [`HOSTILE_MEMORY_SIZE`] bytes of memory.
    ///
    /// ```text
    /// status <8 digits>
    /// <the target's proof>
    /// read 00000000
    /// data 6b736964
    /// entropy 00000010
    /// ```
    ///
    /// The status is that of the attacked device before it is reset. Some attacks say more before that. The proof
    /// ([`Target::proof`]) is not said twice.
    ///
    /// # Panics
    /// When the attack does not [fit](Attack::fits) the target.
    #[must_use]
    pub fn hostile_to(target: Target, attack: Attack) -> Self {
        assert!(attack.fits(target), "there is no {attack:?} on {target:?}");
        Self { message: attack.script(target), ..Self::of(Kind::Script) }
    }

    /// Rings the doorbell of its block device for ever, and that of queues that do not exist.
    #[must_use]
    pub fn doorbell_storm() -> Self {
        Self { message: hostile::endless_storm(), ..Self::of(Kind::Script) }
    }

    /// The guest as raw code, to be loaded and entered at [`ENTRY_ADDRESS`] by hand.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        image::with_parameters(&image::Parameters {
            guest: self.kind as u32,
            message: &self.message,
            count: self.count,
            address: self.address,
            network: self.network,
        })
    }

    /// The guest as a kernel file: ELF-64 with the PVH entry note.
    #[must_use]
    pub fn elf(&self) -> Vec<u8> {
        elf::executable(&self.image(), ENTRY_ADDRESS, MEMORY_SIZE)
    }
}

#[cfg(test)]
mod tests;
