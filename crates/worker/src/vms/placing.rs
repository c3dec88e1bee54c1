//! What runs the VMs' machines: threads of this process, processes of their own, or both, as the settings say.

use std::io;
use std::sync::Arc;

use console_log::ConsoleDirectory;
use host_process::{Groups, HostProcessOptions, HostProcesses, JailDemand, JailError, probe_jail};
use hypervisor::Hypervisor;
use jail::Gap;
use machine_host::{Enforcement, MachineHost};
use tracing::{info, warn};
use vm_model::{Bytes, Footprint, MEMORY_LEAST, MemoryBacking, MemorySpec, ResourceLimits};
use vmm_host::{HostOptions, VmmHost};

use super::split_host::SplitHost;
use super::{HostProcessSettings, LimitSettings, MemoryLimit, Placement, VmManagerConfig, VmManagerError};
use crate::failure::chain;
use crate::records::console_directory;

/// What runs the VMs' machines.
pub(super) fn machine_host(
    config: &VmManagerConfig,
    hypervisor: Hypervisor,
) -> Result<Arc<dyn MachineHost>, VmManagerError> {
    let in_this_process = || {
        let host = VmmHost::new(hypervisor, HostOptions::default());
        host.map_err(|problem| VmManagerError::Threads(io::Error::other(problem)))
    };
    Ok(match &config.placement {
        Placement::InThisProcess => Arc::new(in_this_process()?),
        Placement::StrictApart(settings) => {
            Arc::new(SplitHost::new(in_this_process()?, host_processes(config, settings)?))
        }
        Placement::HostProcesses(settings) => Arc::new(host_processes(config, settings)?),
    })
}

/// What jails of host processes lack on this host, a sentence each. Nothing where they are to have none.
///
/// # Errors
/// Whole jails are required, and they would not be.
pub(super) async fn jail_gaps(config: &VmManagerConfig) -> Result<Vec<String>, VmManagerError> {
    let (Placement::StrictApart(settings) | Placement::HostProcesses(settings)) = &config.placement else {
        return Ok(Vec::new());
    };
    let Some(jail) = settings.jail else { return Ok(Vec::new()) };
    let program = settings.program.clone();
    let probing = tokio::task::spawn_blocking(move || probe_jail(&program, jail));
    let problem = match probing.await.map_err(VmManagerError::TaskLost)? {
        Ok(report) => {
            for addition in report.additions() {
                info!(%addition, "a newer kernel would add to the jail of host processes");
            }
            let hole = |gap: &Gap| format!("host processes run without a layer of their jail: {gap}");
            return Ok(report.holes().map(hole).collect());
        }
        Err(problem) => problem,
    };
    match jail.demand {
        JailDemand::Whole => Err(VmManagerError::Jail(Box::new(problem))),
        JailDemand::WhatTheHostHas => Ok(vec![unknown_jail(&problem)]),
    }
}

/// What of `limits` a worker with this `placement` could not put in force on this host, and why. Makes nothing.
pub(super) fn limits_gap(placement: &Placement, limits: &ResourceLimits) -> Option<String> {
    match placement {
        Placement::InThisProcess => {
            (!limits.is_empty()).then(|| "VMs have no processes of their own".to_owned())
        }
        Placement::StrictApart(settings) | Placement::HostProcesses(settings) => {
            Groups::foresee(limits, settings.jail.is_some())
        }
    }
}

/// What of the limits that the settings `config` speak of cannot be put in force on this host, in a sentence for operators.
pub(super) fn foresee_limits(config: &VmManagerConfig) -> Option<String> {
    let LimitSettings { defaults, memory, enforcement } = config.limits;
    let most = Bytes::new(u64::MAX);
    let memory_max = (memory == MemoryLimit::Computed).then_some(most);
    let of_every_vm = ResourceLimits { memory_max, ..defaults };
    let any = ResourceLimits {
        cpu_weight: Some(1),
        memory_max: Some(most),
        io_weight: Some(1),
        processes: Some(u32::MAX),
        ..ResourceLimits::default()
    };
    match enforcement {
        Enforcement::Required => limits_gap(&config.placement, &any).map(|problem| {
            format!("limits.enforcement is \"required\", and VMs with limits will not start on this host: {problem}")
        }),
        Enforcement::BestEffort => limits_gap(&config.placement, &of_every_vm)
            .map(|problem| format!("limits that every VM is to have do not hold on this host: {problem}")),
    }
}

