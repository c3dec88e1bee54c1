//! Feeds the body `virtqueue`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("virtqueue").expect("there is one of that name")(bytes);
});
