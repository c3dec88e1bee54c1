//! The numbers of `ioctl` requests (`asm-generic/ioctl.h`), made from what they are made of, and grouped by who makes them.

use crate::call::{Value, value};

const KVM: u32 = 0xae;
const TUN: u32 = 0x54;
const VHOST: u32 = 0xaf;

const fn none(group: u32, number: u32) -> u32 {
    group << 8 | number
}

const fn write(group: u32, number: u32, size: u32) -> u32 {
    1 << 30 | size << 16 | none(group, number)
}

const fn read(group: u32, number: u32, size: u32) -> u32 {
    2 << 30 | size << 16 | none(group, number)
}

const fn both(group: u32, number: u32, size: u32) -> u32 {
    write(group, number, size) | read(group, number, size)
}

const REFUSED: &str = "only where the host refuses something";
const INTERRUPTS: &str = "a driver that uses message-signalled interrupts, as Linux does";
const TELLS: &str = "a guest that comes to a bad end, or whose processors are looked at";
const BARS: &str = "a guest that moves a device's registers: its doorbells move along";
const TAP: &str = "an interface on a TAP, which native test runs do not have";
const KERNEL_NET: &str = "an interface that the host's kernel serves, which native test runs do not have";

/// A vCPU enters its guest, and tells where it is.
#[rustfmt::skip]
pub(crate) const OF_VCPU: &[Value] = &[
    value!(KVM_RUN = none(KVM, 0x80)),
    value!(KVM_GET_REGS = read(KVM, 0x81, 144)).seldom(TELLS),
    value!(KVM_GET_SREGS = read(KVM, 0x83, 312)).seldom(TELLS),
    value!(KVM_GET_MP_STATE = read(KVM, 0x98, 4)).seldom(TELLS),
    value!(KVM_KVMCLOCK_CTRL = none(KVM, 0xad)),
    value!(KVM_NMI = none(KVM, 0x9a)).seldom("an operator who interrupts a guest that hangs"),
];

/// What devices ask for when a guest writes their registers, and when they are paused, resumed and reset.
#[rustfmt::skip]
pub(crate) const OF_DEVICES: &[Value] = &[
    value!(KVM_IOEVENTFD = write(KVM, 0x79, 64)).seldom(BARS),
    value!(KVM_IRQFD = write(KVM, 0x76, 32)).seldom(INTERRUPTS),
    value!(KVM_SET_GSI_ROUTING = write(KVM, 0x6a, 8)).seldom(INTERRUPTS),
    value!(TUNSETOFFLOAD = write(TUN, 208, 4)).seldom(TAP),
    value!(TUNSETQUEUE = write(TUN, 217, 4)).seldom(TAP),
    value!(VHOST_SET_FEATURES = write(VHOST, 0x00, 8)).seldom(KERNEL_NET),
    value!(VHOST_SET_OWNER = none(VHOST, 0x01)).seldom(KERNEL_NET),
    value!(VHOST_RESET_OWNER = none(VHOST, 0x02)).seldom(KERNEL_NET),
    value!(VHOST_SET_MEM_TABLE = write(VHOST, 0x03, 8)).seldom(KERNEL_NET),
    value!(VHOST_SET_VRING_NUM = write(VHOST, 0x10, 8)).seldom(KERNEL_NET),
    value!(VHOST_SET_VRING_ADDR = write(VHOST, 0x11, 40)).seldom(KERNEL_NET),
    value!(VHOST_SET_VRING_BASE = write(VHOST, 0x12, 8)).seldom(KERNEL_NET),
    value!(VHOST_GET_VRING_BASE = both(VHOST, 0x12, 8)).seldom(KERNEL_NET),
    value!(VHOST_SET_VRING_KICK = write(VHOST, 0x20, 8)).seldom(KERNEL_NET),
    value!(VHOST_SET_VRING_CALL = write(VHOST, 0x21, 8)).seldom(KERNEL_NET),
    value!(VHOST_SET_VRING_ERR = write(VHOST, 0x22, 8)).seldom(KERNEL_NET),
    value!(VHOST_NET_SET_BACKEND = write(VHOST, 0x30, 8)).seldom(KERNEL_NET),
];

