//! Feeds the body `net_frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("net_frames").expect("there is one of that name")(bytes);
});
