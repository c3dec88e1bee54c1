//! A machine with one page-aligned piece of memory and one vCPU in real mode.

use std::sync::Arc;

use hypervisor::{Hypervisor, Vcpu, Vm};
use kvm_bindings::kvm_segment;
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap, MemoryRegionAddress};

/// Where the code is loaded and entered.
pub(crate) const CODE: u64 = 0x1000;

/// Declares a test that needs `/dev/kvm`: without it the test fails, unless the environment allows skipping.
macro_rules! kvm_test {
    ($name:ident, $body:block) => {
        #[test]
        fn $name() {
            if std::env::var_os("PROCURATOR_SKIP_KVM_TESTS").is_some_and(|value| value == "1") {
                println!("SKIPPED: {} needs /dev/kvm", stringify!($name));
                return;
            }
            $body
        }
    };
}
pub(crate) use kvm_test;

pub(crate) type Memory = Arc<GuestRegionMmap<()>>;

pub(crate) fn open() -> Hypervisor {
    Hypervisor::open().expect("these tests need a working /dev/kvm; PROCURATOR_SKIP_KVM_TESTS=1 skips them")
}

pub(crate) fn memory(bytes: usize) -> Memory {
    Arc::new(GuestRegionMmap::from_range(GuestAddress(0), bytes, None).unwrap())
}

/// A machine with 64 KiB of memory that holds `code`, without an irqchip, so that `hlt` is an exit.
pub(crate) fn machine(code: &[u8]) -> (Vm, Vcpu, Memory) {
    let memory = memory(0x1_0000);
    memory.write_slice(code, MemoryRegionAddress(CODE)).unwrap();
    let vm = open().create_vm().unwrap();
    vm.add_memory(Arc::clone(&memory)).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    enter_at(&vcpu, CODE);
    (vm, vcpu, memory)
}

/// Puts a vCPU at `address` in flat real mode.
pub(crate) fn enter_at(vcpu: &Vcpu, address: u64) {
    let mut sregs = vcpu.sregs().unwrap();
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.regs().unwrap();
    regs.rip = address;
    regs.rsp = 0x8000;
    regs.rflags = 2;
    vcpu.set_regs(&regs).unwrap();
}

/// Switches a vCPU to protected mode without paging: flat 4 GiB segments, no interrupt table.
pub(crate) fn enter_protected_mode(vcpu: &Vcpu) {
    let segment = |selector, type_| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let mut sregs = vcpu.sregs().unwrap();
    sregs.cs = segment(8, 0xb);
    let data = segment(16, 0x3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.idt.limit = 0;
    sregs.cr0 |= 1;
    vcpu.set_sregs(&sregs).unwrap();
}
