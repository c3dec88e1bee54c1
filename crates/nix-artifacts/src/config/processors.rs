//! Processors, read from their section.

use vm_model::{CoreScheduling, CpuSpec, CpuTopology, VcpuAffinity};

use super::machine::{Reader, contradiction};
use super::refusal::Refusal;
use super::section::Section;

impl Reader<'_> {
    pub(super) fn cpus(&mut self) -> Result<CpuSpec, Box<Refusal>> {
        let Some(cpus) = self.top.section("cpus") else {
            return Ok(CpuSpec::default());
        };
        let boot_vcpus: u8 = cpus.integer("boot_vcpus").unwrap_or(1);
        let max_vcpus: u8 = cpus.integer("max_vcpus").unwrap_or(boot_vcpus);
        if max_vcpus < boot_vcpus {
            return Err(contradiction(
                cpus.path_of("max_vcpus"),
                max_vcpus,
                format!("boot_vcpus is {boot_vcpus}"),
                format!("{boot_vcpus} or more"),
            ));
        }
        if max_vcpus > boot_vcpus {
            let consequence = "vCPUs cannot be added to a running machine";
            self.warn(cpus.path_of("max_vcpus"), max_vcpus, consequence);
        }
        let topology = cpus.section("topology").map(|topology| read_topology(topology, max_vcpus));
        Ok(CpuSpec {
            boot_vcpus,
            max_phys_bits: cpus.integer("max_phys_bits"),
            topology: topology.transpose()?,
            affinity: read_affinity(cpus.list("affinity"), max_vcpus)?,
            core_scheduling: match cpus.text("core_scheduling") {
                Some("Vcpu") => CoreScheduling::Vcpu,
                Some("Off") => CoreScheduling::Off,
                // No other word passes the table of keys.
                _ => CoreScheduling::Vm,
            },
        })
    }
}

fn read_topology(topology: &Section, max_vcpus: u8) -> Result<CpuTopology, Box<Refusal>> {
    let level = |name| topology.integer(name).unwrap_or(1);
    let levels = CpuTopology {
        threads_per_core: level("threads_per_core"),
        cores_per_die: level("cores_per_die"),
        dies_per_package: level("dies_per_package"),
        packages: level("packages"),
    };
    if levels.places() == u32::from(max_vcpus) {
        return Ok(levels);
    }
    let CpuTopology { threads_per_core, cores_per_die, dies_per_package, packages } = levels;
    Err(contradiction(
        topology.path.clone(),
        format!("{threads_per_core} × {cores_per_die} × {dies_per_package} × {packages}"),
        format!("max_vcpus is {max_vcpus}"),
        format!("a topology that multiplies to {max_vcpus}"),
    ))
}

fn read_affinity(entries: &[Section], max_vcpus: u8) -> Result<Vec<VcpuAffinity>, Box<Refusal>> {
    let mut affinity: Vec<VcpuAffinity> = Vec::with_capacity(entries.len());
    for entry in entries {
        let missing = |name, accepted: &str| {
            let rule = "every entry says which vCPU may run on which host CPUs".to_owned();
            contradiction(entry.path_of(name), "missing", rule, accepted.to_owned())
        };
        let vcpu: u8 = entry.integer("vcpu").ok_or_else(|| missing("vcpu", "a vCPU's number"))?;
        if vcpu >= max_vcpus {
            return Err(contradiction(
                entry.path_of("vcpu"),
                vcpu,
                format!("max_vcpus is {max_vcpus} and vCPUs are numbered from 0"),
                format!("a number below {max_vcpus}"),
            ));
        }
        if affinity.iter().any(|earlier| earlier.vcpu == vcpu) {
            let rule = "an earlier entry speaks of this vCPU".to_owned();
            return Err(contradiction(
                entry.path_of("vcpu"),
                vcpu,
                rule,
                "one entry for each vCPU".to_owned(),
            ));
        }
        let host_cpus: Vec<u16> = entry.integers("host_cpus");
        if host_cpus.is_empty() {
            return Err(missing("host_cpus", "a list of at least one host CPU"));
        }
        affinity.push(VcpuAffinity { vcpu, host_cpus });
    }
    Ok(affinity)
}
