//! Feeds the body `pci_configuration`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("pci_configuration").expect("there is one of that name")(bytes);
});
