//! Random numbers of the host's, for what only has to be spread.

/// A random number from the host; zero where the host has none to give.
pub fn os_random() -> u64 {
    let mut bytes = [0; 8];
    match rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => 0,
    }
}
