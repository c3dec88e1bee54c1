//! Which versions of the conversation there are, and which one two ends speak.
//!
//! A worker speaks with host processes of every earlier release, because they outlive it: it keeps every version that was
//! ever released. A host process speaks those of its own release.
//!
//! | version | what changed |
//! |---|---|
//! | 1 | the first |

use serde::{Deserialize, Serialize};

/// A version of the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u32);

/// The versions that this release speaks, oldest first.
pub const VERSIONS: [Version; 1] = [Version(1)];

/// The newest of `offered` that this release speaks.
pub fn choose(offered: &[Version]) -> Option<Version> {
    VERSIONS.iter().rev().find(|version| offered.contains(version)).copied()
}

/// This build, for messages.
pub fn build() -> String {
    concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(choose(&[Version(1)]), Some(Version(1)));
        assert_eq!(choose(&[Version(7), Version(1), Version(0)]), Some(Version(1)));
        assert_eq!(choose(&[Version(7)]), None);
        assert_eq!(choose(&[]), None);
    }
}
