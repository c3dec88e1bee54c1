//! What a VM may take of its host's processors, memory, disks, processes and descriptors, beyond what its machine is made of.
//!
//! Values and their bounds. Who enforces them, and how, is known elsewhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::{Bytes, shown_text};

/// The least and the greatest weight, as control groups have them; 100 is what others have.
pub const WEIGHT_LEAST: u16 = 1;
/// See [`WEIGHT_LEAST`].
pub const WEIGHT_MOST: u16 = 10_000;
/// The least that a limit of memory can be.
pub const MEMORY_LIMIT_LEAST: Bytes = Bytes::from_mib(16);
/// The most that a limit of memory can be.
pub const MEMORY_LIMIT_MOST: Bytes = Bytes::from_mib(32 << 20);
/// The least that a limit of bytes or operations a second can be.
pub const RATE_LEAST: u64 = 1;
/// The most that a limit of bytes or operations a second can be.
pub const RATE_MOST: u64 = 1 << 48;
/// The least processes and threads that a VM can be limited to. What its machine needs may be more.
pub const PROCESSES_LEAST: u32 = 8;
/// The most processes and threads that a VM can be limited to.
pub const PROCESSES_MOST: u32 = 1 << 22;
/// The least open descriptors that a VM can be limited to. What its machine needs may be more.
pub const DESCRIPTORS_LEAST: u32 = 64;
/// The most open descriptors that a VM can be limited to.
pub const DESCRIPTORS_MOST: u32 = 1 << 20;

/// Limits of one VM. `None` is no limit, and the weight that others have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ResourceLimits {
    /// Processor time a second of all that its process does: vCPUs, devices, what the kernel does for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cores>,
    /// Its share of processors that are wanted by more than there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u16>,
    /// Memory of the host: the guest's and what its process takes besides, with pages of files that it reads and writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<Bytes>,
    /// Its share of disks of the host that are wanted by more than they serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u16>,
    /// Bytes read a second, of each device of the host that a disk of the VM lies on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    /// Bytes written a second, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_write_bytes: Option<u64>,
    /// Read operations a second, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read_operations: Option<u64>,
    /// Write operations a second, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_write_operations: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Open file descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<u32>,
}

impl ResourceLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, and where nothing is said those of `defaults`.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        Self {
            cpu: self.cpu.or(defaults.cpu),
            cpu_weight: self.cpu_weight.or(defaults.cpu_weight),
            memory_max: self.memory_max.or(defaults.memory_max),
            io_weight: self.io_weight.or(defaults.io_weight),
            io_read_bytes: self.io_read_bytes.or(defaults.io_read_bytes),
            io_write_bytes: self.io_write_bytes.or(defaults.io_write_bytes),
            io_read_operations: self.io_read_operations.or(defaults.io_read_operations),
            io_write_operations: self.io_write_operations.or(defaults.io_write_operations),
            processes: self.processes.or(defaults.processes),
            descriptors: self.descriptors.or(defaults.descriptors),
        }
    }

    /// Each limit by its name in descriptions, in a fixed order, with its value in words.
    fn named(&self) -> [(&'static str, Option<String>); 10] {
        fn words(value: Option<impl fmt::Display>) -> Option<String> {
            value.map(|value| value.to_string())
        }
        [
            ("cpu", words(self.cpu)),
            ("cpu_weight", words(self.cpu_weight)),
            ("memory_max", words(self.memory_max)),
            ("io_weight", words(self.io_weight)),
            ("io_read_bytes", words(self.io_read_bytes)),
            ("io_write_bytes", words(self.io_write_bytes)),
            ("io_read_operations", words(self.io_read_operations)),
            ("io_write_operations", words(self.io_write_operations)),
            ("processes", words(self.processes)),
            ("descriptors", words(self.descriptors)),
        ]
    }

    /// In what `to` differs, in words: `cpu 1 → 2, memory_max none → 2 GiB`.
    pub fn changes_to(&self, to: &Self) -> String {
        let none = || "none".to_owned();
        let pairs = self.named().into_iter().zip(to.named());
        let changed = pairs.filter(|((_, from), (_, to))| from != to).map(|((name, from), (_, to))| {
            format!("{name} {} → {}", from.unwrap_or_else(none), to.unwrap_or_else(none))
        });
        changed.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for ResourceLimits {
    /// `cpu 2, memory_max 2 GiB`, or `none`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.named().into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        let set: Vec<String> = set.collect();
        formatter.write_str(if set.is_empty() { "none" } else { "" })?;
        formatter.write_str(&set.join(", "))
    }
}

/// An amount of processor time a second: thousandths of a core. At least a hundredth, at most 1,024 cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "f64", into = "f64")]
#[schema(value_type = f64)]
pub struct Cores(u32);

/// Why a number is no [`Cores`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid number of cores {0}: {ACCEPTED} is accepted", ACCEPTED = Cores::ACCEPTED)]
pub struct InvalidCores(String);

impl Cores {
    /// What is accepted, in words.
    pub const ACCEPTED: &'static str = "a number from 0.01 to 1024 with three decimals at most";
    /// The least, in thousandths.
    pub const LEAST_THOUSANDTHS: u32 = 10;
    /// The most, in thousandths.
    pub const MOST_THOUSANDTHS: u32 = 1_024_000;

    /// So many thousandths of a core; `None` where that is too few or too many.
    pub const fn from_thousandths(thousandths: u32) -> Option<Self> {
        if thousandths < Self::LEAST_THOUSANDTHS || thousandths > Self::MOST_THOUSANDTHS {
            return None;
        }
        Some(Self(thousandths))
    }

    /// How many thousandths of a core.
    pub const fn thousandths(self) -> u32 {
        self.0
    }
}

impl TryFrom<f64> for Cores {
    type Error = InvalidCores;

    fn try_from(cores: f64) -> Result<Self, Self::Error> {
        let thousandths = (cores * 1000.0).round();
        let is_exact = (cores * 1000.0 - thousandths).abs() < 1e-6;
        let most = f64::from(Self::MOST_THOUSANDTHS);
        if !is_exact || !(f64::from(Self::LEAST_THOUSANDTHS)..=most).contains(&thousandths) {
            return Err(InvalidCores(format!("{cores}")));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is whole and within bounds"
        )]
        Ok(Self(thousandths as u32))
    }
}

