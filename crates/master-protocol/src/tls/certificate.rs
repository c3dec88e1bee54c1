//! What a certificate says of itself: names, issuer, dates.

use std::fmt;
use std::time::SystemTime;

use thiserror::Error;
use vm_model::Timestamp;
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::CN;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

use crate::wire::WorkerId;

/// Names of a certificate that are kept; more are not looked at.
const NAMES_MOST: usize = 16;
/// Characters of a name that are kept.
const NAME_MOST: usize = 256;

/// A certificate by what a person needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its DNS names, as far as there are few.
    pub dns_names: Vec<String>,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// Its issuer.
    pub issuer: String,
    /// When it begins to be valid.
    pub not_before: Timestamp,
    /// When it ceases to be valid.
    pub not_after: Timestamp,
}

/// A certificate that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("it is no X.509 certificate: {0}")]
pub struct CertificateProblem(String);

impl CertificateFacts {
    /// The facts of a certificate in DER.
    ///
    /// # Errors
    /// It is none.
    pub fn of(der: &[u8]) -> Result<Self, CertificateProblem> {
        let unreadable = |problem: x509_cert::der::Error| CertificateProblem(problem.to_string());
        let certificate = Certificate::from_der(der).map_err(unreadable)?.tbs_certificate;
        let alternatives = certificate.get::<SubjectAltName>().map_err(unreadable)?;
        let dns_names =
            alternatives.into_iter().flat_map(|(_, names)| names.0).filter_map(|name| match name {
                GeneralName::DnsName(name) => Some(short(name.as_ref())),
                _ => None,
            });
        let moment = |time: x509_cert::time::Time| Timestamp::from(SystemTime::from(time.to_date_time()));
        Ok(Self {
            dns_names: dns_names.take(NAMES_MOST).collect(),
            common_name: common_name(&certificate.subject),
            issuer: short(&certificate.issuer.to_string()),
            not_before: moment(certificate.validity.not_before),
            not_after: moment(certificate.validity.not_after),
        })
    }

    /// The worker that it is of: its first DNS name, or its common name where it has none. `None` where that is no
    /// worker's name.
    pub fn worker(&self) -> Option<WorkerId> {
        self.dns_names.first().or(self.common_name.as_ref())?.to_ascii_lowercase().parse().ok()
    }

    /// Whether it is valid at `now`, by its dates.
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// Whether `der` is a certificate of X.509 version 3, the only one that can hold names and that TLS takes.
pub(super) fn is_version_3(der: &[u8]) -> bool {
    Certificate::from_der(der).is_ok_and(|certificate| certificate.tbs_certificate.version == Version::V3)
}

fn short(name: &str) -> String {
    name.chars().take(NAME_MOST).collect()
}

fn common_name(subject: &Name) -> Option<String> {
    let mut attributes = subject.0.iter().flat_map(|relative| relative.0.iter());
    let value = &attributes.find(|attribute| attribute.oid == CN)?.value;
    let text = Utf8StringRef::try_from(value).map(|text| short(text.as_str()));
    text.or_else(|_| PrintableStringRef::try_from(value).map(|text| short(text.as_str()))).ok()
}

impl fmt::Display for CertificateFacts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = match (&*self.dns_names, &self.common_name) {
            ([], Some(name)) => format!("{name:?}"),
            ([], None) => "nobody".to_owned(),
            (names, _) => names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "),
        };
        let Self { issuer, not_before, not_after, .. } = self;
        write!(
            formatter,
            "certificate of {names}, issued by {issuer:?}, valid from {not_before} to {not_after}"
        )
    }
}
