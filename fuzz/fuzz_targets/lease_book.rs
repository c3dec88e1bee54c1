//! Feeds the body `lease_book`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("lease_book").expect("there is one of that name")(bytes);
});
