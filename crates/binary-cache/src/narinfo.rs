//! The description of one store path in a binary cache, `<hash>.narinfo`: read strictly, and of bounded size.
//!
//! Lines of `Key: value`, as Nix writes them (`nix-cache-info` and narinfo, the binary cache's HTTP interface). Unknown keys
//! are passed over; a key that counts may be there once only, but for signatures.

use std::collections::BTreeSet;

use thiserror::Error;
use vm_model::{NarHash, StoreName, shown_text};

use crate::compression::Compression;
use crate::signature::Signature;

/// The longest description: one with some 15,000 references.
pub(crate) const LONGEST: usize = 1 << 20;

/// What a cache says of a store path. Nothing of it is to be believed before [`Narinfo::fingerprint`] was found signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Narinfo {
    /// The path.
    pub(crate) name: StoreName,
    /// The directory of the store that it belongs to.
    pub(crate) store: String,
    /// Where its archive lies, relative to the cache.
    pub(crate) url: String,
    pub(crate) compression: Compression,
    /// Size of the archive as it is stored, where it is said. Not signed.
    pub(crate) file_size: Option<u64>,
    pub(crate) nar_hash: NarHash,
    pub(crate) nar_size: u64,
    /// The store paths that it needs, itself often among them.
    pub(crate) references: BTreeSet<StoreName>,
    pub(crate) signatures: Vec<Signature>,
}

/// Why a description cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NarinfoError {
    /// It is too long, or no text.
    #[error("it is no text of at most {} bytes", LONGEST)]
    NoText,
    /// A line is no `Key: value`.
    #[error("line {line} is not of the form \"Key: value\"")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// A key that must be there is not.
    #[error("{key} is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A key is there twice.
    #[error("{key} is there twice")]
    Twice {
        /// The key.
        key: String,
    },
    /// A value is not what its key accepts.
    #[error("{key} is {found}; {accepted} is accepted")]
    Value {
        /// The key.
        key: &'static str,
        /// What it says, shortened.
        found: String,
        /// What is accepted.
        accepted: &'static str,
    },
}

impl Narinfo {
    /// Reads `text`.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, NarinfoError> {
        if text.len() > LONGEST {
            return Err(NarinfoError::NoText);
        }
        let text = str::from_utf8(text).map_err(|_| NarinfoError::NoText)?;
        let lines = Lines::read(text)?;
        let (store, name) = store_path(lines.required("StorePath")?)?;
        let url = lines.required("URL")?;
        if !is_relative(url) {
            return Err(refused("URL", url, "a path below the cache"));
        }
        let compression = lines.one("Compression").unwrap_or("bzip2");
        let compression = Compression::named(compression)
            .ok_or_else(|| refused("Compression", compression, Compression::ACCEPTED))?;
        let hash = lines.required("NarHash")?;
        let nar_hash = hash.parse().map_err(|_| refused("NarHash", hash, "a SHA-256 as Nix prints it"))?;
        let nar_size = size("NarSize", lines.required("NarSize")?)?;
        let file_size = lines.one("FileSize").map(|text| size("FileSize", text)).transpose()?;
        let references = lines.one("References").unwrap_or("").split_ascii_whitespace();
        let references: Result<BTreeSet<StoreName>, _> = references
            .map(|name| name.parse().map_err(|_| refused("References", name, StoreName::ACCEPTED)))
            .collect();
        // One that cannot be read is none: a cache may have signatures of kinds that are yet to be made.
        let signatures = lines.all("Sig").filter_map(|text| text.parse().ok()).collect();
        Ok(Self {
            name,
            store: store.to_owned(),
            url: url.to_owned(),
            compression,
            file_size,
            nar_hash,
            nar_size,
            references: references?,
            signatures,
        })
    }

    /// What is signed of it: `1;<path>;sha256:<base 32>;<size>;<references>` (Nix, `ValidPathInfo::fingerprint`).
    pub(crate) fn fingerprint(&self) -> String {
        let path = |name: &StoreName| format!("{}/{name}", self.store);
        let references: Vec<String> = self.references.iter().map(path).collect();
        let (own, hash) = (path(&self.name), self.nar_hash.nix32());
        format!("1;{own};sha256:{hash};{};{}", self.nar_size, references.join(","))
    }
}

fn refused(key: &'static str, found: &str, accepted: &'static str) -> NarinfoError {
    NarinfoError::Value { key, found: shown_text(found), accepted }
}

/// The lines of a description that count.
struct Lines<'text>(Vec<(&'text str, &'text str)>);