/// Which of the limits of every VM, in a sentence for operators, no machine could run within: not even one with one vCPU and no disk.
pub(super) fn foresee_tight_limits(config: &VmManagerConfig) -> Option<String> {
    let memory = MemorySpec { size: MEMORY_LEAST, backing: MemoryBacking::default(), prefault: false };
    let least = Footprint::of_memory(memory).threads;
    let limit = config.limits.defaults.processes.filter(|limit| *limit < least)?;
    Some(format!(
        "limits.processes = {limit}: the smallest machine has {least} threads, so no VM will start whose definition does not say \
         another limit"
    ))
}

fn unknown_jail(problem: &JailError) -> String {
    format!("whether host processes are jailed is not known: {}", chain(problem))
}

fn host_processes(
    config: &VmManagerConfig,
    settings: &HostProcessSettings,
) -> Result<HostProcesses, VmManagerError> {
    let (vms, limits) = (config.vm_artifacts_dir.clone(), HostOptions::default());
    let placement = host_process::Placement::observe(config.stop_timeout);
    let groups = Groups::observe(&placement);
    info!(?placement, "host processes");
    if let Groups::Unavailable(problem) = &groups {
        warn!(problem, "limits of VMs cannot be enforced on this host");
    }
    let host = HostProcesses::new(HostProcessOptions {
        program: settings.program.clone(),
        directory: settings.directory.clone(),
        machines_per_process: settings.vms_per_process,
        spare: settings.spare,
        placement,
        jail: settings.jail,
        groups,
        launch_deadline: limits.launch_deadline,
        command_deadline: limits.command_deadline,
        consoles: Arc::new(move |vm| {
            Arc::new(ConsoleDirectory::at(console_directory(&vms.join(vm.as_str()))))
        }),
    });
    host.map_err(|problem| VmManagerError::HostProcesses(Box::new(problem)))
}

#[cfg(test)]
mod tests {
    use vm_model::Cores;

    use super::*;

    #[test]
    fn limits_that_cannot_hold_are_foreseen() {
        let foreseen = |defaults, memory, enforcement| {
            let limits = LimitSettings { defaults, memory, enforcement };
            let placement = Placement::InThisProcess;
            foresee_limits(&VmManagerConfig { limits, placement, ..VmManagerConfig::default() })
        };
        let (none, best_effort) = (ResourceLimits::default(), Enforcement::BestEffort);
        assert_eq!(foreseen(none, MemoryLimit::Off, best_effort), None, "nothing is limited");
        let cpu = ResourceLimits { cpu: Cores::from_thousandths(500), ..none };
        for (defaults, memory) in [(cpu, MemoryLimit::Off), (none, MemoryLimit::Computed)] {
            let told = foreseen(defaults, memory, best_effort).expect("it is limited");
            assert_eq!(
                told,
                "limits that every VM is to have do not hold on this host: VMs have no processes of their own"
            );
        }
        let told = foreseen(none, MemoryLimit::Off, Enforcement::Required).expect("a VM may have limits");
        insta::assert_snapshot!(told, @r#"limits.enforcement is "required", and VMs with limits will not start on this host: VMs have no processes of their own"#);
    }

    #[test]
    fn a_limit_that_no_machine_could_run_within_is_told() {
        let foreseen = |processes| {
            let defaults = ResourceLimits { processes: Some(processes), ..ResourceLimits::default() };
            let limits = LimitSettings { defaults, ..LimitSettings::default() };
            foresee_tight_limits(&VmManagerConfig { limits, ..VmManagerConfig::default() })
        };
        insta::assert_snapshot!(foreseen(8).expect("it is too tight"), @"limits.processes = 8: the smallest machine has 9 threads, so no VM will start whose definition does not say another limit");
        assert_eq!(foreseen(9), None);
    }
}
