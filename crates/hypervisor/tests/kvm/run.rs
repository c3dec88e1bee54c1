//! Typed exits, and completing an access without running on.

use hypervisor::{Exit, VcpuError};
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::harness::{enter_protected_mode, kvm_test, machine};

kvm_test!(a_port_write_and_a_halt, {
    // mov al, 'A'; out 0xe9, al; hlt
    let (_vm, mut vcpu, _memory) = machine(&[0xb0, b'A', 0xe6, 0xe9, 0xf4]);
    let _binding = vcpu.bind_to_current_thread().unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::IoOut { port: 0xe9, data: b"A" });
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
});

kvm_test!(a_port_read_is_answered, {
    // in ax, 0x60; mov [0x3000], ax; hlt
    let (_vm, mut vcpu, memory) = machine(&[0xe5, 0x60, 0xa3, 0x00, 0x30, 0xf4]);
    let _binding = vcpu.bind_to_current_thread().unwrap();
    let Exit::IoIn { port: 0x60, data } = vcpu.run().unwrap() else { panic!("a port read is expected") };
    assert_eq!(data.len(), 2);
    data.copy_from_slice(&[0x34, 0x12]);
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
    assert_eq!(memory.read_obj::<u16>(MemoryRegionAddress(0x3000)).unwrap(), 0x1234);
});

kvm_test!(a_repeated_port_read_comes_one_by_one, {
    // cld; mov di, 0x3000; mov cx, 5; mov dx, 0x61; rep insb; hlt
    let code = [0xfc, 0xbf, 0x00, 0x30, 0xb9, 5, 0, 0xba, 0x61, 0, 0xf3, 0x6c, 0xf4];
    let (_vm, mut vcpu, memory) = machine(&code);
    let _binding = vcpu.bind_to_current_thread().unwrap();
    for value in 1..=5 {
        let exit = vcpu.run().unwrap();
        let Exit::IoIn { port: 0x61, data } = exit else { panic!("read {value} is expected, not {exit:?}") };
        assert_eq!(data.len(), 1);
        data[0] = value;
    }
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
    let mut read = [0; 6];
    memory.read_slice(&mut read, MemoryRegionAddress(0x3000)).unwrap();
    assert_eq!(read, [1, 2, 3, 4, 5, 0]);
});

kvm_test!(a_repeated_port_write_comes_one_by_one, {
    // cld; mov si, 0x1020; mov cx, 3; mov dx, 0xe9; rep outsb; hlt
    let mut code = vec![0xfc, 0xbe, 0x20, 0x10, 0xb9, 3, 0, 0xba, 0xe9, 0, 0xf3, 0x6e, 0xf4];
    code.resize(0x20, 0x90);
    code.extend_from_slice(b"xyz");
    let (_vm, mut vcpu, _memory) = machine(&code);
    let _binding = vcpu.bind_to_current_thread().unwrap();
    for byte in [b"x", b"y", b"z"] {
        assert_eq!(vcpu.run().unwrap(), Exit::IoOut { port: 0xe9, data: byte });
    }
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
});

kvm_test!(memory_mapped_accesses_carry_address_and_data, {
    // mov al, [0]; inc al; mov [1], al; hlt, with ds above memory
    let (_vm, mut vcpu, _memory) = machine(&[0xa0, 0, 0, 0xfe, 0xc0, 0xa2, 1, 0, 0xf4]);
    let mut sregs = vcpu.sregs().unwrap();
    sregs.ds.base = 0x2_0000;
    sregs.ds.selector = 0x2000;
    vcpu.set_sregs(&sregs).unwrap();
    let _binding = vcpu.bind_to_current_thread().unwrap();
    let Exit::MmioRead { address: 0x2_0000, data } = vcpu.run().unwrap() else {
        panic!("a memory-mapped read is expected")
    };
    data.copy_from_slice(&[0x41]);
    assert_eq!(vcpu.run().unwrap(), Exit::MmioWrite { address: 0x2_0001, data: &[0x42] });
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
});

kvm_test!(a_triple_fault_is_a_shutdown, {
    // ud2 in flat protected mode, with an interrupt table of no entries: neither the invalid opcode nor the
    // double fault after it has a handler
    let (_vm, mut vcpu, _memory) = machine(&[0x0f, 0x0b]);
    enter_protected_mode(&vcpu);
    let _binding = vcpu.bind_to_current_thread().unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Shutdown);
});

kvm_test!(a_pending_access_is_completed_before_the_guest_runs_on, {
    // in al, 0x60; hlt
    let (_vm, mut vcpu, _memory) = machine(&[0xe4, 0x60, 0xf4]);
    let _binding = vcpu.bind_to_current_thread().unwrap();
    let Exit::IoIn { data, .. } = vcpu.run().unwrap() else { panic!("a port read is expected") };
    data[0] = 0x99;
    let before = vcpu.regs().unwrap();
    assert_ne!(before.rax & 0xff, 0x99, "the access is pending");
    assert_eq!(vcpu.complete_pending_io().unwrap(), None);
    assert_eq!(vcpu.regs().unwrap().rax & 0xff, 0x99);
    assert_eq!(vcpu.run().unwrap(), Exit::Interrupted, "completing leaves the vCPU kicked");
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
});

kvm_test!(completing_hands_out_the_rest_of_a_repeated_access, {
    // cld; mov di, 0x3000; mov cx, 2; mov dx, 0x61; rep insb; hlt
    let code = [0xfc, 0xbf, 0x00, 0x30, 0xb9, 2, 0, 0xba, 0x61, 0, 0xf3, 0x6c, 0xf4];
    let (_vm, mut vcpu, memory) = machine(&code);
    let _binding = vcpu.bind_to_current_thread().unwrap();
    let Exit::IoIn { data, .. } = vcpu.run().unwrap() else { panic!("a port read is expected") };
    data[0] = 1;
    let mut value = 2;
    while let Some(exit) = vcpu.complete_pending_io().unwrap() {
        let Exit::IoIn { data, .. } = exit else { panic!("a port read is expected, not {exit:?}") };
        data[0] = value;
        value += 1;
    }
    assert_eq!(value, 3);
    assert_eq!(memory.read_obj::<[u8; 2]>(MemoryRegionAddress(0x3000)).unwrap(), [1, 2]);
});

kvm_test!(a_vcpu_runs_only_where_it_is_bound, {
    let (_vm, mut vcpu, _memory) = machine(&[0xf4]);
    assert!(matches!(vcpu.run().unwrap_err(), VcpuError::NotBound { index: 0 }));
    let binding = vcpu.bind_to_current_thread().unwrap();
    assert!(matches!(vcpu.bind_to_current_thread().unwrap_err(), VcpuError::AlreadyBound { index: 0 }));
    std::thread::scope(|scope| {
        let vcpu = &mut vcpu;
        scope.spawn(move || assert!(matches!(vcpu.run().unwrap_err(), VcpuError::NotBound { .. })));
    });
    drop(binding);
    std::thread::spawn(move || {
        let _binding = vcpu.bind_to_current_thread().unwrap();
        assert_eq!(vcpu.run().unwrap(), Exit::Halt);
    })
    .join()
    .unwrap();
});
