//! Feeds the body `platform_registers`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("platform_registers").expect("there is one of that name")(bytes);
});
