//! A secret as a description gives it: by its content, or by a file of the host.

use std::path::{Component, Path, PathBuf};

use vm_model::Secret;

use super::machine::contradiction;
use super::refusal::Refusal;
use super::secrets::HIDDEN;
use super::section::Section;

/// Where the content of a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// It is given.
    Given(Secret),
    /// It is read from this file of the host, an absolute path, when the machine is started.
    File(PathBuf),
}

/// The content that `entry` gives, of at most `most` bytes. No refusal shows it: see [`super::secrets`].
pub(super) fn read_source(entry: &Section, most: usize) -> Result<SecretSource, Box<Refusal>> {
    let refuse = |json_path, rule: &str, accepted: &str| {
        Err(contradiction(json_path, HIDDEN, rule.to_owned(), accepted.to_owned()))
    };
    let longest = format!("at most {most} bytes in Base64 with padding");
    let contents = (entry.text("value"), entry.text("base64"), entry.text("file"));
    match contents {
        (Some(value), None, None) => Ok(SecretSource::Given(Secret::new(value.as_bytes().to_vec()))),
        (None, Some(encoded), None) => match Secret::from_base64(encoded) {
            Some(secret) if secret.expose().len() <= most => Ok(SecretSource::Given(secret)),
            Some(_) => refuse(entry.path_of("base64"), "it is too long", &longest),
            None => refuse(entry.path_of("base64"), "it is no Base64", &longest),
        },
        (None, None, Some(path)) => {
            let path = Path::new(path);
            let is_plain = path.is_absolute()
                && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            if is_plain {
                return Ok(SecretSource::File(path.to_owned()));
            }
            let accepted = "an absolute path without \"..\"";
            refuse(entry.path_of("file"), "it is no path of a file of the host", accepted)
        }
        (value, base64, file) => {
            let rule = match [value, base64, file].into_iter().flatten().count() {
                0 => "it has no content".to_owned(),
                count => format!("it has {count} contents"),
            };
            refuse(entry.path.clone(), &rule, "exactly one of \"value\", \"base64\" and \"file\"")
        }
    }
}
