//! A certificate and its key: whether they can be used, for how long, and by whom.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use master_protocol::tls::{CertificateFacts, TlsError};
use vm_model::{Timestamp, error_chain};

use super::finding::{Finding, advice, command};

const CERTIFICATE: &str = "certificate";
const KEY: &str = "key";
/// A certificate that expires sooner is worth a word.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// Others than the owner and the group may read (inode(7)).
const WORLD_READABLE: u32 = 0o004;

/// What was seen of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// The certificate, or what of the files cannot be used.
    pub(super) read: Result<CertificateFacts, String>,
    pub(super) key_mode: Option<u32>,
}

/// Looks at `certificate` and `key`, of which `read` is known.
pub(super) fn look(certificate: &Path, key: &Path, read: Result<CertificateFacts, TlsError>) -> Files {
    Files {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        read: read.map_err(|problem| error_chain(&problem)),
        key_mode: fs::metadata(key).ok().map(|metadata| metadata.mode() & 0o7777),
    }
}

/// `renewed` says when the worker takes new files, `made` where to read on making them.
pub(super) fn judge(files: &Files, now: Timestamp, renewed: &str, made: &str) -> Vec<Finding> {
    let renew = || advice(format!("have the certificate renewed; {renewed}"));
    let certificate = match &files.read {
        Err(why) => Finding::fail(CERTIFICATE, why.clone(), advice(made)),
        Ok(facts) if !facts.is_current(now) => {
            Finding::fail(CERTIFICATE, format!("not valid now: {facts}"), renew())
        }
        Ok(facts) if !facts.is_current(now.after(SOON)) => {
            Finding::warn(CERTIFICATE, format!("expires soon: {facts}"), renew())
        }
        Ok(facts) => Finding::ok(CERTIFICATE, format!("{}: {facts}", files.certificate.display())),
    };
    [certificate].into_iter().chain(files.key_mode.map(|mode| key(&files.key, mode))).collect()
}

fn key(path: &Path, mode: u32) -> Finding {
    if mode & WORLD_READABLE == 0 {
        return Finding::ok(KEY, format!("{}, mode {mode:04o}", path.display()));
    }
    let found = format!("{} has mode {mode:04o}: everybody on this host can read it", path.display());
    Finding::fail(KEY, found, command(format!("chmod 0600 {}", path.display())))
}
