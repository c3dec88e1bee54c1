//! An authority and certificates for a first trial, made by one command. An installation that stays has its own.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use master_protocol::wire::WorkerId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use thiserror::Error;

/// How long certificates are valid.
const VALID: Duration = Duration::from_secs(365 * 86_400);
/// How long before now they begin to be: clocks differ.
const BEFORE: Duration = Duration::from_secs(3600);

/// Why there are no certificates.
#[derive(Debug, Error)]
pub enum CertificatesError {
    /// The host refuses. What is there already is never replaced.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name cannot stand in a certificate.
    #[error("cannot make the certificate of {name}")]
    Make {
        /// The name.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
}

/// Makes an authority in `directory`, and from it certificates of a master with `master_names` (DNS names or addresses,
/// as workers dial it) and of `workers`. Returns the files: `ca.pem`, and a `.pem` and a `.key` each. Keys can be read by
/// their owner alone. The authority's own key is not kept: who needs another certificate makes all again, elsewhere.
///
/// # Errors
/// A file is there already, or the host refuses.
pub fn make(
    directory: &Path,
    master_names: &[String],
    workers: &[WorkerId],
) -> Result<Vec<PathBuf>, CertificatesError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| CertificatesError::Write { path: directory.to_owned(), source })?;
    let (issuer, authority) = authority().map_err(failed("the authority"))?;
    let mut files = vec![write(directory, "ca.pem", &authority, 0o644)?];
    let purposes = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let [server, client] = purposes;
    let (certificate, key) =
        issue(&issuer, master_names, server).map_err(failed(&master_names.join(", ")))?;
    files.push(write(directory, "master.pem", &certificate, 0o644)?);
    files.push(write(directory, "master.key", &key, 0o600)?);
    for worker in workers {
        let name = worker.to_string();
        let issued = issue(&issuer, std::slice::from_ref(&name), client.clone());
        let (certificate, key) = issued.map_err(failed(&name))?;
        files.push(write(directory, &format!("{name}.pem"), &certificate, 0o644)?);
        files.push(write(directory, &format!("{name}.key"), &key, 0o600)?);
    }
    Ok(files)
}

fn failed(name: &str) -> impl FnOnce(rcgen::Error) -> CertificatesError {
    let name = name.to_owned();
    move |source| CertificatesError::Make { name, source }
}

fn authority() -> Result<(Issuer<'static, KeyPair>, String), rcgen::Error> {
    let mut params = valid(CertificateParams::new(Vec::new())?);
    params.distinguished_name.push(DnType::CommonName, "procurator-master trial authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok((Issuer::new(params, key), certificate))
}

/// A certificate of `names`, and its key, both in PEM form.
fn issue(
    issuer: &Issuer<'static, KeyPair>,
    names: &[String],
    purpose: ExtendedKeyUsagePurpose,
) -> Result<(String, String), rcgen::Error> {
    let mut params = valid(CertificateParams::new(names.to_vec())?);
    let common_name = names.iter().find(|name| name.parse::<IpAddr>().is_err()).or(names.first());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name.map_or("", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

fn valid(mut params: CertificateParams) -> CertificateParams {
    let now = SystemTime::now();
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + VALID).into();
    params
}

fn write(directory: &Path, name: &str, text: &str, mode: u32) -> Result<PathBuf, CertificatesError> {
    let path = directory.join(name);
    // A key in use must not be lost to a second call.
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        // The mode above goes through the umask, which may take more away and give nothing.
        file.set_permissions(fs::Permissions::from_mode(mode))
    });
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(CertificatesError::Write { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use master_protocol::tls::{Credentials, TlsFiles};

    use super::*;

    #[test]
    fn what_is_made_can_be_used_and_is_never_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join("new").join(name);
        let workers = ["worker-1", "worker-2"].map(|name| name.parse().expect("valid"));
        let names = ["master".to_owned(), "10.9.0.1".to_owned()];
        let files = make(&path(""), &names, &workers).expect("made");
        assert_eq!(files.len(), 7);
        for name in ["master", "worker-1", "worker-2"] {
            let key = path(&format!("{name}.key"));
            assert_eq!(fs::metadata(&key).expect("there").permissions().mode() & 0o777, 0o600);
            let authorities = path("ca.pem");
            let files = TlsFiles { certificate: path(&format!("{name}.pem")), key, authorities };
            let credentials = Credentials::load(&files).expect("usable");
            assert_eq!(credentials.facts().dns_names, [name]);
            credentials.check_dates(vm_model::Timestamp::now()).expect("valid now");
        }
        let said = make(&path(""), &names, &workers).expect_err("they are there").to_string();
        assert!(said.contains("ca.pem"), "{said}");
    }
}
