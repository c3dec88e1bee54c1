//! Feeds the body `master_messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("master_messages").expect("there is one of that name")(bytes);
});
