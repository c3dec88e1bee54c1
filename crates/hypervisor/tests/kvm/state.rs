//! Reading and setting a vCPU's state.

use hypervisor::{Exit, VcpuError, VcpuState, XsaveArea, kvm_msr_entry};

use crate::harness::{kvm_test, machine};

const IA32_TSC: u32 = 0x10;
const IA32_SYSENTER_ESP: u32 = 0x175;

kvm_test!(what_is_set_is_read_back, {
    let (_vm, vcpu, _memory) = machine(&[0xf4]);
    let mut regs = vcpu.regs().unwrap();
    regs.rbx = 0x1122_3344_5566_7788;
    vcpu.set_regs(&regs).unwrap();
    assert_eq!(vcpu.regs().unwrap(), regs);
    let sregs = vcpu.sregs().unwrap();
    vcpu.set_sregs(&sregs).unwrap();
    let fpu = vcpu.fpu().unwrap();
    vcpu.set_fpu(&fpu).unwrap();
    let events = vcpu.vcpu_events().unwrap();
    vcpu.set_vcpu_events(&events).unwrap();
    let xcrs = vcpu.xcrs().unwrap();
    vcpu.set_xcrs(&xcrs).unwrap();
    let debug = vcpu.debug_regs().unwrap();
    vcpu.set_debug_regs(&debug).unwrap();
    vcpu.set_mp_state(vcpu.mp_state().unwrap()).unwrap();
    vcpu.kvmclock_ctrl().unwrap();
});

kvm_test!(model_specific_registers_are_set_in_order_and_a_refused_one_is_named, {
    let (_vm, vcpu, _memory) = machine(&[0xf4]);
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    vcpu.set_msrs(&[entry(IA32_SYSENTER_ESP, 0x1234)]).unwrap();
    let read = vcpu.msrs(&[IA32_TSC, IA32_SYSENTER_ESP]).unwrap();
    assert_eq!((read[1].index, read[1].data), (IA32_SYSENTER_ESP, 0x1234));

    let missing = 0xdead_0000;
    let error = vcpu
        .set_msrs(&[entry(IA32_SYSENTER_ESP, 0x5678), entry(missing, 1), entry(IA32_SYSENTER_ESP, 0)])
        .unwrap_err();
    assert!(matches!(error, VcpuError::Msr { register, .. } if register == missing), "{error}");
    assert!(error.to_string().contains("0xdead0000"), "{error}");
    assert_eq!(vcpu.msrs(&[IA32_SYSENTER_ESP]).unwrap()[0].data, 0x5678);
    assert!(matches!(vcpu.msrs(&[missing]).unwrap_err(), VcpuError::Msr { .. }));
});

kvm_test!(vector_registers_survive_a_round_trip_and_a_wrong_size_is_refused, {
    let (_vm, vcpu, _memory) = machine(&[0xf4]);
    let mut words = vcpu.xsave().unwrap().words().to_vec();
    assert!(words.len() >= 1024);
    // The first vector register (offset 160 of the legacy region), and its bit in XSTATE_BV (offset 512).
    words[40] = 0xcafe_f00d;
    words[128] |= 2;
    vcpu.set_xsave(&XsaveArea::from(words.clone())).unwrap();
    assert_eq!(vcpu.xsave().unwrap().words()[40], 0xcafe_f00d);

    words.push(0);
    let error = vcpu.set_xsave(&XsaveArea::from(words)).unwrap_err();
    assert!(matches!(error, VcpuError::XsaveSize { .. }), "{error}");
});

kvm_test!(the_guest_sees_the_cpuid_it_is_given, {
    const HYPERVISOR: u32 = 1 << 31;
    // mov eax, 1; cpuid; hlt
    let (_vm, mut vcpu, _memory) = machine(&[0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0xf4]);
    let mut leaves = crate::harness::open().supported_cpuid().unwrap();
    let leaf = leaves.as_mut_slice().iter_mut().find(|leaf| leaf.function == 1).unwrap();
    leaf.eax = 0x000a_0f11;
    leaf.ecx |= HYPERVISOR;
    vcpu.set_cpuid(&leaves).unwrap();
    let present = vcpu.cpuid().unwrap();
    assert!(present.as_slice().iter().any(|leaf| leaf.function == 1 && leaf.eax == 0x000a_0f11));
    let _binding = vcpu.bind_to_current_thread().unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
    let regs = vcpu.regs().unwrap();
    assert_eq!(regs.rax, 0x000a_0f11);
    assert_eq!(u32::try_from(regs.rcx).unwrap() & HYPERVISOR, HYPERVISOR);
});

kvm_test!(a_saved_vcpu_goes_on_in_another_machine, {
    // mov al, 'A'; out 0xe9, al; inc ax; out 0xe9, al; hlt
    let code = [0xb0, b'A', 0xe6, 0xe9, 0x40, 0xe6, 0xe9, 0xf4];
    let hypervisor = crate::harness::open();
    let msrs = hypervisor.saved_msrs().unwrap();
    let saved = {
        let (_vm, mut vcpu, _memory) = machine(&code);
        vcpu.set_cpuid(&hypervisor.supported_cpuid().unwrap()).unwrap();
        let _binding = vcpu.bind_to_current_thread().unwrap();
        assert_eq!(vcpu.run().unwrap(), Exit::IoOut { port: 0xe9, data: b"A" });
        while vcpu.complete_pending_io().unwrap().is_some() {}
        serde_json::to_string(&vcpu.save(msrs).unwrap()).unwrap()
    };
    let state: VcpuState = serde_json::from_str(&saved).unwrap();
    let (_vm, mut vcpu, _memory) = machine(&code);
    vcpu.restore(&state).unwrap();
    let _binding = vcpu.bind_to_current_thread().unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::IoOut { port: 0xe9, data: b"B" });
    assert_eq!(vcpu.run().unwrap(), Exit::Halt);
});

kvm_test!(a_state_with_an_apic_survives_a_round_trip, {
    let hypervisor = crate::harness::open();
    let vcpu_with_apic = || {
        let vm = hypervisor.create_vm().unwrap();
        vm.create_irqchip().unwrap();
        vm.create_vcpu(0).unwrap()
    };
    let msrs: Vec<u32> =
        hypervisor.saved_msrs().unwrap().iter().copied().filter(|register| *register != IA32_TSC).collect();
    let first = vcpu_with_apic();
    first.set_cpuid(&hypervisor.supported_cpuid().unwrap()).unwrap();
    let saved = first.save(&msrs).unwrap();
    let second = vcpu_with_apic();
    second.restore(&saved).unwrap();
    let again = second.save(&msrs).unwrap();
    assert_eq!(again.regs(), saved.regs());
    assert_eq!(again.sregs(), saved.sregs());
});

kvm_test!(a_state_of_another_version_is_refused, {
    let hypervisor = crate::harness::open();
    let (_vm, vcpu, _memory) = machine(&[0xf4]);
    let mut json = serde_json::to_value(vcpu.save(hypervisor.saved_msrs().unwrap()).unwrap()).unwrap();
    json["version"] = 2.into();
    let state: VcpuState = serde_json::from_value(json).unwrap();
    let error = vcpu.restore(&state).unwrap_err();
    assert!(matches!(error, VcpuError::StateVersion { found: 2, expected: 1, .. }), "{error}");
});
