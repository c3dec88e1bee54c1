//! What keeps guests and images in check and is not there: by the settings, by what this host lacks, or because a process of an
//! earlier worker has less of it.

use machine_host::HostingProcess;
use vm_model::VmId;

use super::{HashVerification, Placement, VmManager, VmManagerConfig, some_of};
use crate::supervisor::unenforced;

const UNVERIFIED: &str = "hash_verification is \"never\": artifacts run as they lie on the disk, whatever hash they were assigned with";
const NOT_JAILED: &str =
    "jail is \"off\": a guest that breaks out of its machine has the rights of the worker";
const IN_THE_WORKER: &str = "vms_per_host_process is 0: VMs run in the worker's own process, in no jail and without filters of system calls, but \
                             for those that are isolated strictly";

impl VmManagerConfig {
    /// What is so for each VM by a setting that takes a safeguard away, a sentence each.
    pub fn safeguards_off(&self) -> Vec<String> {
        let unverified = match self.hash_verification {
            HashVerification::Never => Some(UNVERIFIED),
            HashVerification::Once | HashVerification::Always => None,
        };
        let (in_the_worker, processes) = match &self.placement {
            // Whoever embeds this library has its VMs in his program.
            Placement::InThisProcess => (None, None),
            Placement::StrictApart(settings) => (Some(IN_THE_WORKER), Some(settings)),
            Placement::HostProcesses(settings) => (None, Some(settings)),
        };
        let not_jailed = processes.filter(|settings| settings.jail.is_none()).map(|_| NOT_JAILED);
        [unverified, in_the_worker, not_jailed].into_iter().flatten().map(str::to_owned).collect()
    }
}

impl VmManager {
    /// What is not in force of all that keeps VMs in check, a sentence each.
    pub fn safeguards_off(&self) -> Vec<String> {
        let context = &self.shared.context;
        let counts = context.machines.counts();
        let vms = self.list_vms();
        let process_of = |id: &VmId| Some((id.clone(), context.machines.process_of(id)?));
        let hosted: Vec<_> = vms.iter().filter_map(|vm| process_of(&vm.id)).collect();
        let mut told = self.shared.config.safeguards_off();
        told.extend(unjailed(&hosted, counts.unjailed));
        told.extend(unfiltered(hosted, counts.unfiltered));
        told.extend(context.jail_gaps.iter().cloned());
        told.extend(unenforced(vms.iter()));
        told
    }
}

/// That `count` of the VMs that are `hosted` are in no jail, although those of new processes are.
fn unjailed(hosted: &[(VmId, HostingProcess)], count: usize) -> Option<String> {
    let unjailed = hosted.iter().filter(|(_, process)| process.jail.is_none()).take(count);
    let names: Vec<&str> = unjailed.map(|(id, _)| id.as_str()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "VMs run in processes of an earlier worker, which are in no jail until the VMs are started anew: {}",
            some_of(&names)
        )
    })
}

/// That the system calls of `count` of the VMs that are `hosted` are filtered less than those of new processes.
fn unfiltered(mut hosted: Vec<(VmId, HostingProcess)>, count: usize) -> Option<String> {
    // Those that fall short are filtered less than each that does not.
    hosted.sort_by_key(|(_, process)| process.filter);
    let names: Vec<&str> = hosted.iter().take(count).map(|(id, _)| id.as_str()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "VMs run in processes of an earlier worker, whose system calls are filtered less than is set now, until the VMs are \
             started anew: {}",
            some_of(&names)
        )
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::path::PathBuf;

    use machine_host::{CallFilter, ProcessJail};

    use super::super::HostProcessSettings;
    use super::*;

    #[test]
    fn each_safeguard_that_the_settings_take_away_is_told() {
        let told = |place: fn(HostProcessSettings) -> Placement| {
            let settings = HostProcessSettings {
                program: Vec::new(),
                directory: PathBuf::new(),
                vms_per_process: NonZeroUsize::MIN,
                spare: 0,
                jail: None,
            };
            let hash_verification = HashVerification::Never;
            let placement = place(settings);
            VmManagerConfig { placement, hash_verification, ..VmManagerConfig::default() }.safeguards_off()
        };
        assert_eq!(told(Placement::HostProcesses), [UNVERIFIED, NOT_JAILED]);
        assert_eq!(told(Placement::StrictApart), [UNVERIFIED, IN_THE_WORKER, NOT_JAILED]);
        assert_eq!(VmManagerConfig::default().safeguards_off(), [""; 0]);
    }

    #[test]
    fn vms_that_an_earlier_worker_left_with_less_are_named() {
        let process = |id: &str, jail, filter| (VmId::new(id), HostingProcess { pid: 1, jail, filter });
        let hosted = [
            process("new", Some(ProcessJail::default()), CallFilter::Trap),
            process("old", None, CallFilter::Log),
            process("older", None, CallFilter::Off),
        ];
        let told = unjailed(&hosted, 2).expect("two are in no jail");
        assert!(told.ends_with("are in no jail until the VMs are started anew: old, older"), "{told}");
        assert_eq!(unjailed(&hosted, 0), None, "nobody is to be in one");
        let told = |count| unfiltered(hosted.to_vec(), count);
        assert!(told(1).is_some_and(|told| told.ends_with("started anew: older")), "{:?}", told(1));
        assert!(told(2).is_some_and(|told| told.ends_with("started anew: older, old")), "{:?}", told(2));
        assert_eq!(told(0), None);
    }
}
