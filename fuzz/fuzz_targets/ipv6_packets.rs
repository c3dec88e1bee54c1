//! Feeds the body `ipv6_packets`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("ipv6_packets").expect("there is one of that name")(bytes);
});
