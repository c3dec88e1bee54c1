//! The grammar of a store path's last component. Whether the path exists is left to [`super::StoreRoots`].

/// The alphabet of Nix's base 32: digits and lower-case letters without `e`, `o`, `t`, `u`.
const BASE32: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";
/// Characters of the hash part.
const HASH_LENGTH: usize = 32;
/// The longest name Nix gives a store path, hash and dash not counted.
const MAX_NAME_LENGTH: usize = 211;

/// How strict a root is about what stands directly below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// `<hash>-<name>`, as Nix names what it builds.
    Nix,
    /// Any plain name: a root that somebody filled by hand.
    Plain,
}

impl Naming {
    /// Whether `name` can be a store path below a root of this kind.
    pub(crate) fn accepts(self, name: &[u8]) -> bool {
        match self {
            Self::Nix => is_nix_name(name),
            Self::Plain => is_plain_name(name),
        }
    }

    /// What is accepted, for messages.
    pub(crate) fn accepted(self) -> &'static str {
        match self {
            Self::Nix => {
                "<32 characters of Nix's base 32>-<name>, the name made of letters, digits and + - . _ ? ="
            }
            Self::Plain => "one name made of letters, digits and + - . _ ? =, not starting with a dot",
        }
    }
}

fn is_nix_name(name: &[u8]) -> bool {
    let Some((hash, rest)) = name.split_at_checked(HASH_LENGTH) else {
        return false;
    };
    let Some(rest) = rest.strip_prefix(b"-") else {
        return false;
    };
    hash.iter().all(|byte| BASE32.contains(byte)) && is_plain_name(rest)
}

fn is_plain_name(name: &[u8]) -> bool {
    (1..=MAX_NAME_LENGTH).contains(&name.len())
        && name[0] != b'.'
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nix_names_are_told_from_others() {
        let good = b"3n58xw4373jp0ljirf06d8077j15pc4j-vm-image_1.0+b?=";
        assert!(Naming::Nix.accepts(good));
        for bad in [
            &b""[..],
            b"vm-image",
            b"3n58xw4373jp0ljirf06d8077j15pc4j",
            b"3n58xw4373jp0ljirf06d8077j15pc4j-",
            b"3n58xw4373jp0ljirf06d8077j15pc4j-.hidden",
            b"3n58xw4373jp0ljirf06d8077j15pc4e-letter-e",
            b"3N58XW4373JP0LJIRF06D8077J15PC4J-capitals",
            b"3n58xw4373jp0ljirf06d8077j15pc4j-a/b",
            b"3n58xw4373jp0ljirf06d8077j15pc4j-a\0",
        ] {
            assert!(!Naming::Nix.accepts(bad), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn plain_names_are_one_harmless_component() {
        assert!(Naming::Plain.accepts(b"my-image"));
        for bad in [&b""[..], b".", b"..", b".links", b"a/b", b"a b", &[b'a'; 212]] {
            assert!(!Naming::Plain.accepts(bad), "{}", String::from_utf8_lossy(bad));
        }
    }
}
