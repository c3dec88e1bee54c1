//! The controllers that limits need.

use std::collections::BTreeSet;
use std::fmt;

/// A controller of the unified hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// Reads and writes of block devices.
    Io,
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
}

impl Controller {
    /// All that limits need, by name.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Io, Self::Memory, Self::Pids];

    /// Its name in the hierarchy's files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Io => "io",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// Some controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controllers(BTreeSet<Controller>);

impl Controllers {
    /// Those that limits need and that `text` names, the content of `cgroup.controllers` or `cgroup.subtree_control`.
    pub fn parse(text: &str) -> Self {
        let named = |controller: &Controller| text.split_whitespace().any(|name| name == controller.name());
        Self(Controller::ALL.into_iter().filter(named).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `controller` is among them.
    pub fn has(&self, controller: Controller) -> bool {
        self.0.contains(&controller)
    }

    /// Those of `self` that are not in `others`.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        Self(self.0.difference(&others.0).copied().collect())
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Controller> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Controller> for Controllers {
    fn from_iter<I: IntoIterator<Item = Controller>>(controllers: I) -> Self {
        Self(controllers.into_iter().collect())
    }
}

impl fmt::Display for Controllers {
    /// `cpu, memory`, or `none`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Controller::name).collect();
        formatter.write_str(if names.is_empty() { "none" } else { "" })?;
        formatter.write_str(&names.join(", "))
    }
}
