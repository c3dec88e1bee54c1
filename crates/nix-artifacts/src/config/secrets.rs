//! Keeping secrets out of messages: what stands under `procurator.credentials` and `procurator.cloud_init`, and OEM strings
//! that are credentials.
//!
//! A refusal shows the value that it is about. Where that is a secret, or a part of it is, or the key is a misspelt name of
//! one, it is hidden.

use super::refusal::Refusal;

/// What is shown in place of a secret.
pub(super) const HIDDEN: &str = "(not shown)";
/// How an OEM string begins that is a credential.
const CREDENTIAL_STRING: &str = "io.systemd.credential";

/// Whether what stands under the key `name` is not to be shown. Misspelt names count, and whole paths can be given.
pub(super) fn speaks_of_secrets(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["cred", "secret", "dentials", "cloud", "user_data", "vendor_data", "meta_data"]
        .iter()
        .any(|part| name.contains(part))
}

/// Whether `text` is not to be shown: an OEM string that is a credential, or what somebody wrote as text that should be an
/// object, in which a secret may be.
pub(super) fn is_secret_text(text: &str) -> bool {
    text.starts_with(CREDENTIAL_STRING) || text.trim_start().starts_with(['{', '[', '"'])
}

/// Whether an unknown key at `json_path` may be a credential that stands in the wrong place.
pub(super) fn may_be_misplaced(json_path: &str) -> bool {
    json_path.starts_with("$.procurator")
}

/// Takes out of `refusal` what must not be shown.
pub(super) fn hide(refusal: &mut Refusal) {
    if speaks_of_secrets(&refusal.json_path) {
        HIDDEN.clone_into(&mut refusal.value);
    }
}