/// A machine's thread builds the machine.
#[rustfmt::skip]
pub(crate) const OF_MACHINE: &[Value] = &[
    value!(KVM_CREATE_VM = none(KVM, 0x01)),
    value!(KVM_GET_VCPU_MMAP_SIZE = none(KVM, 0x04)),
    value!(KVM_GET_SUPPORTED_CPUID = both(KVM, 0x05, 8)),
    value!(KVM_CREATE_VCPU = none(KVM, 0x41)),
    value!(KVM_SET_USER_MEMORY_REGION = write(KVM, 0x46, 32)),
    value!(KVM_SET_TSS_ADDR = none(KVM, 0x47)),
    value!(KVM_SET_IDENTITY_MAP_ADDR = write(KVM, 0x48, 8)),
    value!(KVM_CREATE_IRQCHIP = none(KVM, 0x60)),
    value!(KVM_SET_REGS = write(KVM, 0x82, 144)),
    value!(KVM_SET_SREGS = write(KVM, 0x84, 312)),
    value!(KVM_SET_MSRS = write(KVM, 0x89, 8)),
    value!(KVM_GET_LAPIC = read(KVM, 0x8e, 1024)),
    value!(KVM_SET_LAPIC = write(KVM, 0x8f, 1024)),
    value!(KVM_SET_CPUID2 = write(KVM, 0x90, 8)),
    value!(KVM_GET_STATS_FD = none(KVM, 0xce)),
    value!(KVM_IRQFD = write(KVM, 0x76, 32)),
    value!(VHOST_GET_FEATURES = read(VHOST, 0x00, 8)).seldom(KERNEL_NET),
    value!(TUNGETIFF = read(TUN, 210, 4)).seldom(TAP),
    value!(TUNSETVNETHDRSZ = write(TUN, 216, 4)).seldom(TAP),
];

/// An event loop changes links, and makes connections for its guest.
#[rustfmt::skip]
pub(crate) const OF_EVENT_LOOP: &[Value] = &[
    value!(TUNSETCARRIER = write(TUN, 226, 4)).seldom(TAP),
    value!(FIONBIO = none(TUN, 0x21)).seldom("a guest that uses its socket device"),
];

/// The main thread makes connections that do not wait.
pub(crate) const OF_MAIN: &[Value] = &[value!(FIONBIO = none(TUN, 0x21))];

/// Taking a machine apart ends what the host's kernel does for it.
#[rustfmt::skip]
pub(crate) const OF_UNDERTAKER: &[Value] = &[
    value!(KVM_IOEVENTFD = write(KVM, 0x79, 64)).seldom(REFUSED),
    value!(VHOST_GET_VRING_BASE = both(VHOST, 0x12, 8)).seldom(KERNEL_NET),
    value!(VHOST_NET_SET_BACKEND = write(VHOST, 0x30, 8)).seldom(KERNEL_NET),
    value!(TUNSETQUEUE = write(TUN, 217, 4)).seldom(TAP),
];

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use kvm_bindings as kvm;

    use super::*;

    fn number(name: &str) -> u32 {
        let all = [OF_VCPU, OF_DEVICES, OF_MACHINE, OF_EVENT_LOOP, OF_MAIN, OF_UNDERTAKER].concat();
        all.iter().find(|value| value.name == name).unwrap_or_else(|| panic!("no {name}")).number
    }

    /// The kernel's structures as the crate has them that makes the requests.
    #[test]
    fn requests_have_the_sizes_of_what_they_carry() {
        let sizes = [
            ("KVM_IOEVENTFD", size_of::<kvm::kvm_ioeventfd>()),
            ("KVM_IRQFD", size_of::<kvm::kvm_irqfd>()),
            ("KVM_SET_GSI_ROUTING", size_of::<kvm::kvm_irq_routing>()),
            ("KVM_GET_REGS", size_of::<kvm::kvm_regs>()),
            ("KVM_SET_REGS", size_of::<kvm::kvm_regs>()),
            ("KVM_GET_SREGS", size_of::<kvm::kvm_sregs>()),
            ("KVM_SET_SREGS", size_of::<kvm::kvm_sregs>()),
            ("KVM_GET_MP_STATE", size_of::<kvm::kvm_mp_state>()),
            ("KVM_SET_USER_MEMORY_REGION", size_of::<kvm::kvm_userspace_memory_region>()),
            ("KVM_SET_MSRS", size_of::<kvm::kvm_msrs>()),
            ("KVM_GET_LAPIC", size_of::<kvm::kvm_lapic_state>()),
            ("KVM_SET_CPUID2", size_of::<kvm::kvm_cpuid2>()),
            ("KVM_GET_SUPPORTED_CPUID", size_of::<kvm::kvm_cpuid2>()),
        ];
        for (name, size) in sizes {
            assert_eq!((number(name) >> 16 & 0x3fff) as usize, size, "{name}");
        }
    }

    #[test]
    fn requests_are_the_ones_that_the_c_library_knows() {
        let known = [
            ("TUNSETOFFLOAD", libc::TUNSETOFFLOAD),
            ("TUNSETQUEUE", libc::TUNSETQUEUE),
            ("TUNGETIFF", libc::TUNGETIFF),
            ("TUNSETVNETHDRSZ", libc::TUNSETVNETHDRSZ),
            ("TUNSETCARRIER", libc::TUNSETCARRIER),
            ("FIONBIO", libc::FIONBIO),
        ];
        for (name, expected) in known {
            assert_eq!(libc::Ioctl::from(number(name)), expected, "{name}");
        }
        assert_eq!(number("KVM_RUN"), 0xae80);
        assert_eq!(number("KVM_IRQFD"), 0x4020_ae76);
    }
}
