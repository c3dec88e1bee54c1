//! Feeds the body `notify_messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("notify_messages").expect("there is one of that name")(bytes);
});
