//! Feeds the body `block_requests`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("block_requests").expect("there is one of that name")(bytes);
});
