//! What a store path's author writes: the machine description and the promised hash.

use vm_model::NarHash;

/// Reads `vm-config.json`.
pub(crate) fn machine_description(bytes: &[u8]) {
    // A refusal must stay readable whatever the file holds.
    if let Err(error) = nix_artifacts::fuzzing::read_description(bytes) {
        let length = error.to_string().len();
        assert!(length < 16 << 10, "an error of {length} bytes");
    }
}

/// Reads a hash; one that is accepted is written in a form that is read as the same.
pub(crate) fn nar_hash_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<NarHash>() {
        Ok(hash) => assert_eq!(hash.to_string().parse(), Ok(hash)),
        Err(error) => assert!(error.to_string().len() < 1024),
    }
}
