//! Keeping secrets out of messages: what stands under `procurator.credentials` and `procurator.cloud_init`, or a misspelt name
//! of them.
//!
//! Every refusal shows only what is short and plain ([`vm_model::shown_text`]); here, not even that.

use super::refusal::Refusal;

/// What is shown in place of a secret.
pub(super) const HIDDEN: &str = "(not shown)";

/// Whether what stands under the key `name` is not to be shown. Misspelt names count, and whole paths can be given.
fn speaks_of_secrets(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["cred", "secret", "dentials", "cloud", "user_data", "vendor_data", "meta_data"]
        .iter()
        .any(|part| name.contains(part))
}

/// Takes out of `refusal` what must not be shown.
pub(super) fn hide(refusal: &mut Refusal) {
    if speaks_of_secrets(&refusal.json_path) {
        HIDDEN.clone_into(&mut refusal.value);
    }
}
