//! Feeds the body `dns_messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("dns_messages").expect("there is one of that name")(bytes);
});
