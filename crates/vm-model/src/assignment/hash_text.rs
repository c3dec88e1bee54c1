//! Every form in which Nix prints the hash of a store path, brought into one: `sha256-<base 64>`.

use data_encoding::{BASE64, BitOrder, Encoding, HEXLOWER_PERMISSIVE, Specification};

/// What is accepted, for messages.
pub(super) const ACCEPTED: &str = "the SHA-256 that `nix path-info --json` prints, as text like \
    \"sha256-vZsuiNNAbVoV1qgClBpHhRQ8DSbbp6Lz6NMMLS5CqVY=\" or as its object of algorithm, format and hash";

/// The digits of Nix's own base 32.
const NIX32: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// How 32 bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HashFormat {
    Base16,
    Nix32,
    Base64,
    /// With the algorithm before it.
    Sri,
}

impl HashFormat {
    /// The format that Nix calls `name`.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "base16" => Some(Self::Base16),
            "nix32" | "base32" => Some(Self::Nix32),
            "base64" => Some(Self::Base64),
            "sri" => Some(Self::Sri),
            _ => None,
        }
    }

    /// The format in which 32 bytes have this many characters.
    fn of_length(length: usize) -> Option<Self> {
        match length {
            64 => Some(Self::Base16),
            52 => Some(Self::Nix32),
            44 => Some(Self::Base64),
            _ => None,
        }
    }
}

/// `text` in SRI form: it may be that already, `sha256:` and any of Nix's encodings, or an encoding alone.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn from_text(text: &str) -> Result<String, &'static str> {
    if let Some(encoded) = text.strip_prefix("sha256-") {
        return from_encoded(encoded, HashFormat::Base64);
    }
    if ["sha512-", "sha512:", "sha1-", "sha1:", "md5-", "md5:", "blake3-", "blake3:"]
        .iter()
        .any(|other| text.starts_with(other))
    {
        return Err("it is no SHA-256");
    }
    let encoded = text.strip_prefix("sha256:").unwrap_or(text);
    let format =
        HashFormat::of_length(encoded.len()).ok_or("it has not the length of a SHA-256 in any form")?;
    from_encoded(encoded, format)
}

/// 32 bytes written in `format`, in SRI form.
///
/// # Errors
/// Says what is wrong with them.
pub(super) fn from_encoded(encoded: &str, format: HashFormat) -> Result<String, &'static str> {
    let decoded = match format {
        HashFormat::Sri => return from_text(encoded),
        HashFormat::Base16 => HEXLOWER_PERMISSIVE.decode(encoded.as_bytes()),
        HashFormat::Nix32 => {
            // Nix writes the last digit first.
            let reversed: Vec<u8> = encoded.bytes().rev().collect();
            nix32().ok_or("it cannot be read")?.decode(&reversed)
        }
        // The decoder takes several padded texts after one another for one.
        HashFormat::Base64 if encoded.trim_end_matches('=').contains('=') => {
            return Err("it has '=' in its midst");
        }
        HashFormat::Base64 => BASE64.decode(encoded.as_bytes()),
    };
    let bytes = decoded.map_err(|_| "it has a character or an end that its form has not")?;
    if bytes.len() != 32 {
        return Err("it does not hold the 32 bytes of a SHA-256");
    }
    Ok(format!("sha256-{}", BASE64.encode(&bytes)))
}

fn nix32() -> Option<Encoding> {
    let mut specification = Specification::new();
    specification.symbols.push_str(NIX32);
    specification.bit_order = BitOrder::LeastSignificantFirst;
    specification.encoding().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The hash of nothing, in each form (as `nix-hash --type sha256 --to-…` prints it).
    const SRI: &str = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const BASE32: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

    #[test]
    fn every_form_of_one_hash_is_the_same_text() {
        let upper = HEX.to_uppercase();
        for text in [SRI, HEX, BASE32, &SRI[7..], &upper] {
            assert_eq!(from_text(text).as_deref(), Ok(SRI), "{text}");
        }
        for text in [HEX, BASE32, &SRI[7..]] {
            assert_eq!(from_text(&format!("sha256:{text}")).as_deref(), Ok(SRI), "{text}");
        }
        for (format, text) in [("base16", HEX), ("nix32", BASE32), ("base64", &SRI[7..]), ("sri", SRI)] {
            let format = HashFormat::named(format).expect("Nix' own name");
            assert_eq!(from_encoded(text, format).as_deref(), Ok(SRI), "{text}");
        }
    }

    #[test]
    fn what_is_no_hash_of_a_store_path_is_refused() {
        let other_end = SRI.replace("FU=", "FV=");
        let (long, odd) = (format!("{SRI}{SRI}"), HEX.replace('e', "g"));
        for text in [
            "",
            "sha256-",
            "sha256:",
            "sha256-x=",
            "sha512-47DE",
            &other_end,
            &long,
            &odd,
            &SRI[..50],
            &format!(" {SRI}"),
        ] {
            from_text(text).expect_err(text);
        }
        assert!(from_text(&BASE32.replace("0m", "zm")).is_err(), "more than 256 bits");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_what_is_taken_is_taken_again(text in "\\PC{0,70}|[0-9a-z]{52}") {
            if let Ok(sri) = from_text(&text) {
                prop_assert_eq!(from_text(&sri), Ok(sri.clone()));
            }
        }
    }
}
