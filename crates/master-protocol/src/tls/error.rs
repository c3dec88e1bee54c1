//! What can be wrong with certificates, in words that name the file, the name in it, and the dates.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use vm_model::Timestamp;

use super::certificate::{CertificateFacts, CertificateProblem};

/// Why there is no TLS connection.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no usable {expected} in PEM form: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A file holds a certificate that cannot be read.
    #[error("{} holds a certificate that cannot be used", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CertificateProblem,
    },
    /// The key does not belong to the certificate.
    #[error(
        "the key in {} does not belong to the certificate in {} ({facts}): do both come from the same request?",
        key.display(),
        certificate.display()
    )]
    KeyMismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// The certificate.
        facts: Box<CertificateFacts>,
    },
    /// This end's own certificate is not valid now.
    #[error("{} is not valid at {now}: it holds the {facts}", path.display())]
    OwnDates {
        /// The file.
        path: PathBuf,
        /// The host's time.
        now: Timestamp,
        /// The certificate.
        facts: Box<CertificateFacts>,
    },
    /// A name that no certificate can have was configured for the master.
    #[error("invalid server name {name:?}: a DNS name or IP address is accepted")]
    ServerName {
        /// The name.
        name: String,
    },
    /// The other end's certificate was not accepted here.
    #[error("the other end shows the {facts}, which is not accepted: {}", why(problem, authorities))]
    PeerCertificate {
        /// Its certificate.
        facts: Box<CertificateFacts>,
        /// The file with the authorities it was checked against.
        authorities: PathBuf,
        /// What is wrong with it.
        problem: rustls::Error,
    },
    /// The other end did not accept this end's certificate.
    #[error("the other end did not accept {}, the {facts}", path.display())]
    OwnRefused {
        /// The file.
        path: PathBuf,
        /// This end's certificate.
        facts: Box<CertificateFacts>,
        /// The alert.
        source: rustls::Error,
    },
    /// The other end's certificate names no worker.
    #[error("the other end shows the {facts}, whose first name is no worker's")]
    NoWorkerName {
        /// Its certificate.
        facts: Box<CertificateFacts>,
    },
    /// The other end closed the connection in the middle of the handshake, without a reason.
    #[error(
        "the other end closed the connection during the TLS handshake; its own log says why: its files may be unusable, or it \
         has too many connections"
    )]
    Closed,
    /// The handshake failed for another reason: the other end speaks no TLS 1.3.
    #[error("the TLS handshake failed")]
    Handshake {
        /// Why.
        source: io::Error,
    },
}

fn why(error: &rustls::Error, authorities: &std::path::Path) -> String {
    use rustls::CertificateError as Problem;
    match error {
        rustls::Error::InvalidCertificate(Problem::UnknownIssuer) => {
            format!("none of the authorities in {} has issued it", authorities.display())
        }
        rustls::Error::InvalidCertificate(Problem::BadSignature) => {
            let path = authorities.display();
            format!("its signature is not by the key of the authority of that name in {path}")
        }
        rustls::Error::InvalidCertificate(Problem::NotValidForNameContext { expected, .. }) => {
            format!("{:?} was expected", expected.to_str())
        }
        other => other.to_string(),
    }
}
