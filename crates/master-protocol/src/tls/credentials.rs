//! Certificate, key and authorities of one end, read from files, and read again when the files are others.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use vm_model::Timestamp;

use super::certificate::{CertificateFacts, is_version_3};
use super::error::TlsError;

/// A file with certificates or a key is not longer.
const FILE_MOST_BYTES: u64 = 1 << 20;
/// What is said of a certificate that TLS does not take.
const EARLIER_VERSION: &str = "it is of an earlier version of X.509 than 3, which has no names of hosts; `openssl req -x509 -addext \
                               subjectAltName=DNS:NAME`, or `-extfile` with `openssl x509`, makes one of version 3";

/// Where one end's certificate, key and authorities lie, all in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This end's certificate, and the intermediate ones up to an authority of the other end.
    pub certificate: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
    /// The authorities that the other end's certificate must come from.
    pub authorities: PathBuf,
}

/// A certificate with its key: who one end is, whatever it asks of the other.
#[derive(Clone, Debug)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    facts: CertificateFacts,
}

impl Identity {
    /// Reads the files `certificate`, with the intermediate ones, and `key`. Blocks as long as their disk lets it.
    ///
    /// # Errors
    /// A file is missing, or holds something else; the key is another certificate's.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates_in(certificate)?;
        let facts = facts_of(certificate, &chain)?;
        if !chain.first().is_some_and(|own| is_version_3(own)) {
            return Err(content(certificate, "certificate", &EARLIER_VERSION));
        }
        let bytes = read(key)?;
        let private =
            PrivateKeyDer::from_pem_slice(&bytes).map_err(|problem| content(key, "private key", &problem))?;
        let certified =
            CertifiedKey::from_der(chain, private, &provider).map_err(|problem| match problem {
                rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch {
                    certificate: certificate.to_owned(),
                    key: key.to_owned(),
                    facts: Box::new(facts.clone()),
                },
                other => content(key, "private key", &other),
            })?;
        Ok(Self { key: Arc::new(certified), provider, facts })
    }

    /// What the certificate says.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// What a server needs that asks its clients for no certificate: TLS 1.3, and HTTP/1.1 in it.
    ///
    /// # Errors
    /// The cryptographic provider cannot do that.
    pub fn http_server(&self) -> Result<ServerConfig, rustls::Error> {
        let own = SingleCertAndKey::from(CertifiedKey::clone(&self.key));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(own));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// What the files held.
#[derive(Debug)]
pub struct Credentials {
    files: TlsFiles,
    pub(super) key: Arc<CertifiedKey>,
    pub(super) authorities: Arc<RootCertStore>,
    pub(super) provider: Arc<CryptoProvider>,
    facts: CertificateFacts,
}

impl Credentials {
    /// Reads `files`. Blocks as long as their disk lets it.
    ///
    /// # Errors
    /// A file is missing, or holds something else; the key is another certificate's.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let Identity { key, provider, facts } = Identity::load(&files.certificate, &files.key)?;
        let mut authorities = RootCertStore::empty();
        for certificate in certificates_in(&files.authorities)? {
            let added = authorities.add(certificate);
            added.map_err(|problem| content(&files.authorities, "certificate of an authority", &problem))?;
        }
        Ok(Self { files: files.clone(), key, authorities: Arc::new(authorities), provider, facts })
    }

    /// Where they come from.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// This end's certificate.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// Whether this end's certificate is valid at `now`.
    ///
    /// # Errors
    /// It is not; says which file, whose certificate, and its dates.
    pub fn check_dates(&self, now: Timestamp) -> Result<(), TlsError> {
        if self.facts.is_current(now) {
            return Ok(());
        }
        let (path, facts) = (self.files.certificate.clone(), Box::new(self.facts.clone()));
        Err(TlsError::OwnDates { path, now, facts })
    }
}

/// The newest usable credentials of one end.
#[derive(Debug)]
pub struct CredentialStore {
    files: TlsFiles,
    /// Held while files are read, so that they are read once; nobody awaits meanwhile.
    newest: Mutex<Newest>,
}

