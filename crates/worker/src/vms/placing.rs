//! What runs the VMs' machines: threads of this process, processes of their own, or both, as the settings say.

use std::io;
use std::sync::Arc;

use console_log::ConsoleDirectory;
use host_process::{Groups, HostProcessOptions, HostProcesses, JailDemand, JailError, probe_jail};
use hypervisor::Hypervisor;
use jail::Gap;
use machine_host::MachineHost;
use tracing::{info, warn};
use vmm_host::{HostOptions, VmmHost};

use super::split_host::SplitHost;
use super::{HostProcessSettings, Placement, VmManagerConfig, VmManagerError};
use crate::failure::chain;
use crate::records::console_directory;

/// What is so while processes are not jailed.
const NOT_JAILED: &str =
    "jail is \"off\": a guest that breaks out of its machine has the rights of the worker";

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

/// What jails of host processes lack on this host, a sentence each.
///
/// # Errors
/// Whole jails are required, and they would not be.
pub(super) async fn jail_gaps(config: &VmManagerConfig) -> Result<Vec<String>, VmManagerError> {
    let (Placement::StrictApart(settings) | Placement::HostProcesses(settings)) = &config.placement else {
        return Ok(Vec::new());
    };
    let Some(jail) = settings.jail else { return Ok(vec![NOT_JAILED.to_owned()]) };
    let program = settings.program.clone();
    let probing = tokio::task::spawn_blocking(move || probe_jail(&program, jail));
    let problem = match probing.await.map_err(VmManagerError::TaskLost)? {
        Ok(report) => {
            let gap = |gap: &Gap| format!("host processes run without a layer of their jail: {gap}");
            return Ok(report.gaps.iter().map(gap).collect());
        }
        Err(problem) => problem,
    };
    match jail.demand {
        JailDemand::Whole => Err(VmManagerError::Jail(Box::new(problem))),
        JailDemand::WhatTheHostHas => Ok(vec![unknown_jail(&problem)]),
    }
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
