//! Feeds the body `balloon_queues`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("balloon_queues").expect("there is one of that name")(bytes);
});
