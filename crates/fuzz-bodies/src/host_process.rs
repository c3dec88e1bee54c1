//! What the two ends of a host process' connection send each other: a process that was taken over by its guest speaks to a
//! worker that is root.

use std::os::fd::OwnedFd;

use host_process::wire::{FromHost, Message, Packet, ToHost};

/// A packet as a process sends it, and as a worker does; what is read is written in a form that is read as the same.
pub(crate) fn messages(bytes: &[u8]) {
    let packet = || Packet { bytes: bytes.to_vec(), descriptors: Vec::new() };
    match FromHost::read(packet()) {
        Ok(FromHost::Unknown) => {}
        Ok(message) => {
            let written = message.clone().pack().expect("what came in one packet goes in one");
            let again = Packet { bytes: written.bytes().to_vec(), descriptors: Vec::new() };
            assert_eq!(FromHost::read(again).expect("it was written here"), message);
        }
        Err(problem) => assert!(vm_model::error_chain(&problem).len() < bytes.len() + 4096),
    }
    // No message names a descriptor that did not come.
    if let Ok(message) = ToHost::<OwnedFd>::read(packet()) {
        assert!(!matches!(message, ToHost::Launch(_)), "a launch has a kernel");
    }
}
