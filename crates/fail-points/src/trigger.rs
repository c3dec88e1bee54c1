//! Which passing of which point ends the process, or has it wait.

use std::fmt;
use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

use crate::FailPoint;

/// A point, whose passing of it counts, which of these passings is meant, and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    point: FailPoint,
    subject: Option<String>,
    nth: u32,
    file: Option<PathBuf>,
}

/// Why a text names no passing of a point.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TriggerError {
    /// There is no such point.
    #[error("there is no fail point {name:?}")]
    UnknownPoint {
        /// What was named.
        name: String,
    },
    /// The count is none.
    #[error("{text:?} does not say which passing is meant: a number from 1 on does")]
    Count {
        /// What was given.
        text: String,
        /// Why it is no number; absent for zero.
        #[source]
        source: Option<ParseIntError>,
    },
}

impl Trigger {
    /// The first passing of `point`, whatever passes it.
    #[must_use]
    pub fn first(point: FailPoint) -> Self {
        Self { point, subject: None, nth: 1, file: None }
    }

    /// The same, counting only what passes with this `subject`.
    #[must_use]
    pub fn of(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }

    /// The same point at its `nth` passing, counted from 1.
    #[must_use]
    pub fn at(self, nth: u32) -> Self {
        Self { nth: nth.max(1), ..self }
    }

    /// The same, at which a thread waits as long as `file` exists.
    #[must_use]
    pub fn while_there(self, file: impl Into<PathBuf>) -> Self {
        Self { file: Some(file.into()), ..self }
    }

    /// The file for whose end a thread waits; without one the process ends.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Which point.
    #[must_use]
    pub fn point(&self) -> FailPoint {
        self.point
    }

    /// Which passing, from 1 on.
    #[must_use]
    pub fn nth(&self) -> u32 {
        self.nth
    }

    /// Whether passing `point` with `subject` counts.
    #[must_use]
    pub fn concerns(&self, point: FailPoint, subject: &str) -> bool {
        self.point == point && self.subject.as_ref().is_none_or(|wanted| wanted == subject)
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.point.name())?;
        if let Some(subject) = &self.subject {
            write!(formatter, "@{subject}")?;
        }
        write!(formatter, ":{}", self.nth)?;
        match &self.file {
            Some(file) => write!(formatter, "={}", file.display()),
            None => Ok(()),
        }
    }
}

impl FromStr for Trigger {
    type Err = TriggerError;

    fn from_str(text: &str) -> Result<Self, TriggerError> {
        let (text, file) = match text.split_once('=') {
            Some((text, file)) => (text, Some(file.into())),
            None => (text, None),
        };
        let (rest, nth) = match text.rsplit_once(':') {
            Some((rest, count)) => (rest, parse_count(count)?),
            None => (text, 1),
        };
        let (name, subject) = match rest.split_once('@') {
            Some((name, subject)) => (name, Some(subject.to_owned())),
            None => (rest, None),
        };
        let point = FailPoint::ALL.iter().copied().find(|point| point.name() == name);
        let point = point.ok_or_else(|| TriggerError::UnknownPoint { name: name.to_owned() })?;
        Ok(Self { point, subject, nth, file })
    }
}

fn parse_count(text: &str) -> Result<u32, TriggerError> {
    let refused = |source| TriggerError::Count { text: text.to_owned(), source };
    match text.parse() {
        Ok(0) => Err(refused(None)),
        Ok(count) => Ok(count),
        Err(source) => Err(refused(Some(source))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_read_back() {
        for trigger in [
            Trigger::first(FailPoint::FileRenamed),
            Trigger::first(FailPoint::FileRenamed).of("leases.json").at(3),
            Trigger::first(FailPoint::StartLaunched).at(2),
            Trigger::first(FailPoint::MachineBuilding).while_there("/tmp/a:b=c@d"),
        ] {
            assert_eq!(trigger.to_string().parse(), Ok(trigger));
        }
        assert_eq!("start.launched".parse(), Ok(Trigger::first(FailPoint::StartLaunched)));
    }

    #[test]
    fn what_names_no_passing_is_refused() {
        let refused = |text: &str| text.parse::<Trigger>().expect_err("refused").to_string();
        assert_eq!(refused("nowhere"), "there is no fail point \"nowhere\"");
        assert!(refused("file.renamed:0").contains("\"0\""));
        assert!(refused("file.renamed:x").contains("\"x\""));
    }

    #[test]
    fn only_the_wanted_subject_counts() {
        let any = Trigger::first(FailPoint::FileRenamed);
        let one = any.clone().of("leases.json");
        assert!(any.concerns(FailPoint::FileRenamed, "record.json"));
        assert!(!any.concerns(FailPoint::FileSynced, "record.json"));
        assert!(!one.concerns(FailPoint::FileRenamed, "record.json"));
        assert!(one.concerns(FailPoint::FileRenamed, "leases.json"));
    }
}
