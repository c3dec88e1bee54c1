//! What came of a jail, as a value that travels.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A layer of a jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The kernel kills the process before others where memory runs out.
    OomScore,
    /// Bounds on descriptors and threads; no core files.
    Limits,
    /// Process numbers of its own: no other process has one there.
    PidNamespace,
    /// A mount table of its own.
    MountNamespace,
    /// System V IPC and POSIX message queues of its own.
    IpcNamespace,
    /// A host name of its own.
    UtsNamespace,
    /// A network of its own, with nothing in it.
    NetworkNamespace,
    /// An empty root directory.
    Root,
    /// No capabilities, and none to gain.
    Capabilities,
    /// A user of its own.
    User,
    /// Nobody of the same user traces it, and it leaves no core.
    Dumpable,
    /// No program that it runs has more privileges than it has.
    NoNewPrivileges,
    /// No file, TCP port, process or abstract socket outside of what it was given.
    Landlock,
    /// A layer of a later release.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::OomScore => "OOM score",
            Self::Limits => "resource limits",
            Self::PidNamespace => "PID namespace",
            Self::MountNamespace => "mount namespace",
            Self::IpcNamespace => "IPC namespace",
            Self::UtsNamespace => "UTS namespace",
            Self::NetworkNamespace => "network namespace",
            Self::Root => "empty root",
            Self::Capabilities => "no capabilities",
            Self::User => "own user",
            Self::Dumpable => "not dumpable",
            Self::NoNewPrivileges => "no new privileges",
            Self::Landlock => "Landlock",
            Self::Unknown => "unknown layer",
        })
    }
}

/// A layer that is missing or incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which layer.
    pub layer: Layer,
    /// What the host refused.
    pub problem: String,
    /// How much of the layer is missing.
    #[serde(default)]
    pub extent: Extent,
}

/// How much of a layer is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// All of it, or nobody knows how much. A jail without it is not whole.
    #[default]
    Whole,
    /// What newer kernels add to it, which other layers keep the process from as well. A jail without that is whole.
    Additions,
}

impl Gap {
    pub(crate) fn of(layer: Layer, problem: &dyn Error) -> Self {
        let mut text = problem.to_string();
        let mut cause = problem.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self { layer, problem: text, extent: Extent::Whole }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.layer, self.problem)
    }
}

/// What came of a jail that a process entered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailReport {
    /// The user that the process runs as from now on, where it got one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// What is missing.
    #[serde(default)]
    pub gaps: Vec<Gap>,
}

impl JailReport {
    /// The gaps for which the jail is not whole.
    pub fn holes(&self) -> impl Iterator<Item = &Gap> {
        self.gaps.iter().filter(|gap| gap.extent == Extent::Whole)
    }

    /// What newer kernels would add to it.
    pub fn additions(&self) -> impl Iterator<Item = &Gap> {
        self.gaps.iter().filter(|gap| gap.extent == Extent::Additions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_told_with_its_cause() {
        let cause = "x".parse::<u8>().expect_err("no number");
        let gap = Gap::of(Layer::Root, &cause);
        assert_eq!(gap.to_string(), "empty root: invalid digit found in string");
    }

    #[test]
    fn a_gap_that_an_earlier_release_tells_of_is_a_hole() {
        let told = r#"{"gaps":[{"layer":"landlock","problem":"x"},{"layer":"landlock","problem":"y","extent":"additions"}]}"#;
        let report: JailReport = serde_json::from_str(told).expect("a report");
        let problems = |gaps: Vec<&Gap>| gaps.iter().map(|gap| gap.problem.clone()).collect::<Vec<_>>();
        assert_eq!(problems(report.holes().collect()), ["x"]);
        assert_eq!(problems(report.additions().collect()), ["y"]);
    }
}
