//! Feeds the body `host_process_messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("host_process_messages").expect("there is one of that name")(bytes);
});
