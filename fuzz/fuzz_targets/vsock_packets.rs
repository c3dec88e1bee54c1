//! Feeds the body `vsock_packets`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("vsock_packets").expect("there is one of that name")(bytes);
});
