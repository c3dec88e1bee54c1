//! What a check answers.

use serde::Serialize;

/// How it is. The worst of several is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// VMs run, but something may be in their way.
    Warn,
    /// VMs do not run, or not as configured.
    Fail,
}

/// What mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Remedy {
    /// These commands, as root, one after the other.
    Commands(Vec<String>),
    /// Something that no command does.
    Advice(String),
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) check: &'static str,
    /// How it is.
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) found: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<Remedy>,
}

impl Finding {
    /// Nothing to mend.
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    /// Something that may be in the way.
    pub(super) fn warn(check: &'static str, found: impl Into<String>, remedy: Remedy) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), remedy: Some(remedy) }
    }

    /// Something that has to be mended.
    pub(super) fn fail(check: &'static str, found: impl Into<String>, remedy: Remedy) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), remedy: Some(remedy) }
    }
}

/// One command.
pub(super) fn command(text: impl Into<String>) -> Remedy {
    Remedy::Commands(vec![text.into()])
}

/// Commands, one after the other.
pub(super) fn commands<const N: usize>(texts: [String; N]) -> Remedy {
    Remedy::Commands(texts.into())
}

/// Words.
pub(super) fn advice(text: impl Into<String>) -> Remedy {
    Remedy::Advice(text.into())
}
