//! What a machine can be at most and at least, as everybody judges it who reads numbers for one: files of assignments, the
//! command line, machine descriptions.

use crate::Bytes;

/// The most VMs of a host, of all sources together, whether they run or not. A desired state with more is refused.
///
/// It is what one report and one answer to a master hold. Of VMs that have a network interface, as many run at a time as a
/// bridge of Linux has ports: 1,023 interfaces.
pub const VMS_MOST: usize = 4096;
/// The most vCPUs of a machine. It has one at least.
pub const VCPUS_MOST: u8 = 64;
/// The least memory of a machine.
pub const MEMORY_LEAST: Bytes = Bytes::from_mib(16);
/// The most memory of a machine. What its host can carry is judged elsewhere.
pub const MEMORY_MOST: Bytes = Bytes::from_mib(16 << 20);
/// Memory comes in pages of so many bytes.
pub const MEMORY_PAGE: Bytes = Bytes::new(4096);

/// Whether a machine can have `memory`.
///
/// ```
/// use vm_model::{Bytes, is_possible_memory};
///
/// assert!(is_possible_memory(Bytes::from_mib(16)));
/// assert!(!is_possible_memory(Bytes::new(1024)), "too little");
/// assert!(!is_possible_memory(Bytes::new((16 << 20) + 1)), "not made of pages");
/// ```
pub fn is_possible_memory(memory: Bytes) -> bool {
    (MEMORY_LEAST..=MEMORY_MOST).contains(&memory) && memory.get().is_multiple_of(MEMORY_PAGE.get())
}
