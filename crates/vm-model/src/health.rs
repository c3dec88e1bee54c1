//! How a VM's guest is, as its probes find it.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ProbeRole, Timestamp};

/// How one VM's guest is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Of which boot this is: how often the machine had been rebuilt in place.
    #[serde(default)]
    pub boot: u64,
    /// Whether it can serve.
    pub ready: Readiness,
    /// Since when that is so.
    pub since: Timestamp,
    /// Why it is not ready.
    #[serde(default)]
    pub reason: Option<String>,
    /// Why it is held to be dead: a probe for its start or its life has failed. Only another boot ends this.
    #[serde(default)]
    pub dead: Option<String>,
    /// What its systemd says that it does, control characters escaped.
    #[serde(default)]
    pub status_text: Option<String>,
    /// What its systemd has reported since it was booted.
    #[serde(default)]
    pub systemd: Option<SystemdReport>,
    /// Its probes, in the order of its definition.
    pub probes: Vec<ProbeHealth>,
}

/// Whether a guest can serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// Nothing tells it: no probe is about it, or what it reports was sent before this worker listened.
    #[default]
    Unknown,
    /// It can.
    Ready,
    /// It cannot, or not yet.
    NotReady,
}

impl fmt::Display for Readiness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unknown => "unknown",
            Self::Ready => "ready",
            Self::NotReady => "not ready",
        })
    }
}

/// How one probe fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProbeHealth {
    /// Its name in the definition.
    pub id: String,
    /// What its result says about the VM.
    pub role: ProbeRole,
    /// What its results amount to.
    pub outcome: ProbeOutcome,
    /// Failures in a row up to now.
    pub failures: u32,
    /// What its latest run found, where that was a failure.
    #[serde(default)]
    pub problem: Option<String>,
}

/// What a probe's results amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// Too few results since the guest was booted.
    #[default]
    Untried,
    /// It succeeds.
    Passing,
    /// It fails.
    Failing,
}

/// What the systemd of a guest has reported since it was booted. Texts are cut to a bounded length and have their control
/// characters escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SystemdReport {
    /// Whether it has finished booting.
    pub ready: bool,
    /// What it says that it does.
    #[serde(default)]
    pub status: Option<String>,
    /// Units that it reported as active, in order, each once.
    #[serde(default)]
    pub active_units: Vec<String>,
    /// How it shuts down, when it does: `poweroff`, `reboot`, …
    #[serde(default)]
    pub shutdown: Option<String>,
    /// The guest's host name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The guest's machine id.
    #[serde(default)]
    pub machine_id: Option<String>,
    /// The status with which it ended.
    #[serde(default)]
    pub exit_status: Option<u8>,
}

impl Health {
    /// The health of a guest about which nothing is known yet.
    pub fn unknown(since: Timestamp) -> Self {
        Self {
            boot: 0,
            ready: Readiness::Unknown,
            since,
            reason: None,
            dead: None,
            status_text: None,
            systemd: None,
            probes: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_has_a_stable_form() {
        let health = Health {
            ready: Readiness::NotReady,
            reason: Some("probe web: refused".to_owned()),
            probes: vec![ProbeHealth {
                id: "web".to_owned(),
                role: ProbeRole::Readiness,
                outcome: ProbeOutcome::Failing,
                failures: 3,
                problem: Some("refused".to_owned()),
            }],
            ..Health::unknown(Timestamp::from_millis(5))
        };
        let json = serde_json::to_value(&health).expect("serialises");
        assert_eq!(
            json,
            serde_json::json!({
                "boot": 0, "ready": "not_ready", "since": 5, "reason": "probe web: refused", "dead": null,
                "status_text": null, "systemd": null,
                "probes": [{"id": "web", "role": "readiness", "outcome": "failing", "failures": 3,
                            "problem": "refused"}]
            })
        );
        assert_eq!(serde_json::from_value::<Health>(json).expect("and parses back"), health);
    }
}
