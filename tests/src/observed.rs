//! VMs as the worker's command line shows them.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

/// One VM of `ls --json` or `inspect --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct ObservedVm {
    /// Its name.
    pub id: String,
    /// Where it is in its life.
    pub phase: String,
    /// Why it failed, or what went wrong before it was started again.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// The guest's address.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// The guest's IPv6 address.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// The guest's hardware address.
    #[serde(default)]
    pub mac: Option<String>,
    /// The host's end of its network interface.
    #[serde(default)]
    pub tap: Option<String>,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u64,
    /// What the worker has to say about how it is served.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How often its machine was made anew in place.
    #[serde(default)]
    pub resets: u64,
    /// What ended it when it was told to stop.
    #[serde(default)]
    pub last_stop: Option<String>,
    /// How long the steps of its newest start took, in milliseconds.
    #[serde(default)]
    pub timings: Map<String, Value>,
    /// A definition that was asked for and is not in force.
    #[serde(default)]
    pub wanted: Option<Wanted>,
    /// When its newest run began, in milliseconds since 1970.
    #[serde(default)]
    pub started_at: Option<u64>,
    /// How its latest runs ended.
    #[serde(default)]
    pub ends: Vec<Value>,
    /// How its guest is; only where something tells it.
    #[serde(default)]
    pub health: Option<Health>,
    /// The disk for which it is paused.
    #[serde(default)]
    pub disk_trouble: Option<DiskTrouble>,
    /// What it uses.
    #[serde(default)]
    pub metrics: Option<Metrics>,
}

/// How a guest is.
#[derive(Clone, Debug, Deserialize)]
pub struct Health {
    /// `ready`, `not_ready` or `unknown`.
    pub ready: String,
    /// Why it is not ready.
    #[serde(default)]
    pub reason: Option<String>,
    /// What its systemd has reported.
    #[serde(default)]
    pub systemd: Option<Value>,
}

/// A definition that is not in force.
#[derive(Clone, Debug, Deserialize)]
pub struct Wanted {
    /// Why not; absent while it is being made ready.
    #[serde(default)]
    pub refusal: Option<Reason>,
}

/// A disk on which the host cannot do what the guest asks for.
#[derive(Clone, Debug, Deserialize)]
pub struct DiskTrouble {
    /// Which one.
    pub disk: String,
    /// What the host says.
    pub problem: String,
}

/// Why a VM failed.
#[derive(Clone, Debug, Deserialize)]
pub struct Reason {
    /// What kind of failure.
    pub kind: String,
    /// What it is called in more detail.
    #[serde(default)]
    pub class: Option<String>,
    /// The whole story.
    pub message: String,
    /// The guest's last words.
    #[serde(default)]
    pub console_tail: Vec<String>,
}

/// What a VM uses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Of one processor, over the last interval.
    pub cpu_percent: f64,
    /// Resident memory in MiB.
    pub memory_mb: u64,
    /// Configured memory in bytes.
    pub memory_size_bytes: u64,
    /// What the guest could use still, as it says; only with a balloon.
    pub memory_available_bytes: Option<u64>,
    /// Resident memory in bytes.
    pub memory_resident_bytes: u64,
    /// The balloon's figures.
    pub balloon: Option<Balloon>,
    /// Bytes the guest received.
    pub network_rx_bytes: u64,
    /// Bytes the guest sent.
    pub network_tx_bytes: u64,
    /// Bytes the guest read.
    pub disk_read_bytes: u64,
    /// Bytes the guest wrote.
    pub disk_write_bytes: u64,
    /// Requests to disks that failed.
    pub disk_errors: u64,
}

/// What a guest gave up.
#[derive(Clone, Debug, Deserialize)]
pub struct Balloon {
    /// What it is asked for.
    pub target_bytes: u64,
    /// What it says it gave up.
    pub actual_bytes: u64,
    /// What the host took back.
    pub discarded_bytes: u64,
    /// Pages that the host did not take back.
    pub refused_pages: u64,
}

impl ObservedVm {
    /// The guest's address.
    ///
    /// # Errors
    /// It has none yet.
    pub fn address(&self) -> Result<Ipv4Addr> {
        self.address.with_context(|| format!("{} has no address", self.id))
    }

    /// What it uses.
    ///
    /// # Errors
    /// Nothing was sampled yet.
    pub fn metrics(&self) -> Result<&Metrics> {
        self.metrics.as_ref().with_context(|| format!("{} has no metrics", self.id))
    }

    /// What its guest's systemd has reported, once the guest is ready.
    ///
    /// # Errors
    /// It is not; the error says why.
    pub fn ready(&self) -> Result<Option<&Value>> {
        let health = self.health.as_ref().with_context(|| format!("nothing tells how {} is", self.id))?;
        ensure!(health.ready == "ready", "{}: {health:?}", self.state());
        Ok(health.systemd.as_ref())
    }

    /// Phase and reason in one line.
    pub fn state(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{} is {}: {}", self.id, self.phase, reason.message),
            None => format!("{} is {}", self.id, self.phase),
        }
    }
}

/// Reads the answer of `ls --json`.
pub(crate) fn read_list(json: &str) -> Result<Vec<ObservedVm>> {
    serde_json::from_str(json).with_context(|| format!("`ls --json` printed: {json}"))
}

/// Reads the answer of `inspect --json`.
pub(crate) fn read_one(json: &str) -> Result<ObservedVm> {
    serde_json::from_str(json).with_context(|| format!("`inspect --json` printed: {json}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_without_network_and_metrics_is_read() {
        let vm = read_one(r#"{"id":"a","phase":"creating","address":null,"more":1}"#).expect("valid");
        assert_eq!(vm.state(), "a is creating");
        assert!(vm.address().is_err());
    }

    #[test]
    fn a_failed_vm_says_why() {
        let json = r#"[{"id":"a","phase":"failed","reason":{"kind":"guest","message":"it panicked"},
                       "metrics":{"cpu_percent":1.5,"memory_mb":40}}]"#;
        let vm = read_list(json).expect("valid").remove(0);
        assert_eq!(vm.state(), "a is failed: it panicked");
        assert_eq!(vm.metrics().expect("sampled").memory_mb, 40);
    }
}
