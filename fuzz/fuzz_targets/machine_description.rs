//! Feeds the body `machine_description`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("machine_description").expect("there is one of that name")(bytes);
});