#[derive(Debug)]
struct Newest {
    /// None before there were any that can be used.
    credentials: Option<Arc<Credentials>>,
    /// What the files were when they were read last, whether they could be used or not.
    seen: Option<[FileIdentity; 3]>,
}

/// Tells one content of a file from the next.
type FileIdentity = (u64, u64, u64, i64, i64);

impl CredentialStore {
    /// Reads `files` for the first time. Blocks.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let seen = identities(&files);
        let credentials = Some(Arc::new(Credentials::load(&files)?));
        Ok(Self { files, newest: Mutex::new(Newest { credentials, seen }) })
    }

    /// The same, also where the key does not belong to the certificate: one of them is being replaced, and a program that
    /// begins meanwhile waits for the other. Returns what the certificate says, too. Blocks.
    ///
    /// # Errors
    /// They cannot be used for another reason.
    pub fn open_unmatched(files: TlsFiles) -> Result<(Self, CertificateFacts), TlsError> {
        let seen = identities(&files);
        let (credentials, facts) = match Credentials::load(&files) {
            Ok(credentials) => {
                let facts = credentials.facts.clone();
                (Some(Arc::new(credentials)), facts)
            }
            Err(TlsError::KeyMismatch { facts, .. }) => (None, *facts),
            Err(problem) => return Err(problem),
        };
        Ok((Self { files, newest: Mutex::new(Newest { credentials, seen }) }, facts))
    }

    /// The credentials for a new connection, read again if a file is another one now. Blocks. Where the newer files cannot
    /// be used the earlier ones stay, and why is logged: whoever replaces a certificate and its key replaces one first.
    ///
    /// # Errors
    /// They cannot be used, and there were no earlier ones.
    pub fn current(&self) -> Result<Arc<Credentials>, TlsError> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = identities(&self.files);
        let Some(credentials) = newest.credentials.clone() else {
            newest.seen = seen;
            return Self::renew(&self.files, &mut newest);
        };
        if seen != newest.seen {
            newest.seen = seen;
            match Self::renew(&self.files, &mut newest) {
                Ok(renewed) => return Ok(renewed),
                Err(problem) => tracing::warn!(
                    error = vm_model::error_chain(&problem),
                    "changed certificate files cannot be used; those before stay"
                ),
            }
        }
        Ok(credentials)
    }

    /// Reads the files again. Blocks.
    ///
    /// # Errors
    /// They cannot be used; those before stay.
    pub fn reload(&self) -> Result<Arc<Credentials>, TlsError> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.seen = identities(&self.files);
        Self::renew(&self.files, &mut newest)
    }

    fn renew(files: &TlsFiles, newest: &mut Newest) -> Result<Arc<Credentials>, TlsError> {
        let credentials = Arc::new(Credentials::load(files)?);
        newest.credentials = Some(Arc::clone(&credentials));
        tracing::info!(certificate = %credentials.facts, "certificates read");
        Ok(credentials)
    }
}

fn identities(files: &TlsFiles) -> Option<[FileIdentity; 3]> {
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some((metadata.dev(), metadata.ino(), metadata.len(), modified.0, modified.1))
    };
    Some([identity(&files.certificate)?, identity(&files.key)?, identity(&files.authorities)?])
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_MOST_BYTES).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    Ok(bytes)
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = certificates.map_err(|problem| content(path, "certificate", &problem))?;
    if certificates.is_empty() {
        return Err(content(path, "certificate", &"there is none"));
    }
    Ok(certificates)
}

fn facts_of(path: &Path, chain: &[CertificateDer<'_>]) -> Result<CertificateFacts, TlsError> {
    let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
    CertificateFacts::of(first).map_err(|source| TlsError::Certificate { path: path.to_owned(), source })
}

fn content(path: &Path, expected: &'static str, problem: &dyn std::fmt::Display) -> TlsError {
    TlsError::Content { path: path.to_owned(), expected, problem: problem.to_string() }
}
