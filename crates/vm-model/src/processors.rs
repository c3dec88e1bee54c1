//! A machine's processors: how many, how they are told to hang together, where on the host they may run.

use serde::{Deserialize, Serialize};

/// Processors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuSpec {
    /// vCPUs present at boot; at least one.
    pub boot_vcpus: u8,
    /// Guest-physical address bits offered to the guest; `None` takes the host's.
    pub max_phys_bits: Option<u8>,
    /// What the guest is told of who shares what; `None` is one package with one thread a core.
    #[serde(default)]
    pub topology: Option<CpuTopology>,
    /// Where the threads of vCPUs may run; each vCPU at most once, and anywhere if it is not named.
    #[serde(default)]
    pub affinity: Vec<VcpuAffinity>,
    /// What may run beside a vCPU on the other threads of its host core.
    #[serde(default)]
    pub core_scheduling: CoreScheduling,
}

/// What the host's scheduler may run at the same time on the threads of one core, which learn from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoreScheduling {
    /// Threads of this machine only.
    #[default]
    Vm,
    /// Nothing beside a vCPU.
    Vcpu,
    /// Whatever there is to run.
    Off,
}

/// How many of each level make up the next, each at least one. vCPUs take the places in order: threads first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTopology {
    /// Threads of a core.
    pub threads_per_core: u8,
    /// Cores of a die.
    pub cores_per_die: u8,
    /// Dies of a package.
    pub dies_per_package: u8,
    /// Packages of the machine.
    pub packages: u8,
}

/// The host CPUs that one vCPU may run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuAffinity {
    /// The vCPU's index. One that the machine does not have is of no consequence.
    pub vcpu: u8,
    /// Numbers of host CPUs; at least one.
    pub host_cpus: Vec<u16>,
}

impl Default for CpuSpec {
    fn default() -> Self {
        Self::of(1)
    }
}

impl CpuSpec {
    /// So many vCPUs and nothing special about them.
    #[must_use]
    pub fn of(boot_vcpus: u8) -> Self {
        Self {
            boot_vcpus,
            max_phys_bits: None,
            topology: None,
            affinity: Vec::new(),
            core_scheduling: CoreScheduling::Vm,
        }
    }
}

impl CpuTopology {
    /// vCPUs that have a place.
    #[must_use]
    pub fn places(&self) -> u32 {
        let Self { threads_per_core, cores_per_die, dies_per_package, packages } = *self;
        // Four factors below 256: the product fits.
        [threads_per_core, cores_per_die, dies_per_package, packages].map(u32::from).iter().product()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_never_overflow() {
        let most = CpuTopology {
            threads_per_core: u8::MAX,
            cores_per_die: u8::MAX,
            dies_per_package: u8::MAX,
            packages: u8::MAX,
        };
        assert_eq!(most.places(), 255_u32.pow(4));
        assert_eq!(CpuTopology { packages: 0, ..most }.places(), 0);
    }

    #[test]
    fn what_an_earlier_description_lacks_has_its_default() {
        let spec: CpuSpec =
            serde_json::from_str(r#"{"boot_vcpus": 2, "max_phys_bits": null}"#).expect("read");
        assert_eq!(spec, CpuSpec::of(2));
    }
}
