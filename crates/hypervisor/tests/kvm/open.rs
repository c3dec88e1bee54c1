//! Every way of failing to open KVM says what is wrong.

use std::fs::File;
use std::path::Path;

use hypervisor::{Hypervisor, OpenError};

use crate::harness::{kvm_test, open};

#[test]
fn a_missing_device_names_the_module_to_load() {
    let error = Hypervisor::open_at(Path::new("/nonexistent/kvm")).unwrap_err();
    assert!(matches!(error, OpenError::Absent { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("/nonexistent/kvm") && message.contains("kvm_intel"), "{message}");
}

#[test]
fn other_files_are_no_kvm_device() {
    let file = std::env::current_exe().unwrap().with_file_name(format!("not-kvm-{}", std::process::id()));
    std::fs::write(&file, "a regular file").unwrap();
    for path in [Path::new("/dev/null"), Path::new("/"), &file] {
        let error = Hypervisor::open_at(path).unwrap_err();
        assert!(matches!(error, OpenError::NotKvm { .. }), "{path:?}: {error:?}");
        assert!(error.to_string().contains(&path.display().to_string()));
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_descriptor_of_something_else_is_refused() {
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    assert!(matches!(Hypervisor::from_fd(null.into()).unwrap_err(), OpenError::NotKvm { .. }));
}

kvm_test!(the_device_opens_by_path_and_by_descriptor_alike, {
    let by_path = open();
    let device = File::options().read(true).write(true).open("/dev/kvm").unwrap();
    let by_descriptor = Hypervisor::from_fd(device.into()).unwrap();
    assert_eq!(by_path.facts(), by_descriptor.facts());
    assert!(by_path.facts().max_vcpus >= 1);
    assert!(by_path.facts().vcpu_area_bytes >= 4096);
});

kvm_test!(the_supported_cpuid_is_the_same_each_time, {
    let hypervisor = open();
    let first = hypervisor.supported_cpuid().unwrap();
    assert!(first.as_slice().iter().any(|leaf| leaf.function == 1));
    assert_eq!(first, hypervisor.clone().supported_cpuid().unwrap());
});
