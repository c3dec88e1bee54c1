//! Feeds the body `assignments`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("assignments").expect("there is one of that name")(bytes);
});
