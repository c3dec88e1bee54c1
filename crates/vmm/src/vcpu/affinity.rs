//! Which host CPUs the thread of each vCPU may run on: decided from what the host has when the machine is built, applied
//! by each thread to itself before it first enters the guest.

use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use thiserror::Error;
use vm_model::VcpuAffinity;

/// Where the kernel lists the CPUs that are switched on.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Why vCPUs cannot run where they are meant to.
#[derive(Debug, Error)]
pub enum AffinityError {
    /// The host does not say which CPUs may be used.
    #[error("the host CPUs that this process may use are unknown")]
    Unknown(#[source] io::Error),
    /// A vCPU that may run nowhere.
    #[error("vCPU {vcpu} is left no host CPU to run on: at least one is accepted")]
    Nowhere {
        /// The vCPU.
        vcpu: u8,
    },
    /// The host lacks a CPU.
    #[error("vCPU {vcpu} cannot run on host CPU {cpu}: this host has no such CPU online")]
    Absent {
        /// The vCPU.
        vcpu: u8,
        /// The host CPU.
        cpu: u16,
    },
    /// The host keeps a CPU from this process.
    #[error("vCPU {vcpu} cannot run on host CPU {cpu}: this process may not use it")]
    NotAllowed {
        /// The vCPU.
        vcpu: u8,
        /// The host CPU.
        cpu: u16,
    },
}

/// The CPUs of a host as this thread sees them.
#[derive(Debug)]
struct HostCpus {
    /// The CPUs that this thread, and the threads it starts, may run on.
    allowed: CpuSet,
    /// The CPUs that are online; `None` where the host does not say.
    online: Option<CpuSet>,
}

/// Where each vCPU may run, by index; `None` is anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Affinity(Vec<Option<CpuSet>>);

impl Affinity {
    /// Checks `wanted` against this host's CPUs, for a machine of `vcpus`. Reads nothing of the host where it is empty.
    ///
    /// # Errors
    /// See [`AffinityError`].
    pub(crate) fn on_this_host(wanted: &[VcpuAffinity], vcpus: u8) -> Result<Self, AffinityError> {
        if wanted.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let allowed = sched_getaffinity(None).map_err(|error| AffinityError::Unknown(error.into()))?;
        let online = fs::read_to_string(ONLINE).ok().and_then(|text| parse_list(&text));
        Self::plan(wanted, vcpus, &HostCpus { allowed, online })
    }

    fn plan(wanted: &[VcpuAffinity], vcpus: u8, host: &HostCpus) -> Result<Self, AffinityError> {
        let mut sets = vec![None; usize::from(vcpus)];
        for VcpuAffinity { vcpu, host_cpus } in wanted {
            let vcpu = *vcpu;
            let Some(set) = sets.get_mut(usize::from(vcpu)) else { continue };
            if host_cpus.is_empty() {
                return Err(AffinityError::Nowhere { vcpu });
            }
            let set: &mut CpuSet = set.get_or_insert_default();
            for cpu in host_cpus.iter().copied() {
                let number = usize::from(cpu);
                let is_on = host.online.as_ref().is_none_or(|online| contains(online, number));
                if number >= CpuSet::MAX_CPU || !is_on {
                    return Err(AffinityError::Absent { vcpu, cpu });
                }
                if !host.allowed.is_set(number) {
                    return Err(AffinityError::NotAllowed { vcpu, cpu });
                }
                set.set(number);
            }
        }
        Ok(Self(sets))
    }

    /// Keeps the calling thread to the host CPUs of vCPU `index`.
    ///
    /// # Errors
    /// The host takes none of them any more.
    pub(super) fn apply(&self, index: u8) -> io::Result<()> {
        match self.0.get(usize::from(index)) {
            Some(Some(set)) => Ok(sched_setaffinity(None, set)?),
            Some(None) | None => Ok(()),
        }
    }
}

fn contains(set: &CpuSet, number: usize) -> bool {
    number < CpuSet::MAX_CPU && set.is_set(number)
}

/// The CPUs of a list like `0-3,8` (Linux `Documentation/admin-guide/cputopology.rst`), those that a set can hold.
fn parse_list(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        for number in first..=last.min(CpuSet::MAX_CPU - 1) {
            set.set(number);
        }
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(numbers: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        numbers.iter().for_each(|number| set.set(*number));
        set
    }

    fn host() -> HostCpus {
        HostCpus { allowed: set(&[0, 1, 5]), online: Some(set(&[0, 1, 2, 5])) }
    }

    fn wanted(vcpu: u8, host_cpus: &[u16]) -> VcpuAffinity {
        VcpuAffinity { vcpu, host_cpus: host_cpus.to_vec() }
    }

    #[test]
    fn each_vcpu_gets_its_set_and_the_rest_run_anywhere() {
        let entries = [wanted(2, &[0, 5]), wanted(9, &[77])];
        let planned = Affinity::plan(&entries, 4, &host()).unwrap();
        assert_eq!(planned, Affinity(vec![None, None, Some(set(&[0, 5])), None]));
    }

    #[test]
    fn refusals_name_vcpu_and_cpu() {
        let refused = |entry| Affinity::plan(&[entry], 4, &host()).unwrap_err().to_string();
        let absent = "vCPU 1 cannot run on host CPU 7: this host has no such CPU online";
        assert_eq!(refused(wanted(1, &[0, 7])), absent);
        assert_eq!(refused(wanted(1, &[u16::MAX])), absent.replace('7', "65535"));
        let kept = "vCPU 3 cannot run on host CPU 2: this process may not use it";
        assert_eq!(refused(wanted(3, &[2])), kept);
        assert_eq!(refused(wanted(0, &[])), "vCPU 0 is left no host CPU to run on: at least one is accepted");
    }

    #[test]
    fn the_kernels_lists_are_read() {
        assert_eq!(parse_list("0-2,5\n"), Some(set(&[0, 1, 2, 5])));
        assert_eq!(parse_list("1022-99999\n"), Some(set(&[1022, 1023])));
        assert_eq!(parse_list("\n"), Some(CpuSet::new()));
        assert_eq!(parse_list("all"), None);
    }

    proptest! {
        #[test]
        fn nothing_is_planned_that_the_host_keeps_to_itself(
            entries in proptest::collection::vec(
                (any::<u8>(), proptest::collection::vec(prop_oneof![0_u16..8, any::<u16>()], 0..4)), 0..6),
            vcpus in any::<u8>(),
        ) {
            let entries: Vec<_> = entries.iter().map(|(vcpu, cpus)| wanted(*vcpu, cpus)).collect();
            if let Ok(Affinity(sets)) = Affinity::plan(&entries, vcpus, &host()) {
                for set in sets.into_iter().flatten() {
                    prop_assert!(set.count() > 0);
                    prop_assert!((0..CpuSet::MAX_CPU).all(|cpu| !set.is_set(cpu) || host().allowed.is_set(cpu)));
                }
            }
        }
    }
}
