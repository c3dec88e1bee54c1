//! How a run of a VM came to its end: what is kept of it when the machine is gone.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::DurationParts;
use crate::{FailureClass, FailureKind, Generation, Timestamp};

/// The end of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunEnd {
    /// When it ended. Of a run that was cut short together with its worker: when that was noticed.
    pub at: Timestamp,
    /// How long the guest had run; absent where it did not get so far or nobody knows.
    #[schema(value_type = Option<DurationParts>)]
    pub ran_for: Option<Duration>,
    /// What ended it.
    pub method: EndMethod,
    /// Why.
    pub cause: EndCause,
    /// What more is known, in a line: the reason of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndMethod {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest reset itself, and a new machine takes its place.
    Reset,
    /// The guest obeyed the power button.
    PowerButton,
    /// It was killed: it did not obey the power button in time, or could not.
    Killed,
    /// It was killed at once, as it was told to: its guest was not asked, or not waited for.
    Forced,
    /// The machine or its guest failed, or the machine was not started.
    Failed,
    /// Nobody saw it end: the process that ran it was gone, and no end recorded, when a worker looked for it.
    Lost,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum EndCause {
    /// The guest wished so.
    Guest,
    /// It was told to stop, by the desired state with this number or, where that is zero, by a call.
    Stopped {
        /// The number.
        generation: Generation,
    },
    /// Its definition changed; it was to start again by the new one.
    Changed {
        /// The desired state that says so.
        generation: Generation,
    },
    /// It was removed.
    Removed,
    /// The worker ended.
    WorkerEnded,
    /// Something went wrong.
    Failure {
        /// What kind of thing.
        kind: FailureKind,
        /// What it was more closely, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class: Option<FailureClass>,
    },
}

impl fmt::Display for RunEnd {
    /// In a line: `killed (removed) after 3h 2m`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.method {
            EndMethod::PoweredOff => "the guest switched itself off",
            EndMethod::Reset => "the guest reset itself",
            EndMethod::PowerButton => "the guest obeyed the power button",
            EndMethod::Killed => "killed: the guest did not obey the power button",
            EndMethod::Forced => "killed by force",
            EndMethod::Failed => "failed",
            EndMethod::Lost => "its end was not seen",
        })?;
        match self.cause {
            EndCause::Guest => {}
            EndCause::Stopped { generation } if generation == Generation::default() => {
                formatter.write_str(" (stopped by a command)")?;
            }
            EndCause::Stopped { generation } => {
                write!(formatter, " (stopped by generation {generation})")?;
            }
            EndCause::Changed { generation } => write!(formatter, " (changed by generation {generation})")?,
            EndCause::Removed => formatter.write_str(" (removed)")?,
            EndCause::WorkerEnded => formatter.write_str(" (the worker ended)")?,
            EndCause::Failure { kind, class: None } => write!(formatter, " ({kind})")?,
            EndCause::Failure { kind, class: Some(class) } => write!(formatter, " ({kind}: {class})")?,
        }
        match &self.detail {
            Some(detail) => write!(formatter, ": {detail}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(method: EndMethod, cause: EndCause, detail: Option<&str>) -> RunEnd {
        let detail = detail.map(str::to_owned);
        RunEnd { at: Timestamp::from_millis(0), ran_for: None, method, cause, detail }
    }

    #[test]
    fn an_end_reads_as_a_sentence() {
        let stopped = EndCause::Stopped { generation: Generation::new(7) };
        let failed = EndCause::Failure { kind: FailureKind::Guest, class: None };
        let class = Some(FailureClass::TripleFault);
        let classified = EndCause::Failure { kind: FailureKind::Guest, class };
        for (end, text) in [
            (end(EndMethod::PoweredOff, EndCause::Guest, None), "the guest switched itself off"),
            (
                end(EndMethod::PowerButton, stopped, None),
                "the guest obeyed the power button (stopped by generation 7)",
            ),
            (
                end(EndMethod::Failed, failed, Some("the guest triple-faulted")),
                "failed (guest): the guest triple-faulted",
            ),
            (end(EndMethod::Failed, classified, None), "failed (guest: triple_fault)"),
            (end(EndMethod::Forced, stopped, None), "killed by force (stopped by generation 7)"),
        ] {
            assert_eq!(end.to_string(), text);
            let json = serde_json::to_string(&end).expect("serialises");
            assert_eq!(serde_json::from_str::<RunEnd>(&json).expect("reads back"), end);
        }
    }

    #[test]
    fn a_cause_that_an_earlier_version_wrote_is_understood() {
        let cause: EndCause =
            serde_json::from_str(r#"{"by":"failure","kind":"host"}"#).expect("causes parse");
        assert_eq!(cause, EndCause::Failure { kind: FailureKind::Host, class: None });
    }
}
