//! Credentials for the systemd of a guest (`systemd.system-credentials(7)`): names, secrets, and the OEM strings by which
//! they reach it.
//!
//! A [`Secret`] is shown by nothing. What an assignment says of secrets, for systemd or for cloud-init, is hidden by
//! [`hide_secrets`] before it is shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::shown_text;

/// The most bytes of one credential.
pub const CREDENTIAL_BYTES_MAX: usize = 32 << 10;
/// The longest name of a credential: it is a file name in the guest.
pub const CREDENTIAL_NAME_MAX: usize = 255;
/// The most bytes of each file that an assignment or a description gives cloud-init.
pub const CLOUD_INIT_BYTES_MAX: usize = 64 << 10;

/// What stands in place of a secret that is not shown.
const HIDDEN: &str = "(not shown)";
/// The key under `procurator` that holds credentials.
const CREDENTIALS_KEY: &str = "credentials";
/// The key under `procurator` that holds what cloud-init is told.
const CLOUD_INIT_KEY: &str = "cloud_init";
/// The key that says where a secret is, and nothing secret.
const FILE_KEY: &str = "file";

/// Bytes that must not be shown. There is no way to print them but to ask for them by name.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes `bytes` as secret.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes that `text` spells in Base64, with padding; `None` where it is none.
    pub fn from_base64(text: &str) -> Option<Self> {
        BASE64.decode(text.as_bytes()).ok().map(Self)
    }

    /// The bytes, for whoever is meant to have them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secret({} bytes)", self.0.len())
    }
}

/// The name of a credential: printable ASCII without `/`, `:` and `=`, at most 255 bytes, neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialName(String);

/// Why a text is no name of a credential.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text} is no name of a credential; accepted are 1 to {CREDENTIAL_NAME_MAX} printable ASCII characters without \
     '/', ':' and '=', and neither \".\" nor \"..\""
)]
pub struct InvalidCredentialName {
    text: String,
}

