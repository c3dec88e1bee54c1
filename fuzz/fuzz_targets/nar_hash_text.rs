//! Feeds the body `nar_hash_text`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("nar_hash_text").expect("there is one of that name")(bytes);
});
