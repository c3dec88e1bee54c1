//! What devices need of the machine around them, as traits: interrupts and doorbells.
//!
//! The machine implements them over KVM's irqfd, ioeventfd and routing table; tests implement them with
//! counters. All methods may be called from any thread.

#[cfg(test)]
pub mod testing;

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// A wired, edge-triggered interrupt: the serial port's, the ACPI event device's.
pub trait LineInterrupt: Send + Sync {
    /// Raises one edge.
    ///
    /// # Errors
    /// The host refused; the guest then misses an interrupt.
    fn trigger(&self) -> io::Result<()>;
}

/// What a guest programs into an MSI-X table entry (PCI 3.0 §6.8.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address to write to.
    pub address: u64,
    /// The value written.
    pub data: u32,
}

/// The message-signalled vectors reserved for one PCI function, numbered from zero.
pub trait MessageInterrupts: Send + Sync {
    /// How many vectors there are.
    fn count(&self) -> u16;

    /// Makes later triggers of `vector` deliver `message`. Programming the message it already has costs nothing.
    ///
    /// # Errors
    /// The vector does not exist or the host refused the route.
    fn program(&self, vector: u16, message: MsiMessage) -> io::Result<()>;

    /// Delivers `vector` as last programmed.
    ///
    /// # Errors
    /// The vector does not exist, was never programmed, or the host refused.
    fn trigger(&self, vector: u16) -> io::Result<()>;

    /// The eventfd that delivers `vector`, as last programmed, when the host's kernel writes to it.
    ///
    /// # Errors
    /// The vector does not exist, was never programmed, or is delivered by other means.
    fn event(&self, vector: u16) -> io::Result<&EventFd>;
}

/// Guest-physical addresses whose writes ring an eventfd without an exit to user space.
pub trait Doorbells: Send + Sync {
    /// From now on a write of any width and value at `address` adds one to `bell`.
    ///
    /// # Errors
    /// The address has a doorbell already, or the host refused. Writes then arrive as ordinary register
    /// accesses, so a device must ring its own bell on those.
    fn attach(&self, address: u64, bell: &EventFd) -> io::Result<()>;

    /// Undoes [`Doorbells::attach`] with the same arguments.
    ///
    /// # Errors
    /// There was no such doorbell.
    fn detach(&self, address: u64, bell: &EventFd) -> io::Result<()>;
}
