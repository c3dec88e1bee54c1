//! In what a definition differs from another, in words, and what it takes to get from one to the other.

use std::fmt;
use std::path::PathBuf;

use nix_artifacts::RestartPolicy;
use vm_model::{Bytes, EgressRule, PortForward};

use super::Description;
use super::differences::{of_cloud_init, of_credentials, of_policy, of_volume, parts_of_machine};
use super::interfaces::of_interfaces;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another artifact, or another content of it.
    Artifact {
        /// The artifact before.
        from: PathBuf,
        /// The artifact to be.
        to: PathBuf,
    },
    /// The number of vCPUs.
    Vcpus {
        /// Before.
        from: u8,
        /// To be.
        to: u8,
    },
    /// The size of the memory.
    Memory {
        /// Before.
        from: Bytes,
        /// To be.
        to: Bytes,
    },
    /// The kernel's command line.
    CommandLine,
    /// The disks: which there are, or how they are served.
    Disks,
    /// The least size or the policy of the volume of this disk.
    Volume {
        /// The disk.
        disk: String,
        /// In what: `size 1 GiB → 2 GiB`.
        what: String,
    },
    /// The network interfaces.
    Interfaces {
        /// Which, and in what.
        what: String,
    },
    /// Ports of the host that lead to it.
    Ports {
        /// Before.
        from: Vec<PortForward>,
        /// To be.
        to: Vec<PortForward>,
    },
    /// What it may open connections to beyond its network.
    Egress {
        /// Before; `None` is everything.
        from: Option<Vec<EgressRule>>,
        /// To be.
        to: Option<Vec<EgressRule>>,
    },
    /// What its guest's cloud-init is told.
    CloudInit {
        /// In what; nothing of its content.
        what: String,
    },
    /// What its guest's systemd is handed.
    Credentials {
        /// In what; nothing of their content.
        what: String,
    },
    /// When it is started again. It holds at once.
    RestartPolicy {
        /// Before; `None` is what the worker's settings say.
        from: Option<RestartPolicy>,
        /// To be.
        to: Option<RestartPolicy>,
    },
    /// How it is found out whether its guest is well. It holds at once.
    Health,
    /// What it may take of its host. It holds at once.
    Limits {
        /// Limit by limit, in words.
        difference: String,
    },
    /// Whether it may share a process.
    Isolation,
    /// Anything else about the machine.
    Machine {
        /// Which parts of it.
        parts: Vec<&'static str>,
    },
}

/// What it takes to bring a running VM from one definition to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: they make the same machine.
    Nothing,
    /// It goes on running.
    Live,
    /// Its machine is stopped and another one started.
    Restart,
}

impl Change {
    fn needs_restart(&self) -> bool {
        match self {
            Self::RestartPolicy { .. } | Self::Health | Self::Limits { .. } => false,
            Self::Artifact { .. }
            | Self::Vcpus { .. }
            | Self::Memory { .. }
            | Self::CommandLine
            | Self::Disks
            | Self::Volume { .. }
            | Self::Interfaces { .. }
            | Self::Ports { .. }
            | Self::Egress { .. }
            | Self::CloudInit { .. }
            | Self::Credentials { .. }
            | Self::Isolation
            | Self::Machine { .. } => true,
        }
    }

