//! The running worker: whether it answers, is of this version, and is as it should be.

use std::path::{Path, PathBuf};

use admin::{AdminClient, ClientError, DirectoriesView, SOCKET_NAME, StatusView};
use vm_model::error_chain;

use super::finding::{Finding, advice, command};
use crate::client::notes;

const CHECK: &str = "worker";

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Facts {
    /// It answered.
    Answers(Box<StatusView>),
    /// Nobody listens on this socket.
    Silent(PathBuf),
    /// The caller may not ask.
    Denied(PathBuf),
    /// It answered with something else.
    Unusable(String),
}

impl Facts {
    /// The directories that it works with, if it answered and says so.
    pub(super) fn directories(&self) -> Option<&DirectoriesView> {
        match self {
            Self::Answers(status) => status.directories.as_ref(),
            Self::Silent(_) | Self::Denied(_) | Self::Unusable(_) => None,
        }
    }
}

pub(super) async fn look(runtime_dir: &Path) -> Facts {
    let socket = runtime_dir.join(SOCKET_NAME);
    match AdminClient::in_directory(runtime_dir).get_status().await {
        Ok(status) => Facts::Answers(Box::new(status)),
        Err(ClientError::Forbidden { .. }) => Facts::Denied(socket),
        Err(ClientError::Unreachable { .. }) => Facts::Silent(socket),
        Err(problem) => Facts::Unusable(error_chain(&problem)),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    match facts {
        Facts::Answers(status) => judge_status(status),
        Facts::Silent(socket) => {
            let found = format!("no worker answers on {}", socket.display());
            vec![Finding::warn(CHECK, found, command("systemctl start procurator-worker"))]
        }
        Facts::Denied(socket) => {
            let found = format!("the caller may not use {}", socket.display());
            vec![Finding::warn(CHECK, found, advice("ask as root, or as a member of the socket's group"))]
        }
        Facts::Unusable(why) => {
            vec![Finding::fail(CHECK, why.clone(), command("systemctl restart procurator-worker"))]
        }
    }
}

fn judge_status(status: &StatusView) -> Vec<Finding> {
    let own = env!("CARGO_PKG_VERSION");
    let version = if status.version == own {
        Finding::ok(CHECK, format!("version {own} runs"))
    } else {
        Finding::warn(
            CHECK,
            format!("version {} runs, this program is version {own}", status.version),
            command("procurator-worker upgrade --check && systemctl restart procurator-worker"),
        )
    };
    let told =
        notes(status).into_iter().map(|note| Finding::warn(CHECK, note, command("procurator-worker status")));
    let held = status.held.iter().map(|_| {
        Finding::warn(
            CHECK,
            "assignments wait for an administrator's word",
            command("procurator-worker plan && procurator-worker allow-removals"),
        )
    });
    std::iter::once(version).chain(told).chain(held).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn status(json: serde_json::Value) -> Facts {
        Facts::Answers(Box::new(serde_json::from_value(json).expect("a status")))
    }

    #[test]
    fn a_worker_that_is_as_it_should_be_is_one_line() {
        let sound = status(serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "since": 0 }));
        let findings = judge(&sound);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].verdict, Verdict::Ok);
    }

    #[test]
    fn another_version_and_what_is_degraded_are_told() {
        let old = status(serde_json::json!({
            "version": "0.0.1", "since": 0, "degradations": ["the TAP pw-x is gone"],
            "master": { "address": "m:1", "worker": "w", "state": "waiting", "problem": "refused" },
        }));
        let findings = judge(&old);
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Warn));
        for what in ["pw-x", "m:1, and VMs stay as they were: refused"] {
            assert!(findings.iter().any(|finding| finding.found.contains(what)), "{what}: {findings:?}");
        }
    }
}
