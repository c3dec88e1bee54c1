//! Putting a machine together: order, refusals and lifetimes.

use std::sync::Arc;

use hypervisor::{DoorbellAddress, DoorbellValue, Exit, Route, RouteTarget, Vm, VmError, default_routes};
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap, MemoryRegionAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::harness::{CODE, enter_at, kvm_test, machine, memory, open};

const fn assert_send_and_sync<T: Send + Sync>() {}
const _: () = assert_send_and_sync::<Vm>();

kvm_test!(memory_stays_alive_until_the_machine_and_its_vcpus_are_gone, {
    let (vm, vcpu, memory) = machine(&[0xf4]);
    let observer = Arc::downgrade(&memory);
    drop(memory);
    assert!(observer.upgrade().is_some(), "the machine holds the memory");
    drop(vm);
    assert!(observer.upgrade().is_some(), "the vCPU still can reach the memory");
    drop(vcpu);
    assert!(observer.upgrade().is_none(), "nobody can reach the memory");
});

kvm_test!(a_vcpu_runs_after_its_machine_is_dropped, {
    let (vm, mut vcpu, memory) = machine(&[0xf4]);
    drop((vm, memory));
    let _binding = vcpu.bind_to_current_thread().unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
});

kvm_test!(overlapping_memory_is_refused_by_address, {
    let vm = open().create_vm().unwrap();
    vm.add_memory(memory(0x2000)).unwrap();
    let overlapping = GuestRegionMmap::<()>::from_range(GuestAddress(0x1000), 0x2000, None).unwrap();
    let error = vm.add_memory(Arc::new(overlapping)).unwrap_err();
    assert!(
        matches!(error, VmError::Memory { slot: 1, guest_address: 0x1000, size: 0x2000, .. }),
        "{error:?}"
    );
    let beside = GuestRegionMmap::<()>::from_range(GuestAddress(0x2000), 0x1000, None).unwrap();
    vm.add_memory(Arc::new(beside)).unwrap();
});

kvm_test!(the_irqchip_comes_before_the_first_vcpu, {
    let vm = open().create_vm().unwrap();
    vm.create_vcpu(0).unwrap();
    assert!(matches!(vm.create_irqchip().unwrap_err(), VmError::IrqchipAfterVcpu { vcpus: 1 }));
});

kvm_test!(an_index_is_given_once, {
    let vm = open().create_vm().unwrap();
    vm.create_irqchip().unwrap();
    let _first = vm.create_vcpu(7).unwrap();
    assert!(matches!(vm.create_vcpu(7).unwrap_err(), VmError::Vcpu { index: 7, .. }));
});

kvm_test!(a_doorbell_rings_without_an_exit, {
    // out 0x42, ax; mov [0x4000 beyond memory]... is left to the MMIO test; hlt
    let (vm, mut vcpu, _memory) = machine(&[0xb0, 0x07, 0xe6, 0x42, 0xf4]);
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    vm.register_ioeventfd(DoorbellAddress::Pio(0x42), DoorbellValue::Any, &event).unwrap();
    let again = vm.register_ioeventfd(DoorbellAddress::Pio(0x42), DoorbellValue::Any, &event);
    assert!(matches!(again.unwrap_err(), VmError::Doorbell { .. }));
    let _binding = vcpu.bind_to_current_thread().unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
    assert_eq!(event.read().unwrap(), 1);

    vm.unregister_ioeventfd(DoorbellAddress::Pio(0x42), DoorbellValue::Any, &event).unwrap();
    enter_at(&vcpu, CODE);
    assert_eq!(vcpu.run().unwrap(), Exit::IoOut { port: 0x42, data: &[7] });
});

kvm_test!(an_mmio_doorbell_may_ask_for_a_value, {
    // mov word [0], 5; mov word [0], 6; hlt, with ds above memory
    let code = [0xc7, 0x06, 0, 0, 5, 0, 0xc7, 0x06, 0, 0, 6, 0, 0xf4];
    let (vm, mut vcpu, _memory) = machine(&code);
    let mut sregs = vcpu.sregs().unwrap();
    sregs.ds.base = 0x2_0000;
    sregs.ds.selector = 0x2000;
    vcpu.set_sregs(&sregs).unwrap();
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    vm.register_ioeventfd(DoorbellAddress::Mmio(0x2_0000), DoorbellValue::U16(5), &event).unwrap();
    let _binding = vcpu.bind_to_current_thread().unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::MmioWrite { address: 0x2_0000, data: &[6, 0] });
    assert_eq!(event.read().unwrap(), 1);
});

kvm_test!(routes_and_interrupt_descriptors_are_set_from_several_threads, {
    let vm = Arc::new(open().create_vm().unwrap());
    vm.add_memory(memory(0x1000)).unwrap();
    vm.create_irqchip().unwrap();
    let _vcpu = vm.create_vcpu(0).unwrap();
    let threads: Vec<_> = (24..28)
        .map(|gsi| {
            let vm = Arc::clone(&vm);
            std::thread::spawn(move || {
                let event = EventFd::new(EFD_NONBLOCK).unwrap();
                vm.register_irqfd(&event, gsi).unwrap();
                let twice = vm.register_irqfd(&event, gsi).unwrap_err();
                assert!(matches!(twice, VmError::Irqfd { gsi: named, .. } if named == gsi));
                let target = RouteTarget::Msi { address: 0xfee0_0000, data: gsi };
                let table: Vec<_> = default_routes().chain([Route { gsi, target }]).collect();
                vm.set_routing(&table).unwrap();
                vm.unregister_irqfd(&event, gsi).unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let beyond = Route { gsi: 1 << 20, target: RouteTarget::Msi { address: 0, data: 0 } };
    assert!(matches!(vm.set_routing(&[beyond]).unwrap_err(), VmError::Routing { routes: 1, .. }));
});

kvm_test!(an_interrupt_descriptor_needs_the_irqchip, {
    let vm = open().create_vm().unwrap();
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    assert!(matches!(vm.register_irqfd(&event, 4).unwrap_err(), VmError::Irqfd { gsi: 4, .. }));
});

kvm_test!(the_clock_goes_on_from_what_it_is_set_to, {
    let vm = open().create_vm().unwrap();
    let hour = hypervisor::Clock { nanoseconds: 3_600_000_000_000 };
    vm.set_clock(hour).unwrap();
    assert!(vm.clock().unwrap().nanoseconds >= hour.nanoseconds);
});

kvm_test!(the_kernel_and_the_host_see_the_same_memory, {
    // mov byte [0x3000], 0x5a; hlt
    let (_vm, mut vcpu, memory) = machine(&[0xc6, 0x06, 0x00, 0x30, 0x5a, 0xf4]);
    let _binding = vcpu.bind_to_current_thread().unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
    let byte: u8 = memory.read_obj(MemoryRegionAddress(0x3000)).unwrap();
    assert_eq!(byte, 0x5a);
});
