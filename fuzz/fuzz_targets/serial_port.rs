//! Feeds the body `serial_port`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("serial_port").expect("there is one of that name")(bytes);
});
