//! Every form in which Nix prints the hash of a store path, brought into one: its 32 bytes.

use data_encoding::{BASE64, BitOrder, Encoding, HEXLOWER_PERMISSIVE, Specification};

/// What is accepted, for messages.
pub(crate) const ACCEPTED: &str = "the SHA-256 that `nix path-info --json` prints, as text like \
    \"sha256-vZsuiNNAbVoV1qgClBpHhRQ8DSbbp6Lz6NMMLS5CqVY=\" or as its object of algorithm, format and hash";

/// The digits of Nix's own base 32.
const NIX32: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// How 32 bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HashFormat {
    Base16,
    Nix32,
    Base64,
    /// With the algorithm before it.
    Sri,
}

impl HashFormat {
    /// The format that Nix calls `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "base16" | "hex" => Some(Self::Base16),
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

/// Reads `text`: `sha256-` and base 64, `sha256:` and any of Nix's encodings, or an encoding alone.
///
/// # Errors
/// Says what is wrong with it.
pub(crate) fn from_text(text: &str) -> Result<[u8; 32], &'static str> {
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

/// Reads 32 bytes written in `format`.
///
/// # Errors
/// Says what is wrong with them.
pub(crate) fn from_encoded(encoded: &str, format: HashFormat) -> Result<[u8; 32], &'static str> {
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
    bytes.try_into().map_err(|_| "it does not hold the 32 bytes of a SHA-256")
}

/// Writes `bytes` in Nix's base 32.
pub(crate) fn to_nix32(bytes: &[u8]) -> String {
    // The alphabet is sound, or no hash could be read.
    let encoded = nix32().map(|encoding| encoding.encode(bytes)).unwrap_or_default();
    encoded.chars().rev().collect()
}

fn nix32() -> Option<Encoding> {
    let mut specification = Specification::new();
    specification.symbols.push_str(NIX32);
    specification.bit_order = BitOrder::LeastSignificantFirst;
    specification.encoding().ok()
}
