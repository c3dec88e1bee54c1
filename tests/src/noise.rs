//! Bytes that look random and follow from a number: what was stored can be told from what was stored before, and from
//! the same at another place.

use anyhow::{Result, bail};

/// `length` bytes that follow from `seed`.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    // Marsaglia's xorshift with shifts of 13, 7 and 17; its state is never zero. The factor spreads small seeds.
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Checks that `found` is `expected`, byte by byte.
///
/// # Errors
/// It is not; the error says where they begin to differ, and how much.
pub fn ensure_same(found: &[u8], expected: &[u8]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let different = |(found, expected): (&u8, &u8)| found != expected;
    let first = found.iter().zip(expected).position(different);
    let count = found.iter().zip(expected).filter(|pair| different(*pair)).count();
    bail!(
        "{} bytes came where {} were expected; {count} of them differ, the first at {first:?}",
        found.len(),
        expected.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_has_its_own_bytes() {
        assert_eq!(noise(7, 1000), noise(7, 1000));
        assert_eq!(noise(7, 1000)[..13], noise(7, 13));
        assert_ne!(noise(7, 16), noise(8, 16));
        let bytes = noise(0, 1 << 16);
        let blocks: std::collections::BTreeSet<&[u8]> = bytes.chunks(512).collect();
        assert_eq!(blocks.len(), 128, "no two blocks are the same");
    }

    #[test]
    fn a_difference_is_told() {
        let expected = noise(1, 100);
        ensure_same(&expected, &expected).expect("they are the same");
        let mut found = expected.clone();
        found[40] ^= 1;
        found[70] ^= 1;
        let error = ensure_same(&found, &expected).expect_err("they differ");
        assert_eq!(
            error.to_string(),
            "100 bytes came where 100 were expected; 2 of them differ, the first at Some(40)"
        );
        assert!(ensure_same(&expected[..99], &expected).is_err());
    }
}
