//! Where each vCPU sits among threads, cores, dies and packages, and which APIC id follows from that. Pure.
//!
//! ```text
//! APIC id:  | package | die | core | thread |      each field just wide enough for what it counts
//! ```
//!
//! vCPUs take the places in order, threads first. Where a level has no power of two of members, ids have gaps: leaves
//! of CPUID tell widths of fields, and every reader cuts ids by them (Intel SDM volume 3 §9.9.3, AMD APM volume 3
//! appendix E.4.7).

use thiserror::Error;
use vm_model::{CpuSpec, CpuTopology};

/// The highest APIC id: 255 means "all" (Intel SDM volume 3 §11.6.2.1).
const HIGHEST_APIC_ID: u32 = 254;

/// Why vCPUs cannot be arranged as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// There is no place for all of them, or none at all.
    #[error("a processor topology of {places} places cannot hold {vcpus} vCPUs")]
    TooSmall {
        /// vCPUs at boot.
        vcpus: u8,
        /// What the levels multiply to.
        places: u32,
    },
    /// Ids would not fit.
    #[error("a processor topology whose last APIC id is {last} is not possible: at most {most} is accepted")]
    ApicIds {
        /// The id of the last place.
        last: u32,
        /// The highest possible one.
        most: u32,
    },
}

/// Places for vCPUs, each level with at least one member and every APIC id at most 254.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Topology {
    threads: u8,
    cores: u8,
    dies: u8,
}

/// Where one vCPU sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of its core.
    pub(crate) thread: u32,
    /// Of its die.
    pub(crate) core: u32,
    /// Of its package.
    pub(crate) die: u32,
    /// Of the machine.
    pub(crate) package: u32,
}

impl Topology {
    /// Arranges the vCPUs of `cpus`.
    ///
    /// # Errors
    /// See [`TopologyError`].
    pub(crate) fn of(cpus: &CpuSpec) -> Result<Self, TopologyError> {
        let flat = CpuTopology {
            threads_per_core: 1,
            cores_per_die: cpus.boot_vcpus,
            dies_per_package: 1,
            packages: 1,
        };
        let levels = cpus.topology.unwrap_or(flat);
        let (vcpus, places) = (cpus.boot_vcpus, levels.places());
        if places == 0 || u32::from(vcpus) > places {
            return Err(TopologyError::TooSmall { vcpus, places });
        }
        let topology = Self {
            threads: levels.threads_per_core,
            cores: levels.cores_per_die,
            dies: levels.dies_per_package,
        };
        let last = topology.wide_apic_id(places - 1);
        if last > HIGHEST_APIC_ID {
            return Err(TopologyError::ApicIds { last, most: HIGHEST_APIC_ID });
        }
        Ok(topology)
    }

    /// Threads of a core.
    pub(crate) fn threads_per_core(&self) -> u32 {
        u32::from(self.threads)
    }

    /// Threads of a die.
    pub(crate) fn threads_per_die(&self) -> u32 {
        self.threads_per_core() * u32::from(self.cores)
    }

    /// Threads of a package.
    pub(crate) fn threads_per_package(&self) -> u32 {
        self.threads_per_die() * self.dies_per_package()
    }

    /// Cores of a die.
    pub(crate) fn cores_per_die(&self) -> u32 {
        u32::from(self.cores)
    }

    /// Dies of a package.
    pub(crate) fn dies_per_package(&self) -> u32 {
        u32::from(self.dies)
    }

    /// Low bits of an APIC id that tell threads of a core apart.
    pub(crate) fn core_shift(&self) -> u32 {
        width(self.threads)
    }

    /// Low bits of an APIC id that tell threads of a die apart.
    pub(crate) fn die_shift(&self) -> u32 {
        self.core_shift() + width(self.cores)
    }

    /// Low bits of an APIC id that tell threads of a package apart.
    pub(crate) fn package_shift(&self) -> u32 {
        self.die_shift() + width(self.dies)
    }

    /// Where vCPU `index` sits.
    pub(crate) fn place(&self, index: u8) -> Place {
        self.wide_place(u32::from(index))
    }

    /// The APIC id of vCPU `index`, which grows with it and is 0 for the first.
    pub(crate) fn apic_id(&self, index: u8) -> u8 {
        u8::try_from(self.wide_apic_id(u32::from(index))).unwrap_or(u8::MAX)
    }

