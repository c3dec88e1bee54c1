//! TLS 1.3 with certificates on both sides: who the other end is, and words for why it is not let in.
//!
//! There is one cryptographic provider, ring. Sessions are not resumed: each connection checks both certificates anew,
//! so that one that has expired is not used any further by whoever reconnects.

mod certificate;
mod credentials;
mod error;
mod handshake;
mod verifier;

pub use certificate::{CertificateFacts, CertificateProblem};
pub use credentials::{CredentialStore, Credentials, Identity, TlsFiles};
pub use error::TlsError;
pub(crate) use handshake::{accept, connect, refusal_of_ours};

#[cfg(test)]
mod tests;
