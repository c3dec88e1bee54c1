//! Feeds the body `kernel_images`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("kernel_images").expect("there is one of that name")(bytes);
});
