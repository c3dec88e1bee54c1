//! `platform.oem_strings` and `procurator.credentials`: texts for the guest in its firmware tables.
//!
//! No refusal from here shows a value: see [`super::secrets`].

use vm_model::{
    CREDENTIAL_BYTES_MAX, CredentialFile, CredentialName, HealthSpec, OemStrings, SYSTEMD_NOTIFY_PORT,
    Secret, credential_string,
};

use super::machine::{Reader, contradiction};
use super::refusal::Refusal;
use super::secret_source::{SecretSource, read_source};
use super::secrets::HIDDEN;

/// The credential by which systemd learns where it sends its state.
const NOTIFY_SOCKET: &str = "vmm.notify_socket";

impl Reader<'_> {
    /// What is written under `platform.oem_strings`.
    pub(super) fn oem_strings(&self) -> Result<OemStrings, Box<Refusal>> {
        let mut strings = OemStrings::default();
        let Some(platform) = self.top.section("platform") else { return Ok(strings) };
        for (index, text) in platform.texts("oem_strings").iter().enumerate() {
            strings.push(text.clone()).map_err(|problem| {
                let json_path = format!("{}[{index}]", platform.path_of("oem_strings"));
                let value = format!("a text of {} bytes", text.len());
                contradiction(json_path, value, problem.to_string(), "fewer or shorter texts".to_owned())
            })?;
        }
        Ok(strings)
    }

    /// Appends the credentials whose content is given to `strings`, and where systemd sends its state if a probe needs
    /// that. Answers those whose content is in a file.
    pub(super) fn credentials(
        &self,
        health: Option<&HealthSpec>,
        strings: &mut OemStrings,
    ) -> Result<Vec<CredentialFile>, Box<Refusal>> {
        let listens = health.is_some_and(HealthSpec::listens_to_systemd);
        let procurator = self.top.section("procurator");
        if listens {
            let place = procurator.map_or_else(|| "$".to_owned(), |procurator| procurator.path_of("health"));
            let address = format!("vsock-stream:2:{SYSTEMD_NOTIFY_PORT}");
            append(strings, NOTIFY_SOCKET, &Secret::new(address.into_bytes()), place)?;
        }
        let mut files = Vec::new();
        for (name, entry) in procurator.map_or(&[][..], |procurator| procurator.named("credentials")) {
            if listens && name == NOTIFY_SOCKET {
                return Err(refuse(
                    entry.path.clone(),
                    "a probe of kind \"systemd\" needs this name for itself",
                    "another name",
                ));
            }
            match read_source(entry, CREDENTIAL_BYTES_MAX)? {
                SecretSource::Given(secret) => append(strings, name, &secret, entry.path.clone())?,
                SecretSource::File(path) => {
                    files.push(CredentialFile { name: parse_name(name, entry.path.clone())?, path });
                }
            }
        }
        Ok(files)
    }
}

fn append(
    strings: &mut OemStrings,
    name: &str,
    secret: &Secret,
    json_path: String,
) -> Result<(), Box<Refusal>> {
    let name = parse_name(name, json_path.clone())?;
    strings
        .push(credential_string(&name, secret))
        .map_err(|problem| refuse(json_path, &problem.to_string(), "fewer or shorter credentials and texts"))
}

/// The table's check saw to the name; what is said here is for whoever changes that.
fn parse_name(name: &str, json_path: String) -> Result<CredentialName, Box<Refusal>> {
    CredentialName::parse(name).map_err(|problem| refuse(json_path, &problem.to_string(), "a name"))
}

fn refuse(json_path: String, rule: &str, accepted: &str) -> Box<Refusal> {
    contradiction(json_path, HIDDEN, rule.to_owned(), accepted.to_owned())
}