impl From<Cores> for f64 {
    fn from(cores: Cores) -> Self {
        Self::from(cores.0) / 1000.0
    }
}

impl FromStr for Cores {
    type Err = InvalidCores;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidCores(shown_text(text));
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let value: f64 = if is_plain { text.parse().map_err(|_| invalid())? } else { return Err(invalid()) };
        Self::try_from(value).map_err(|_| invalid())
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", f64::from(*self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cores_are_read_as_people_write_them() {
        for (text, thousandths) in
            [("1", 1000), ("0.5", 500), ("2.125", 2125), ("0.01", 10), ("1024", 1_024_000)]
        {
            let cores: Cores = text.parse().expect(text);
            assert_eq!((cores.thousandths(), cores.to_string().as_str()), (thousandths, text));
        }
        for text in ["", "0", "0.009", "1024.001", "-1", "1e2", "inf", "NaN", "0.0105", "1,5", "."] {
            let refused = text.parse::<Cores>().expect_err(text).to_string();
            assert!(refused.contains("0.01 to 1024"), "{refused}");
        }
    }

    #[test]
    fn what_changes_is_told_limit_by_limit() {
        let cores = |thousandths| Cores::from_thousandths(thousandths);
        let before = ResourceLimits { cpu: cores(1000), io_weight: Some(50), ..ResourceLimits::default() };
        let after = ResourceLimits { cpu: cores(1500), memory_max: Some(Bytes::from_mib(2048)), ..before };
        assert_eq!(before.changes_to(&after), "cpu 1 → 1.5, memory_max none → 2 GiB");
        assert_eq!(before.changes_to(&before), "");
        assert_eq!(after.to_string(), "cpu 1.5, memory_max 2 GiB, io_weight 50");
        assert_eq!(ResourceLimits::default().to_string(), "none");
    }

    #[test]
    fn what_a_vm_says_goes_before_defaults() {
        let own = ResourceLimits { cpu_weight: Some(200), ..ResourceLimits::default() };
        let defaults =
            ResourceLimits { cpu_weight: Some(50), processes: Some(100), ..ResourceLimits::default() };
        assert_eq!(own.or(defaults), ResourceLimits { cpu_weight: Some(200), ..defaults });
    }

    proptest! {
        #[test]
        fn cores_survive_text_and_json(thousandths in Cores::LEAST_THOUSANDTHS..=Cores::MOST_THOUSANDTHS) {
            let cores = Cores::from_thousandths(thousandths).expect("within bounds");
            prop_assert_eq!(cores.to_string().parse::<Cores>(), Ok(cores));
            let json = serde_json::to_string(&cores).expect("a number");
            prop_assert_eq!(serde_json::from_str::<Cores>(&json).expect("the same"), cores);
        }
    }
}