impl CredentialName {
    /// The name that `text` spells.
    ///
    /// # Errors
    /// systemd would not take it.
    pub fn parse(text: &str) -> Result<Self, InvalidCredentialName> {
        let is_accepted = (1..=CREDENTIAL_NAME_MAX).contains(&text.len())
            && text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b"/:=".contains(&byte))
            && !matches!(text, "." | "..");
        if is_accepted {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidCredentialName { text: shown_text(text) })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CredentialName {
    type Err = InvalidCredentialName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for CredentialName {
    type Error = InvalidCredentialName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<CredentialName> for String {
    fn from(name: CredentialName) -> Self {
        name.0
    }
}

impl fmt::Display for CredentialName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A credential whose content lies in a file of the host and is read when its machine is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialFile {
    /// Its name in the guest.
    pub name: CredentialName,
    /// Its file; an absolute path.
    pub path: PathBuf,
}

/// The OEM string that hands `secret` to the guest's systemd as the credential `name`.
///
/// Plain text where it is printable, else Base64.
pub fn credential_string(name: &CredentialName, secret: &Secret) -> String {
    match std::str::from_utf8(secret.expose()) {
        Ok(text) if !text.chars().any(char::is_control) => format!("io.systemd.credential:{name}={text}"),
        Ok(_) | Err(_) => {
            format!("io.systemd.credential.binary:{name}={}", BASE64.encode(secret.expose()))
        }
    }
}

/// Hides the secrets in `settings`, an assignment's `procurator`, so that the rest can be shown. Names and paths of files
/// stay; what has not the form of a credential is hidden whole.
pub fn hide_secrets(settings: &mut Map<String, Value>) {
    if let Some(credentials) = settings.get_mut(CREDENTIALS_KEY) {
        match credentials {
            Value::Object(named) => named.values_mut().for_each(hide_source),
            other => hide(other),
        }
    }
    if let Some(cloud_init) = settings.get_mut(CLOUD_INIT_KEY) {
        match cloud_init {
            Value::Object(members) => {
                members.iter_mut().for_each(|(name, value)| hide_for_cloud_init(name, value));
            }
            other => hide(other),
        }
    }
}

fn hide(value: &mut Value) {
    if !value.is_null() {
        *value = Value::from(HIDDEN);
    }
}

fn hide_for_cloud_init(name: &str, value: &mut Value) {
    match name {
        "network" if value.is_boolean() => {}
        "user_data" | "vendor_data" => hide_source(value),
        _ => hide(value),
    }
}

/// Hides a secret, but not the path of the file that has it.
fn hide_source(source: &mut Value) {
    match source {
        Value::Object(members) => {
            let secrets = members.iter_mut().filter(|(key, value)| *key != FILE_KEY || !value.is_string());
            secrets.for_each(|(_, value)| hide(value));
        }
        other => hide(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn names_follow_the_rule_of_systemd() {
        for text in ["", ".", "..", "a/b", "a:b", "a=b", "ä", "a\n", &"x".repeat(256)] {
            assert!(CredentialName::parse(text).is_err(), "{text:?}");
        }
        for text in ["ssh.authorized_keys.root", "a b", "...", &"x".repeat(255)] {
            assert_eq!(CredentialName::parse(text).expect("a name").as_str(), text);
        }
    }

    #[test]
    fn text_goes_as_it_is_and_the_rest_as_base64() {
        let name = CredentialName::parse("db").expect("a name");
        let string = |bytes: &[u8]| credential_string(&name, &Secret::new(bytes.to_vec()));
        assert_eq!(string(b"p=a ss"), "io.systemd.credential:db=p=a ss");
        assert_eq!(string(b""), "io.systemd.credential:db=");
        assert_eq!(string(b"line\n"), "io.systemd.credential.binary:db=bGluZQo=");
        assert_eq!(string(&[0xff, 0]), "io.systemd.credential.binary:db=/wA=");
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "Secret(7 bytes)");
    }

    #[test]
    fn what_an_assignment_says_of_secrets_is_hidden() {
        let settings = json!({
            "restart": "never",
            "cloud_init": {
                "user_data": "hunter2", "vendor_data": {"file": "/run/v"}, "meta_data": {"file": "hunter2"},
                "network": false, "usr_data": ["hunter2"]
            },
            "credentials": {
                "a": {"value": "hunter2"}, "b": {"base64": "aHVudGVyMg=="}, "c": {"file": "/run/c"},
                "d": "hunter2", "e": {"vlaue": ["hunter2"], "file": 5}, "f": null
            }
        });
        let Value::Object(mut settings) = settings else { panic!("an object") };
        hide_secrets(&mut settings);
        let expected = json!({
            "restart": "never",
            "cloud_init": {
                "user_data": HIDDEN, "vendor_data": {"file": "/run/v"}, "meta_data": HIDDEN,
                "network": false, "usr_data": HIDDEN
            },
            "credentials": {
                "a": {"value": HIDDEN}, "b": {"base64": HIDDEN}, "c": {"file": "/run/c"},
                "d": HIDDEN, "e": {"vlaue": HIDDEN, "file": HIDDEN}, "f": null
            }
        });
        assert_eq!(Value::Object(settings), expected);
        for cloud_init in [json!("hunter2"), json!(["hunter2"]), json!({"network": "hunter2"})] {
            let mut settings = Map::from_iter([("cloud_init".to_owned(), cloud_init)]);
            hide_secrets(&mut settings);
            assert!(!Value::Object(settings).to_string().contains("hunter2"));
        }
    }

    proptest! {
        #[test]
        fn every_secret_makes_a_string_without_nul(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let name = CredentialName::parse("n").expect("a name");
            let string = credential_string(&name, &Secret::new(bytes.clone()));
            prop_assert!(!string.contains('\0'));
            let read = match string.split_once('=').expect("a value") {
                ("io.systemd.credential:n", value) => value.as_bytes().to_vec(),
                ("io.systemd.credential.binary:n", value) => BASE64.decode(value.as_bytes()).expect("Base64"),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(read, bytes);
        }
    }
}
