//! Feeds the body `dhcp_packets`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("dhcp_packets").expect("there is one of that name")(bytes);
});