    fn wide_place(&self, index: u32) -> Place {
        Place {
            thread: index % self.threads_per_core(),
            core: index / self.threads_per_core() % self.cores_per_die(),
            die: index / self.threads_per_die() % self.dies_per_package(),
            package: index / self.threads_per_package(),
        }
    }

    fn wide_apic_id(&self, index: u32) -> u32 {
        let Place { thread, core, die, package } = self.wide_place(index);
        // At most eight bits each.
        package << self.package_shift() | die << self.die_shift() | core << self.core_shift() | thread
    }
}

/// Bits that tell `count` members apart.
fn width(count: u8) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// vCPUs and a topology with a place for each, as configurations can ask for.
    pub(crate) fn any_cpus() -> impl Strategy<Value = CpuSpec> {
        let level = 1_u8..=64;
        (level.clone(), level.clone(), level.clone(), level, any::<u8>()).prop_map(
            |(threads, cores, dies, packages, vcpus)| {
                let cores = cores.min(64 / threads);
                let dies = dies.min(64 / threads / cores);
                let packages = packages.min(64 / threads / cores / dies);
                let topology = CpuTopology {
                    threads_per_core: threads,
                    cores_per_die: cores,
                    dies_per_package: dies,
                    packages,
                };
                let vcpus = 1 + vcpus % (threads * cores * dies * packages);
                CpuSpec { topology: Some(topology), ..CpuSpec::of(vcpus) }
            },
        )
    }

    fn topology(levels: [u8; 4]) -> Option<CpuTopology> {
        let [threads_per_core, cores_per_die, dies_per_package, packages] = levels;
        Some(CpuTopology { threads_per_core, cores_per_die, dies_per_package, packages })
    }

    #[test]
    fn fields_of_ids_are_powers_of_two_wide() {
        let cpus = CpuSpec { topology: topology([2, 3, 1, 2]), ..CpuSpec::of(12) };
        let arranged = Topology::of(&cpus).unwrap();
        let ids: Vec<u8> = (0..12).map(|index| arranged.apic_id(index)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
        assert_eq!(arranged.place(11), Place { thread: 1, core: 2, die: 0, package: 1 });
    }

    #[test]
    fn what_cannot_be_numbered_is_refused() {
        let refused = |levels, vcpus| {
            let cpus = CpuSpec { topology: topology(levels), ..CpuSpec::of(vcpus) };
            Topology::of(&cpus).unwrap_err().to_string()
        };
        assert_eq!(refused([2, 0, 1, 1], 1), "a processor topology of 0 places cannot hold 1 vCPUs");
        assert_eq!(refused([2, 2, 1, 1], 5), "a processor topology of 4 places cannot hold 5 vCPUs");
        let text = "a processor topology whose last APIC id is 258 is not possible: at most 254 is accepted";
        assert_eq!(refused([3, 1, 1, 65], 1), text);
        assert!(refused([255; 4], 255).contains("last APIC id"));
        let flat = Topology::of(&CpuSpec::of(255)).unwrap();
        assert_eq!(flat.apic_id(254), 254);
    }

    proptest! {
        #[test]
        fn ids_say_where_a_vcpu_sits(cpus in any_cpus()) {
            let topology = Topology::of(&cpus).expect("64 places can always be numbered");
            let mut last = None;
            for index in 0..cpus.boot_vcpus {
                let (id, place) = (u32::from(topology.apic_id(index)), topology.place(index));
                prop_assert!(last < Some(id), "ids grow");
                last = Some(id);
                prop_assert_eq!(id & ((1 << topology.core_shift()) - 1), place.thread);
                prop_assert_eq!((id & ((1 << topology.die_shift()) - 1)) >> topology.core_shift(), place.core);
                prop_assert_eq!((id & ((1 << topology.package_shift()) - 1)) >> topology.die_shift(), place.die);
                prop_assert_eq!(id >> topology.package_shift(), place.package);
            }
        }

        #[test]
        fn no_topology_makes_it_panic(levels in any::<[u8; 4]>(), vcpus in any::<u8>()) {
            if let Ok(topology) = Topology::of(&CpuSpec { topology: self::topology(levels), ..CpuSpec::of(vcpus) }) {
                prop_assert!(topology.apic_id(vcpus.max(1) - 1) < 255);
            }
        }
    }
}
