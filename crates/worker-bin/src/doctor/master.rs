//! The master: whether it can be reached, and the certificates on the way.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use master_protocol::tls::{CertificateFacts, Credentials, TlsFiles};
use tokio::time::timeout;
use vm_model::{Timestamp, error_chain};

use super::finding::{Finding, advice, command};
use crate::settings::MasterPlace;

const MASTER: &str = "master";
const CERTIFICATE: &str = "certificate";
const KEY: &str = "key";
/// A certificate that expires sooner is worth a word.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// Somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Others than the owner and the group may read (inode(7)).
const WORLD_READABLE: u32 = 0o004;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    address: String,
    now: Timestamp,
    /// `None` where there are none.
    credentials: Option<Files>,
    /// Who answered, or why nobody did.
    reached: Result<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// The certificate, or what of the files cannot be used.
    read: Result<CertificateFacts, String>,
    key_mode: Option<u32>,
}

pub(super) async fn look(place: &MasterPlace) -> Facts {
    let reached = match place.settings() {
        Ok(settings) => match timeout(PATIENCE, settings.reach()).await {
            Ok(Ok(address)) => Ok(address.to_string()),
            Ok(Err(problem)) => Err(error_chain(&problem)),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        },
        Err(problem) => Err(error_chain(problem.as_ref())),
    };
    Facts {
        address: place.address().to_owned(),
        now: Timestamp::now(),
        credentials: place.tls_files().map(files),
        reached,
    }
}

fn files(files: &TlsFiles) -> Files {
    let read = Credentials::load(files);
    Files {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        read: read.map(|credentials| credentials.facts().clone()).map_err(|problem| error_chain(&problem)),
        key_mode: fs::metadata(&files.key).ok().map(|metadata| metadata.mode() & 0o7777),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(files) = &facts.credentials {
        findings.push(certificate(files, facts.now));
        findings.extend(files.key_mode.map(|mode| key(&files.key, mode)));
    }
    findings.push(match &facts.reached {
        Ok(who) => Finding::ok(MASTER, format!("{} answers at {who}", facts.address)),
        // VMs go on without it.
        Err(why) => Finding::warn(
            MASTER,
            format!("{}: {why}", facts.address),
            advice("see that the master runs, that its port is open, and that its certificate has the configured name"),
        ),
    });
    findings
}

fn certificate(files: &Files, now: Timestamp) -> Finding {
    const RENEW: &str = "have the certificate renewed; the worker takes new files by itself at its next dial";
    match &files.read {
        Err(why) => {
            Finding::fail(CERTIFICATE, why.clone(), advice("see docs/master.md on making certificates"))
        }
        Ok(facts) if !facts.is_current(now) => {
            Finding::fail(CERTIFICATE, format!("not valid now: {facts}"), advice(RENEW))
        }
        Ok(facts) if !facts.is_current(now.after(SOON)) => {
            Finding::warn(CERTIFICATE, format!("expires soon: {facts}"), advice(RENEW))
        }
        Ok(facts) => Finding::ok(CERTIFICATE, format!("{}: {facts}", files.certificate.display())),
    }
}

fn key(path: &Path, mode: u32) -> Finding {
    if mode & WORLD_READABLE == 0 {
        return Finding::ok(KEY, format!("{}, mode {mode:04o}", path.display()));
    }
    let found = format!("{} has mode {mode:04o}: everybody on this host can read it", path.display());
    Finding::fail(KEY, found, command(format!("chmod 0600 {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn facts_at(not_before: u64, not_after: u64) -> Facts {
        let certificate = CertificateFacts {
            dns_names: vec!["worker-1".to_owned()],
            common_name: None,
            issuer: "CN=authority".to_owned(),
            not_before: Timestamp::from_millis(not_before),
            not_after: Timestamp::from_millis(not_after),
        };
        Facts {
            address: "m:1".to_owned(),
            now: Timestamp::from_millis(1_000_000),
            credentials: Some(Files {
                certificate: "/c".into(),
                key: "/k".into(),
                read: Ok(certificate),
                key_mode: Some(0o600),
            }),
            reached: Ok("127.0.0.1:1".to_owned()),
        }
    }

    #[test]
    fn certificates_are_judged_by_their_dates() {
        let verdict = |not_before, not_after| judge(&facts_at(not_before, not_after))[0].verdict;
        assert_eq!(verdict(0, 10_000_000_000), Verdict::Ok);
        assert_eq!(verdict(0, 2_000_000), Verdict::Warn);
        assert_eq!(verdict(0, 999_999), Verdict::Fail);
        assert_eq!(verdict(1_000_001, 10_000_000_000), Verdict::Fail);
    }

    #[test]
    fn a_key_that_everybody_reads_and_a_master_that_nobody_reaches_are_told() {
        let mut facts = facts_at(0, 10_000_000_000);
        if let Some(files) = &mut facts.credentials {
            files.key_mode = Some(0o644);
        }
        facts.reached = Err("refused".to_owned());
        let verdicts: Vec<Verdict> = judge(&facts).iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Fail, Verdict::Warn]);
    }
}
