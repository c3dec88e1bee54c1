//! The grammar of a store path's last component. Whether the path exists is left to [`super::StoreRoots`].

use vm_model::StoreName;

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
            Self::Nix => StoreName::accepts(name),
            Self::Plain => StoreName::is_plain(name),
        }
    }

    /// What is accepted, for messages.
    pub(crate) fn accepted(self) -> &'static str {
        match self {
            Self::Nix => StoreName::ACCEPTED,
            Self::Plain => "one name made of letters, digits and + - . _ ? =, not starting with a dot",
        }
    }
}
