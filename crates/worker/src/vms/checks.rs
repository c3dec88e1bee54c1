//! Which settings are refused, and why: looked at when a manager starts, and by whoever wants to know before.

use std::borrow::Cow;
use std::path::PathBuf;

use host_process::{JailDemand, JailSettings};
use nix_artifacts::StoreRoots;

use super::network_plan::plan_networks;
use super::{HostProcessSettings, MemoryOvercommit, Placement, VmManagerConfig, VmManagerError};
use crate::failure::chain;

impl VmManagerConfig {
    /// Checks the settings as a manager does that starts with them on this host. Nothing is changed.
    ///
    /// # Errors
    /// Each setting that would be refused, as [`VmManagerError::Setting`].
    pub fn check(&self) -> Result<(), Vec<VmManagerError>> {
        let problems: Vec<VmManagerError> = [
            check_directories(self).err(),
            check_numbers(self).err(),
            check_jail(self).err(),
            plan_networks(self).err(),
            store_roots(self).err(),
        ]
        .into_iter()
        .flatten()
        .collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

pub(super) fn refused(
    setting: impl Into<Cow<'static, str>>,
    value: impl Into<String>,
    expected: impl Into<String>,
) -> VmManagerError {
    VmManagerError::Setting { setting: setting.into(), value: value.into(), expected: expected.into() }
}

pub(super) fn check_directories(config: &VmManagerConfig) -> Result<(), VmManagerError> {
    let directory = &config.vm_artifacts_dir;
    if !directory.is_absolute() || directory.parent().is_none() {
        let expected = "an absolute path below another directory is accepted";
        return Err(refused("vm_artifacts_dir", directory.display().to_string(), expected));
    }
    if !config.credentials_dir.is_absolute() {
        let value = config.credentials_dir.display().to_string();
        return Err(refused("credentials_dir", value, "an absolute path is accepted"));
    }
    Ok(())
}

pub(super) fn check_numbers(config: &VmManagerConfig) -> Result<(), VmManagerError> {
    if config.metrics_poll_interval.is_zero() {
        return Err(refused("metrics_poll_interval", "0s", "a duration longer than nothing is accepted"));
    }
    if let MemoryOvercommit::Percent(percent) = config.memory_overcommit
        && !(1..=10_000).contains(&percent)
    {
        return Err(refused("memory_overcommit", format!("{percent} %"), "1 % to 10000 % is accepted"));
    }
    if config.vcpus_per_processor == 0 {
        return Err(refused("vcpus_per_processor", "0", "1 or more is accepted"));
    }
    Ok(())
}

/// Makes sure that no whole jails are required where VMs have no process that could be in one.
pub(super) fn check_jail(config: &VmManagerConfig) -> Result<(), VmManagerError> {
    let Placement::StrictApart(HostProcessSettings { jail: Some(JailSettings { demand, .. }), .. }) =
        &config.placement
    else {
        return Ok(());
    };
    match demand {
        JailDemand::WhatTheHostHas => Ok(()),
        JailDemand::Whole => {
            let expected = "vms_per_host_process = 0 runs VMs in the worker's own process, in no jail; accepted with it is \
                            \"auto\" or \"off\", or else vms_per_host_process = 1 or more";
            Err(refused("jail", "required", expected))
        }
    }
}

pub(super) fn store_roots(config: &VmManagerConfig) -> Result<StoreRoots, VmManagerError> {
    let shown = |path: &PathBuf| path.display().to_string();
    // What is fetched is put into stores that are made where nothing is.
    let is_made = |root: &&PathBuf| config.fetch.is_none() || root.exists();
    let there: Vec<PathBuf> = config.store_roots.iter().filter(is_made).cloned().collect();
    StoreRoots::open(&there).map_err(|problem| {
        let value = config.store_roots.iter().map(shown).collect::<Vec<_>>().join(":");
        refused("store_roots", value, chain(&problem))
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use jail::UserRange;

    use super::*;

    #[test]
    fn every_setting_that_a_start_would_refuse_is_named() {
        let config = VmManagerConfig {
            vm_artifacts_dir: "here".into(),
            network_bridge: "a/b".to_owned(),
            store_roots: vec!["store".into()],
            memory_overcommit: MemoryOvercommit::Percent(0),
            ..VmManagerConfig::default()
        };
        let problems = config.check().expect_err("refused");
        let named = problems.iter().map(|problem| match problem {
            VmManagerError::Setting { setting, .. } => setting.as_ref(),
            _ => panic!("{problem}"),
        });
        let named: Vec<&str> = named.collect();
        assert_eq!(named, ["vm_artifacts_dir", "memory_overcommit", "network_bridge", "store_roots"]);
        let directory = tempfile::tempdir().expect("a directory");
        let sound =
            VmManagerConfig { store_roots: vec![directory.path().to_owned()], ..VmManagerConfig::default() };
        sound.check().expect("sound");
    }

    #[test]
    fn whole_jails_cannot_be_required_of_vms_in_the_worker() {
        let directory = tempfile::tempdir().expect("a directory");
        let check = |demand, place: fn(HostProcessSettings) -> Placement| {
            let jail = JailSettings { users: UserRange::default(), demand };
            let settings = HostProcessSettings {
                program: Vec::new(),
                directory: directory.path().to_owned(),
                vms_per_process: NonZeroUsize::MIN,
                spare: 0,
                jail: Some(jail),
            };
            let store_roots = vec![directory.path().to_owned()];
            VmManagerConfig { placement: place(settings), store_roots, ..VmManagerConfig::default() }.check()
        };
        check(JailDemand::WhatTheHostHas, Placement::StrictApart).expect("as far as it goes");
        check(JailDemand::Whole, Placement::HostProcesses).expect("each has a process");
        let refused = check(JailDemand::Whole, Placement::StrictApart).expect_err("they are in no jail");
        insta::assert_snapshot!(refused[0], @r#"invalid setting jail = "required": vms_per_host_process = 0 runs VMs in the worker's own process, in no jail; accepted with it is "auto" or "off", or else vms_per_host_process = 1 or more"#);
    }
}
