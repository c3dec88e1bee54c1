//! The master: whether it can be reached, and the certificates on the way.

use std::time::Duration;

use master_protocol::tls::{Credentials, TlsFiles};
use tokio::time::timeout;
use vm_model::{Timestamp, error_chain};

use super::certificates::{self, Files};
use super::finding::{Finding, advice};
use crate::settings::MasterPlace;

const MASTER: &str = "master";
/// Somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let read = Credentials::load(files).map(|credentials| credentials.facts().clone());
    certificates::look(&files.certificate, &files.key, read)
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(files) = &facts.credentials {
        const RENEWED: &str = "the worker takes new files by itself at its next dial";
        const MADE: &str = "see docs/master.md on making certificates";
        findings.extend(certificates::judge(files, facts.now, RENEWED, MADE));
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

#[cfg(test)]
mod tests {
    use master_protocol::tls::CertificateFacts;

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
