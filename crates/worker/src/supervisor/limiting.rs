//! What a VM may take of its host: by its definition, else by the worker's settings; memory by what its machine is made of.

use machine_host::{Enforcement, MachineLimits};
use nix_artifacts::ProcuratorSettings;
use tracing::{info, warn};
use vm_model::{
    Bytes, FailureKind, FailureReason, Footprint, Isolation, MachineShape, ResourceLimits, VmInfo,
};

use super::context::HostContext;
use super::task::Task;
use crate::definition::Description;
use crate::failure::plain;
use crate::vms::{LimitSettings, MemoryLimit, some_of};

/// The least room for pages of files beyond what a machine needs, and how large a part of its memory it is otherwise.
const LEAST_ROOM: Bytes = Bytes::from_mib(64);
const ROOM_PART: u64 = 8;
/// What a warning of limits that do not hold begins with.
const PREFIX: &str = "its limits: ";
/// What a warning of a limit begins with that holds and is tight.
const TIGHT: &str = "its limit of memory is tight: ";

/// The limits of a machine.
pub(super) fn limits_of(settings: &LimitSettings, description: &Description) -> ResourceLimits {
    resolve(settings, &description.limits, &description.machine.footprint())
}

fn resolve(settings: &LimitSettings, said: &ResourceLimits, footprint: &Footprint) -> ResourceLimits {
    let limits = said.or(settings.defaults);
    let computed = match settings.memory {
        MemoryLimit::Off => None,
        MemoryLimit::Computed => Some(computed_memory(footprint)),
    };
    ResourceLimits { memory_max: limits.memory_max.or(computed), ..limits }
}

/// What a machine can need, with room for pages of files.
fn computed_memory(footprint: &Footprint) -> Bytes {
    let needed = footprint.ordinary_memory().get();
    Bytes::new(needed.saturating_add((needed / ROOM_PART).max(LEAST_ROOM.get())))
}

/// What a host is told of a machine's limits; `shape` says where its disks lie.
pub(super) fn machine_limits(
    settings: &LimitSettings,
    description: &Description,
    footprint: &Footprint,
    shape: &MachineShape,
) -> MachineLimits {
    MachineLimits {
        values: resolve(settings, &description.limits, footprint),
        disks: shape.disks.iter().map(|disk| disk.path.clone()).collect(),
        enforcement: settings.enforcement,
    }
}

/// Whether a VM may share a process: one that is limited cannot, because what limits a process limits all in it.
pub(super) fn isolation(context: &HostContext, settings: &ProcuratorSettings) -> Isolation {
    let LimitSettings { defaults, memory, .. } = context.limits;
    let is_limited = memory == MemoryLimit::Computed || !settings.limits.or(defaults).is_empty();
    if is_limited && context.machines.isolates() { Isolation::Strict } else { settings.isolation }
}

/// Holds what a VM says of its limits against what its machine needs and what this host can enforce. Answers what is to be
/// said of it.
///
/// # Errors
/// The machine could not run so, or limits are required that cannot be enforced.
pub(super) fn check_limits(
    context: &HostContext,
    said: &ResourceLimits,
    footprint: &Footprint,
) -> Result<Vec<String>, FailureReason> {
    judge_limits(&context.limits, said, footprint, |limits| context.machines.cannot_limit(limits))
}

/// As [`check_limits`], on a host that `cannot` enforce something, by what it answers to limits.
///
/// # Errors
/// See there.
pub(crate) fn judge_limits(
    settings: &LimitSettings,
    said: &ResourceLimits,
    footprint: &Footprint,
    cannot: impl FnOnce(&ResourceLimits) -> Option<String>,
) -> Result<Vec<String>, FailureReason> {
    let limits = resolve(settings, said, footprint);
    let mut warnings = fits(said, &limits, footprint)?;
    let Some(problem) = cannot(&limits) else { return Ok(warnings) };
    match settings.enforcement {
        Enforcement::Required => Err(plain(
            FailureKind::Host,
            format!(
                "its limits ({limits}) cannot be enforced, and limits.enforcement is \"required\": {problem}"
            ),
        )),
        Enforcement::BestEffort => {
            warnings.push(format!("{PREFIX}not all of {limits} is enforced: {problem}"));
            Ok(warnings)
        }
    }
}

/// Whether a machine could run within `limits`, of which its VM has `said` some itself, and what of them is tight.
fn fits(
    said: &ResourceLimits,
    limits: &ResourceLimits,
    footprint: &Footprint,
) -> Result<Vec<String>, FailureReason> {
    let least = [
        ("processes", said.processes, limits.processes, footprint.threads, "threads"),
        ("descriptors", said.descriptors, limits.descriptors, footprint.descriptors, "open files"),
    ];
    for (name, said, limit, needed, what) in least {
        if let Some(limit) = limit.filter(|limit| *limit < needed) {
            // What the worker was told is no fault of the VM's definition.
            let (kind, whose) = match said {
                Some(_) => (FailureKind::Artifact, "procurator.limits"),
                None => (FailureKind::Host, "the worker's setting limits"),
            };
            let problem = format!(
                "{whose}.{name} is {limit}, and the machine has up to {needed} {what}; accepted is {needed} or more"
            );
            return Err(plain(kind, problem));
        }
    }
    let needed = footprint.ordinary_memory();
    let tight = limits.memory_max.filter(|limit| *limit < needed);
    let warning = tight.map(|limit| {
        format!(
            "{TIGHT}memory_max is {limit}, and the machine can come to need {} MiB: it is ended where it does",
            needed.get().div_ceil(1 << 20)
        )
    });
    Ok(warning.into_iter().collect())
}