impl<'text> Lines<'text> {
    /// The keys that may be there more than once.
    const REPEATED: [&'static str; 1] = ["Sig"];

    fn read(text: &'text str) -> Result<Self, NarinfoError> {
        let mut lines: Vec<(&str, &str)> = Vec::new();
        let numbered = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
        for (index, line) in numbered {
            let Some((key, value)) = line.split_once(':') else {
                return Err(NarinfoError::Line { line: index + 1 });
            };
            if !Self::REPEATED.contains(&key) && lines.iter().any(|(there, _)| *there == key) {
                return Err(NarinfoError::Twice { key: shown_text(key) });
            }
            lines.push((key, value.trim_start_matches(' ')));
        }
        Ok(Self(lines))
    }

    fn all(&self, key: &'static str) -> impl Iterator<Item = &'text str> {
        self.0.iter().filter(move |(there, _)| *there == key).map(|(_, value)| *value)
    }

    fn one(&self, key: &'static str) -> Option<&'text str> {
        self.all(key).next()
    }

    fn required(&self, key: &'static str) -> Result<&'text str, NarinfoError> {
        self.one(key).filter(|value| !value.is_empty()).ok_or(NarinfoError::Missing { key })
    }
}

/// The store and the name of a whole store path.
fn store_path(text: &str) -> Result<(&str, StoreName), NarinfoError> {
    const ACCEPTED: &str = "an absolute path of a store";
    let (store, name) = text.rsplit_once('/').ok_or_else(|| refused("StorePath", text, ACCEPTED))?;
    let name = name.parse().map_err(|_| refused("StorePath", text, ACCEPTED))?;
    if !store.starts_with('/') || store.contains([';', ',']) {
        return Err(refused("StorePath", text, ACCEPTED));
    }
    Ok((store, name))
}

fn size(key: &'static str, text: &str) -> Result<u64, NarinfoError> {
    text.parse().map_err(|_| refused(key, text, "a number of bytes"))
}

/// Whether `url` leads to something below what it is relative to.
fn is_relative(url: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\\%\"<>".contains(&byte);
    url.bytes().all(is_plain)
        && !url.contains("://")
        && url.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\
StorePath: /nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-vm-image
URL: nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz
Compression: xz
FileHash: sha256:1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3
FileSize: 196040
NarHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73
NarSize: 226552
References: 3n58xw4373jp0ljirf06d8077j15pc4j-vm-image 0c5b8vw40dy178xlpddw65q9gf1h2186-kernel
Deriver: 10dx1q4ivjb115y3h90mipaaz533nr0d-vm-image.drv
Sig: cache.example-1:u01BybwQhyI5H1bW1EIWXssMDhDDIvXOG5uh8Qzgdyjz6U1qg6DHhMAvXZOUStIj6X5t4/ufFgR8i3fjf0bMAw==
Sig: other
";

    #[test]
    fn a_description_is_read_and_says_what_is_signed_of_it() {
        let narinfo = Narinfo::parse(TEXT.as_bytes()).expect("read");
        assert_eq!(narinfo.compression, Compression::Xz);
        assert_eq!((narinfo.nar_size, narinfo.file_size), (226_552, Some(196_040)));
        assert_eq!(narinfo.signatures.len(), 1, "the other is none");
        assert_eq!(
            narinfo.fingerprint(),
            "1;/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-vm-image;\
             sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73;226552;\
             /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-kernel,\
             /nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-vm-image"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, said) in [
            ("URL: nar/", "URL: ../", "URL"),
            ("URL: nar/", "URL: http://elsewhere/", "URL"),
            ("Compression: xz", "Compression: rar", "none, xz, zstd and bzip2"),
            ("NarSize: 226552", "NarSize: -1", "NarSize"),
            ("NarSize: 226552", "NarSize: 1\nNarSize: 2", "there twice"),
            ("NarHash: sha256:0mdq", "NarHash: sha256:0mde", "NarHash"),
            ("StorePath: /nix/store/", "StorePath: ", "StorePath"),
            ("StorePath: /nix/store/", "StorePath: /nix/store;/", "StorePath"),
            ("0c5b8vw40dy178xlpddw65q9gf1h2186-kernel", "../kernel", "References"),
            ("FileSize: 196040", "no key and value", "line 5"),
            ("NarSize: 226552\n", "", "NarSize is missing"),
        ] {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT, "{from}");
            let refused = Narinfo::parse(text.as_bytes()).expect_err(to).to_string();
            assert!(refused.contains(said), "{to}: {refused}");
        }
        assert_eq!(Narinfo::parse(b"\xff"), Err(NarinfoError::NoText));
        assert_eq!(Narinfo::parse(&vec![b'a'; LONGEST + 1]), Err(NarinfoError::NoText));
    }

    #[test]
    fn an_unnamed_compression_is_the_oldest() {
        let narinfo = Narinfo::parse(TEXT.replace("Compression: xz\n", "").as_bytes()).expect("read");
        assert_eq!(narinfo.compression, Compression::Bzip2);
    }

    proptest! {
        #[test]
        fn no_text_harms_the_reader(at in 0..TEXT.len(), bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut text = TEXT.as_bytes().to_vec();
            let end = (at + bytes.len()).min(text.len());
            text.splice(at..end, bytes);
            if let Ok(narinfo) = Narinfo::parse(&text) {
                prop_assert!(is_relative(&narinfo.url));
                prop_assert!(!narinfo.store.contains(';'));
            }
        }
    }
}
