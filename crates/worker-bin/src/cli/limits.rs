//! What is said of a VM's limits in place of its artifact.

use std::str::FromStr;

use clap::Args;
use serde_json::{Map, Value};
use vm_model::{
    Bytes, Cores, DESCRIPTORS_LEAST, DESCRIPTORS_MOST, MEMORY_LIMIT_LEAST, MEMORY_LIMIT_MOST, MEMORY_PAGE,
    PROCESSES_LEAST, PROCESSES_MOST, RATE_LEAST, RATE_MOST, WEIGHT_LEAST, WEIGHT_MOST,
};

use super::amounts::amount;
use super::changing::{DEFAULT, Override};

/// Limits of a VM that runs change without a restart.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LimitFlags {
    /// Processor time in cores, like 0.5 or 2, of all that is done for the VM; `default` for what its artifact or else the
    /// worker says, as with every limit
    #[arg(long, value_name = "CORES", value_parser = cores)]
    pub(crate) cpu: Option<Override<Cores>>,
    /// Its share of busy processors, 1 to 10000; others have 100
    #[arg(long, value_name = "WEIGHT", value_parser = weight)]
    pub(crate) cpu_weight: Option<Override<u64>>,
    /// The host's memory that it may take, its overhead included: bytes, or with K, M or G behind it
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub(crate) memory_max: Option<Override<u64>>,
    /// Its share of busy disks, 1 to 10000; others have 100
    #[arg(long, value_name = "WEIGHT", value_parser = weight)]
    pub(crate) io_weight: Option<Override<u64>>,
    /// Bytes read a second from each device of the host that a disk of it lies on, as a number or with K, M or G
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) io_read_bytes: Option<Override<u64>>,
    /// Bytes written a second, likewise
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) io_write_bytes: Option<Override<u64>>,
    /// Read operations a second, likewise
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) io_read_operations: Option<Override<u64>>,
    /// Write operations a second, likewise
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) io_write_operations: Option<Override<u64>>,
    /// Processes and threads
    #[arg(long, value_name = "COUNT", value_parser = processes)]
    pub(crate) processes: Option<Override<u64>>,
    /// Open file descriptors
    #[arg(long, value_name = "COUNT", value_parser = descriptors)]
    pub(crate) descriptors: Option<Override<u64>>,
}

impl LimitFlags {
    /// Members of `procurator.limits`: what the flags say. What they take back is `null`.
    pub(crate) fn members(&self) -> Map<String, Value> {
        let cpu = self.cpu.map(|cpu| cpu.value().map_or(Value::Null, |cores| f64::from(cores).into()));
        let counts = [
            ("cpu_weight", self.cpu_weight),
            ("memory_max", self.memory_max),
            ("io_weight", self.io_weight),
            ("io_read_bytes", self.io_read_bytes),
            ("io_write_bytes", self.io_write_bytes),
            ("io_read_operations", self.io_read_operations),
            ("io_write_operations", self.io_write_operations),
            ("processes", self.processes),
            ("descriptors", self.descriptors),
        ];
        let counts = counts.into_iter().filter_map(|(name, count)| {
            count.map(|count| (name.to_owned(), count.value().map_or(Value::Null, Value::from)))
        });
        cpu.map(|cpu| ("cpu".to_owned(), cpu)).into_iter().chain(counts).collect()
    }
}

fn cores(text: &str) -> Result<Override<Cores>, String> {
    if text == DEFAULT {
        return Ok(Override::Default);
    }
    let cores = Cores::from_str(text).map(Override::Value);
    cores.map_err(|_| format!("{}, or {DEFAULT} is accepted", Cores::ACCEPTED))
}

/// A number with a unit or without, within the bounds.
fn bounded(text: &str, least: u64, most: u64) -> Result<Override<u64>, String> {
    if text == DEFAULT {
        return Ok(Override::Default);
    }
    let number = amount(text).ok().filter(|number| (least..=most).contains(number));
    number.map(Override::Value).ok_or_else(|| format!("{least} to {most} or {DEFAULT} is accepted"))
}

fn weight(text: &str) -> Result<Override<u64>, String> {
    bounded(text, WEIGHT_LEAST.into(), WEIGHT_MOST.into())
}

fn rate(text: &str) -> Result<Override<u64>, String> {
    bounded(text, RATE_LEAST, RATE_MOST)
}

fn processes(text: &str) -> Result<Override<u64>, String> {
    bounded(text, PROCESSES_LEAST.into(), PROCESSES_MOST.into())
}

fn descriptors(text: &str) -> Result<Override<u64>, String> {
    bounded(text, DESCRIPTORS_LEAST.into(), DESCRIPTORS_MOST.into())
}

fn memory(text: &str) -> Result<Override<u64>, String> {
    let accepted = || {
        let (least, most) = (MEMORY_LIMIT_LEAST.as_mib(), MEMORY_LIMIT_MOST.as_mib() >> 10);
        format!("{least}M to {most}G or {DEFAULT} is accepted, a multiple of {} bytes", MEMORY_PAGE.get())
    };
    let bounded = bounded(text, MEMORY_LIMIT_LEAST.get(), MEMORY_LIMIT_MOST.get()).map_err(|_| accepted())?;
    match bounded.value().map(Bytes::new) {
        Some(bytes) if !bytes.get().is_multiple_of(MEMORY_PAGE.get()) => Err(accepted()),
        Some(_) | None => Ok(bounded),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_limits_that_are_said_are_changed() {
        let flags = LimitFlags {
            cpu: cores("1.5").map(Some).expect("valid"),
            memory_max: memory("2G").map(Some).expect("valid"),
            io_weight: weight("default").map(Some).expect("valid"),
            ..LimitFlags::default()
        };
        let expected = json!({ "cpu": 1.5, "memory_max": 2_147_483_648_u64, "io_weight": null });
        assert_eq!(Value::from(flags.members()), expected);
        assert!(LimitFlags::default().members().is_empty());
    }

    #[test]
    fn a_refusal_says_what_is_accepted() {
        assert!(cores("0").expect_err("none").contains("0.01 to 1024"));
        assert!(weight("10001").expect_err("heavy").contains("1 to 10000"));
        assert_eq!(
            memory("1M").expect_err("little"),
            "16M to 32768G or default is accepted, a multiple of 4096 bytes"
        );
        assert!(memory("16777217").is_err() && processes("7").is_err() && descriptors("x").is_err());
    }
}