    /// All differences between two descriptions.
    pub fn between(from: &Description, to: &Description) -> Vec<Self> {
        let mut changes = Vec::new();
        if (&from.store_path, &from.hash) != (&to.store_path, &to.hash) {
            changes.push(Self::Artifact { from: from.store_path.clone(), to: to.store_path.clone() });
        }
        let (before, after) = (&from.machine, &to.machine);
        if before.cpus.boot_vcpus != after.cpus.boot_vcpus {
            changes.push(Self::Vcpus { from: before.cpus.boot_vcpus, to: after.cpus.boot_vcpus });
        }
        if before.memory.size != after.memory.size {
            changes.push(Self::Memory { from: before.memory.size, to: after.memory.size });
        }
        if before.boot.cmdline != after.boot.cmdline {
            changes.push(Self::CommandLine);
        }
        if before.disks != after.disks {
            changes.push(Self::Disks);
        }
        for (disk, volume) in &to.volumes {
            if let Some(before) = from.volumes.get(disk).filter(|before| *before != volume) {
                changes.push(Self::Volume { disk: disk.clone(), what: of_volume(before, volume) });
            }
        }
        changes.extend(network_changes(from, to));
        if from.restart != to.restart {
            changes.push(Self::RestartPolicy { from: from.restart, to: to.restart });
        }
        if from.health != to.health {
            changes.push(Self::Health);
        }
        if from.limits != to.limits {
            changes.push(Self::Limits { difference: from.limits.changes_to(&to.limits) });
        }
        if from.isolation != to.isolation {
            changes.push(Self::Isolation);
        }
        let what = of_cloud_init(from.cloud_init.as_ref(), to.cloud_init.as_ref());
        changes.extend(what.map(|what| Self::CloudInit { what }));
        let what = of_credentials(from, to);
        changes.extend(what.map(|what| Self::Credentials { what }));
        let parts = parts_of_machine(from, to);
        if !parts.is_empty() {
            changes.push(Self::Machine { parts });
        }
        changes
    }
}

/// The differences of the interfaces.
fn network_changes(from: &Description, to: &Description) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(of_interfaces(from, to).map(|what| Change::Interfaces { what }));
    let (before, after) = (from.forwards(), to.forwards());
    if before != after {
        changes.push(Change::Ports { from: before, to: after });
    }
    // All interfaces have the same list.
    let egress =
        |description: &Description| description.nics.first().and_then(|nic| nic.access.egress.clone());
    let (before, after) = (egress(from), egress(to));
    if before != after {
        changes.push(Change::Egress { from: before, to: after });
    }
    changes
}

/// What `changes` take.
pub(crate) fn effect(changes: &[Change]) -> Effect {
    match changes {
        [] => Effect::Nothing,
        changes if changes.iter().any(Change::needs_restart) => Effect::Restart,
        _ => Effect::Live,
    }
}

/// `items` one after the other, or the word for none.
fn listed(items: &[impl fmt::Display], none: &str) -> String {
    match items {
        [] => none.to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Artifact { from, to } if from == to => {
                write!(formatter, "content of {}", to.display())
            }
            Self::Artifact { from, to } => {
                write!(formatter, "image {} → {}", from.display(), to.display())
            }
            Self::Vcpus { from, to } => write!(formatter, "vCPUs {from} → {to}"),
            Self::Memory { from, to } => write!(formatter, "memory {from} → {to}"),
            Self::CommandLine => formatter.write_str("kernel command line"),
            Self::Disks => formatter.write_str("disks"),
            Self::Volume { disk, what } => write!(formatter, "volume {disk} {what}"),
            Self::CloudInit { what } => write!(formatter, "cloud-init {what}"),
            Self::Credentials { what } => write!(formatter, "credentials {what}"),
            Self::Interfaces { what } => write!(formatter, "network interfaces ({what})"),
            Self::Ports { from, to } => {
                write!(formatter, "ports {} → {}", listed(from, "none"), listed(to, "none"))
            }
            Self::Egress { from, to } => {
                let words = |rules: &Option<Vec<EgressRule>>| {
                    rules.as_ref().map_or_else(|| "anywhere".to_owned(), |rules| listed(rules, "nowhere"))
                };
                write!(formatter, "egress {} → {}", words(from), words(to))
            }
            Self::RestartPolicy { from, to } => {
                write!(formatter, "restart policy {} → {}", of_policy(*from), of_policy(*to))
            }
            Self::Health => formatter.write_str("health probes"),
            Self::Limits { difference } => write!(formatter, "limits: {difference}"),
            Self::Isolation => formatter.write_str("isolation"),
            Self::Machine { parts } => write!(formatter, "machine ({})", parts.join(", ")),
        }
    }
}
