//! The table `limits`: how much memory VMs are promised together, and what each may take of the host.

use anyhow::{Result, anyhow, bail};
use serde::Deserialize;
use vm_model::{
    Cores, DESCRIPTORS_LEAST, DESCRIPTORS_MOST, PROCESSES_LEAST, PROCESSES_MOST, ResourceLimits,
    WEIGHT_LEAST, WEIGHT_MOST,
};
use worker::vms::{Enforcement, LimitSettings, MemoryLimit, MemoryOvercommit};

use super::keys::Kind;

/// What weights can be.
pub(super) const WEIGHT: Kind = Kind::Integer { least: WEIGHT_LEAST as i64, most: WEIGHT_MOST as i64 };
/// How many processes a VM can be limited to.
pub(super) const PROCESSES: Kind =
    Kind::Integer { least: PROCESSES_LEAST as i64, most: PROCESSES_MOST as i64 };
/// How many descriptors a VM can be limited to.
pub(super) const DESCRIPTORS: Kind =
    Kind::Integer { least: DESCRIPTORS_LEAST as i64, most: DESCRIPTORS_MOST as i64 };

/// How many vCPUs there may be for each processor.
pub(super) const VCPUS_PER_PROCESSOR: Kind = Kind::Integer { least: 1, most: VCPUS_MOST as i64 };
const VCPUS_MOST: u64 = 1_000_000;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    memory_overcommit_ratio: Option<Ratio>,
    vcpus_per_processor: Option<u64>,
    cpu: Option<f64>,
    cpu_weight: Option<u64>,
    memory: Memory,
    io_weight: Option<u64>,
    processes: Option<u64>,
    descriptors: Option<u64>,
    enforcement: Enforced,
}

/// A number, or `off`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Ratio {
    Whole(i64),
    Fraction(f64),
    Word(String),
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Memory {
    #[default]
    Off,
    Computed,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Enforced {
    #[default]
    BestEffort,
    Required,
}

impl Limits {
    /// How much memory VMs may be promised together.
    pub(super) fn memory_overcommit(&self, default: MemoryOvercommit) -> Result<MemoryOvercommit> {
        self.memory_overcommit_ratio.as_ref().map_or(Ok(default), overcommit)
    }

    /// How many vCPUs VMs may have together for each processor.
    pub(super) fn vcpus_per_processor(&self, default: u32) -> Result<u32> {
        let said = within("vcpus_per_processor", self.vcpus_per_processor, (1, VCPUS_MOST))?;
        Ok(said.unwrap_or(default))
    }

    /// What each VM may take, where its description says nothing else.
    pub(super) fn settings(&self) -> Result<LimitSettings> {
        let cpu = self.cpu.map(|cpu| Cores::try_from(cpu).map_err(|_| refused("cpu", cpu, Cores::ACCEPTED)));
        let weights = (WEIGHT_LEAST.into(), WEIGHT_MOST.into());
        let defaults = ResourceLimits {
            cpu: cpu.transpose()?,
            cpu_weight: within("cpu_weight", self.cpu_weight, weights)?,
            io_weight: within("io_weight", self.io_weight, weights)?,
            processes: within("processes", self.processes, (PROCESSES_LEAST.into(), PROCESSES_MOST.into()))?,
            descriptors: within(
                "descriptors",
                self.descriptors,
                (DESCRIPTORS_LEAST.into(), DESCRIPTORS_MOST.into()),
            )?,
            ..ResourceLimits::default()
        };
        let memory = match self.memory {
            Memory::Off => MemoryLimit::Off,
            Memory::Computed => MemoryLimit::Computed,
        };
        let enforcement = match self.enforcement {
            Enforced::BestEffort => Enforcement::BestEffort,
            Enforced::Required => Enforcement::Required,
        };
        Ok(LimitSettings { defaults, memory, enforcement })
    }
}

fn refused(key: &str, value: impl std::fmt::Display, accepted: &str) -> anyhow::Error {
    anyhow!("invalid limits.{key} = {value}: {accepted} is accepted")
}

/// `value`, where it lies within the bounds.
fn within<T: TryFrom<u64>>(key: &str, value: Option<u64>, (least, most): (u64, u64)) -> Result<Option<T>> {
    let Some(value) = value else { return Ok(None) };
    let bounded = (least..=most).contains(&value).then(|| T::try_from(value).ok()).flatten();
    bounded.map(Some).ok_or_else(|| refused(key, value, &format!("{least} to {most}")))
}

/// Hundredths of the host's memory, or no limit.
fn overcommit(ratio: &Ratio) -> Result<MemoryOvercommit> {
    let (text, percent) = match ratio {
        Ratio::Word(word) if word == "off" => return Ok(MemoryOvercommit::Unlimited),
        Ratio::Word(word) => (format!("{word:?}"), None),
        Ratio::Whole(value) => (value.to_string(), whole_percent(value.checked_mul(100))),
        Ratio::Fraction(value) => (value.to_string(), nearest_percent(*value)),
    };
    match percent {
        Some(percent) => Ok(MemoryOvercommit::Percent(percent)),
        None => bail!("invalid limits.memory_overcommit_ratio = {text}: 0.01 to 100 or \"off\" is accepted"),
    }
}

fn whole_percent(percent: Option<i64>) -> Option<u32> {
    u32::try_from(percent?).ok().filter(|percent| (1..=10_000).contains(percent))
}

fn nearest_percent(ratio: f64) -> Option<u32> {
    let percent = (ratio * 100.0).round();
    if !(1.0..=10_000.0).contains(&percent) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and at most 10,000")]
    whole_percent(Some(percent as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<LimitSettings> {
        toml::from_str::<Limits>(text)?.settings()
    }

    #[test]
    fn limits_of_every_vm_are_read() {
        let read = settings("cpu = 1.5\ncpu_weight = 200\nmemory = 'computed'\nenforcement = 'required'")
            .expect("valid");
        assert_eq!(read.defaults.to_string(), "cpu 1.5, cpu_weight 200");
        assert_eq!((read.memory, read.enforcement), (MemoryLimit::Computed, Enforcement::Required));
        assert_eq!(settings("cpu = 2").expect("valid").defaults.to_string(), "cpu 2");
        assert_eq!(settings("").expect("valid"), LimitSettings::default());
    }

    #[test]
    fn what_cannot_be_a_limit_is_refused_by_name_and_range() {
        let refused = |text: &str| format!("{:#}", settings(text).expect_err(text));
        assert!(refused("cpu = 0").contains("limits.cpu = 0: a number from 0.01 to 1024"));
        assert!(refused("cpu_weight = 0").contains("limits.cpu_weight = 0: 1 to 10000"));
        assert!(refused("processes = 7").contains("limits.processes = 7: 8 to 4194304"));
        assert!(refused("descriptors = 63").contains("limits.descriptors = 63: 64 to 1048576"));
        assert!(refused("memory = 'some'").contains("some"));
    }
}
