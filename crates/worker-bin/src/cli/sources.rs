//! Whose word is meant.

use vm_model::SourceKind;

/// A source whose whole word can be planned for, or let go.
pub(super) fn source(text: &str) -> Result<SourceKind, String> {
    let sources = [SourceKind::Master, SourceKind::File];
    let found = sources.into_iter().find(|source| source.name() == text);
    found.ok_or_else(|| "master or file is accepted".to_owned())
}
