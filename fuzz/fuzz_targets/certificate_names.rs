//! Feeds the body `certificate_names`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("certificate_names").expect("there is one of that name")(bytes);
});