/// That limits of some of `vms` are not in force, in a sentence.
pub(crate) fn unenforced<'a>(vms: impl Iterator<Item = &'a VmInfo>) -> Option<String> {
    let is_unlimited = |vm: &&VmInfo| vm.warnings.iter().any(|warning| warning.starts_with(PREFIX));
    let names: Vec<&str> = vms.filter(is_unlimited).map(|vm| vm.id.as_str()).collect();
    (!names.is_empty()).then(|| {
        format!("limits of VMs do not hold as they are, which `inspect` explains: {}", some_of(&names))
    })
}

impl Task {
    /// Puts the limits of `description` on the machine that runs, and says of its VM what could not be done.
    pub(super) async fn limit_anew(&mut self, description: &Description) {
        let footprint = description.machine.footprint();
        let limits = {
            let info = self.info.borrow();
            let Some(shape) = &info.machine else { return };
            machine_limits(&self.context.limits, description, &footprint, shape)
        };
        let tight = fits(&description.limits, &limits.values, &footprint).unwrap_or_default();
        let (values, words) = (limits.values, limits.values.to_string());
        let problems = self.context.machines.limit(&self.id, limits).await;
        if problems.is_empty() {
            info!(vm_id = %self.id, limits = words, "the VM is limited anew");
        } else {
            warn!(vm_id = %self.id, limits = words, problems = problems.join("; "), "not every limit of the VM is in force");
        }
        self.info.send_modify(|info| {
            info.limits = values;
            info.warnings.retain(|warning| !warning.starts_with(PREFIX) && !warning.starts_with(TIGHT));
            info.warnings.extend(tight);
            info.warnings.extend(problems.iter().map(|problem| format!("{PREFIX}{problem}")));
        });
    }
}

#[cfg(test)]
mod tests {
    use vm_model::{Cores, MemoryBacking, MemorySpec};

    use super::*;

    fn footprint(mib: u64) -> Footprint {
        let memory =
            MemorySpec { size: Bytes::from_mib(mib), backing: MemoryBacking::SharedMemfd, prefault: false };
        Footprint { memory, overhead: Bytes::from_mib(16), threads: 12, descriptors: 70, vcpus: 1 }
    }

    #[test]
    fn a_definition_goes_before_the_settings_and_memory_is_computed_last() {
        let settings = LimitSettings {
            defaults: ResourceLimits { cpu_weight: Some(50), ..ResourceLimits::default() },
            memory: MemoryLimit::Computed,
            ..LimitSettings::default()
        };
        let said = ResourceLimits { cpu: Cores::from_thousandths(500), ..ResourceLimits::default() };
        let resolved = resolve(&settings, &said, &footprint(496));
        assert_eq!(resolved.to_string(), "cpu 0.5, cpu_weight 50, memory_max 576 MiB");
        assert_eq!(resolve(&settings, &said, &footprint(8176)).memory_max, Some(Bytes::from_mib(9216)));
        let said = ResourceLimits { memory_max: Some(Bytes::from_mib(100)), ..said };
        assert_eq!(resolve(&settings, &said, &footprint(496)).memory_max, said.memory_max);
        assert!(resolve(&LimitSettings::default(), &ResourceLimits::default(), &footprint(1)).is_empty());
    }

    #[test]
    fn limits_that_no_machine_could_run_in_are_refused_by_name() {
        let said =
            |processes, descriptors| ResourceLimits { processes, descriptors, ..ResourceLimits::default() };
        let by_kind = |refused: FailureReason| format!("{}: {refused}", refused.kind);
        let fits = |said: &ResourceLimits, limits: &ResourceLimits| {
            super::fits(said, limits, &footprint(100)).map_err(by_kind)
        };
        let fits_itself = |said: &ResourceLimits| fits(said, said);
        assert_eq!(fits_itself(&said(Some(12), Some(70))), Ok(Vec::new()));
        let of_the_worker = fits(&said(None, None), &said(Some(11), None));
        insta::assert_snapshot!(of_the_worker.expect_err("too few"), @"host: the worker's setting limits.processes is 11, and the machine has up to 12 threads; accepted is 12 or more");
        insta::assert_snapshot!(fits_itself(&said(Some(11), None)).expect_err("too few"), @"artifact: procurator.limits.processes is 11, and the machine has up to 12 threads; accepted is 12 or more");
        insta::assert_snapshot!(fits_itself(&said(None, Some(64))).expect_err("too few"), @"artifact: procurator.limits.descriptors is 64, and the machine has up to 70 open files; accepted is 70 or more");
        let tight = ResourceLimits { memory_max: Some(Bytes::from_mib(64)), ..ResourceLimits::default() };
        let warnings = fits_itself(&tight).expect("it may do with less");
        insta::assert_snapshot!(warnings[0], @"its limit of memory is tight: memory_max is 64 MiB, and the machine can come to need 116 MiB: it is ended where it does");
    }
}
