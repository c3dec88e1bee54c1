//! Feeds the body `virtio_transport`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_bodies::body("virtio_transport").expect("there is one of that name")(bytes);
});
