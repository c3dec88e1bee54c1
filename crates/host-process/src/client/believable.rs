//! What a process says, as far as it is believed. A process that was broken into says what it likes, as long as it likes; what
//! is kept of it here ends up in records, events, metrics and on screens.
//!
//! - Texts are cut to what somebody reads, and have no control characters.
//! - Lists are no longer than machines have things of that kind.
//! - How a process ended is for those who watch it to tell, not for the process.

use jail::{Gap, JailReport};
use machine_host::{LaunchError, LaunchFailure};
use vm_model::{
    BootTrouble, DiskTrouble, MachineCounters, MachineExit, MachinePhase, MachineStatus, PCI_DEVICES_MAX,
    Reply,
};

use crate::wire::{FromHost, MachineListing, Welcome};

/// The most characters of a text: more than any that an honest process composes.
const TEXT_MAX: usize = 1024;
/// The most vCPUs of a machine: their numbers have eight bits.
const VCPUS_MAX: usize = 256;
/// The most machines of a process.
const MACHINES_MAX: usize = 4096;
/// The most layers that a jail can lack.
const GAPS_MAX: usize = 64;

/// `message`, as far as it is believed.
pub(super) fn believable(message: FromHost) -> FromHost {
    match message {
        FromHost::Welcome(said) => FromHost::Welcome(welcome(said)),
        FromHost::Launched { call, failure } => {
            FromHost::Launched { call, failure: failure.map(launch_error) }
        }
        FromHost::Reply { call, reply: said } => FromHost::Reply { call, reply: reply(said) },
        FromHost::Counters { call, counters: told } => FromHost::Counters { call, counters: counters(told) },
        FromHost::Status { vm, status: told, counters: last } => FromHost::Status {
            vm,
            status: status(told),
            counters: last.map(|last| Box::new(counters(*last))),
        },
        FromHost::Refused { reason } => FromHost::Refused { reason: text(&reason) },
        FromHost::LastWords { text: said } => FromHost::LastWords { text: text(&said) },
        message @ (FromHost::NotTaken { .. }
        | FromHost::Health { .. }
        | FromHost::Released { .. }
        | FromHost::Unknown) => message,
    }
}

fn welcome(mut said: Welcome) -> Welcome {
    said.build = text(&said.build);
    said.machines.truncate(MACHINES_MAX);
    said.jail = said.jail.map(|JailReport { user, mut gaps }| {
        gaps.truncate(GAPS_MAX);
        let gaps = gaps.into_iter().map(|gap| Gap { problem: text(&gap.problem), ..gap }).collect();
        JailReport { user, gaps }
    });
    let machines = said.machines.into_iter().map(|listing| MachineListing {
        status: status(listing.status),
        counters: listing.counters.map(|last| Box::new(counters(*last))),
        ..listing
    });
    said.machines = machines.collect();
    said
}

fn text(said: &str) -> String {
    said.chars().filter(|character| !character.is_control()).take(TEXT_MAX).collect()
}

fn status(told: MachineStatus) -> MachineStatus {
    MachineStatus {
        phase: phase(told.phase),
        boot_trouble: told.boot_trouble.map(|trouble| BootTrouble {
            class: trouble.class,
            line: text(&trouble.line),
            hint: text(&trouble.hint),
        }),
        disk_trouble: told
            .disk_trouble
            .map(|trouble| DiskTrouble { disk: text(&trouble.disk), problem: text(&trouble.problem) }),
        obstacle: told.obstacle.as_deref().map(text),
        ..told
    }
}

fn phase(told: MachinePhase) -> MachinePhase {
    match told {
        MachinePhase::Exited(told) => MachinePhase::Exited(exit(told)),
        phase @ (MachinePhase::Booting
        | MachinePhase::Running
        | MachinePhase::Paused
        | MachinePhase::Stopping) => phase,
    }
}

fn exit(told: MachineExit) -> MachineExit {
    match told {
        MachineExit::GuestFault(what) => MachineExit::GuestFault(text(&what)),
        MachineExit::NotBuilt { kind, reason } => MachineExit::NotBuilt { kind, reason: text(&reason) },
        MachineExit::Failed(what)
        | MachineExit::HostLost(what)
        | MachineExit::HostOutOfMemory(what)
        | MachineExit::MemoryLimit(what) => MachineExit::Failed(text(&what)),
        exit @ (MachineExit::PoweredOff
        | MachineExit::Reset(_)
        | MachineExit::TripleFault
        | MachineExit::Killed) => exit,
    }
}

fn launch_error(told: LaunchError) -> LaunchError {
    match told {
        LaunchError::Unsettled { vm, obstacle, waited } => {
            LaunchError::Unsettled { vm, obstacle: text(&obstacle), waited }
        }
        LaunchError::Host { vm, problem } => LaunchError::Host { vm, problem: text(&problem) },
        LaunchError::Machine { vm, source } => LaunchError::Machine { vm, source: launch_failure(source) },
        error @ (LaunchError::ShuttingDown { .. }
        | LaunchError::AlreadyHosted { .. }
        | LaunchError::Full { .. }
        | LaunchError::Deadline { .. }) => error,
    }
}

fn launch_failure(told: LaunchFailure) -> LaunchFailure {
    match told {
        LaunchFailure::Build { kind, reason } => LaunchFailure::Build { kind, reason: text(&reason) },
        LaunchFailure::Start { reason } => LaunchFailure::Start { reason: text(&reason) },
        LaunchFailure::Ended(told) => LaunchFailure::Ended(exit(told)),
        LaunchFailure::Panicked(what) => LaunchFailure::Panicked(text(&what)),
    }
}

fn reply(said: Reply) -> Reply {
    match said {
        Reply::Vcpus { mut vcpus } => {
            vcpus.truncate(VCPUS_MAX);
            Reply::Vcpus { vcpus }
        }
        Reply::Denied { phase: told } => Reply::Denied { phase: phase(told) },
        Reply::Failed { reason } => Reply::Failed { reason: text(&reason) },
        reply @ (Reply::Done | Reply::Written { .. }) => reply,
    }
}

fn counters(mut told: MachineCounters) -> MachineCounters {
    told.vcpus.truncate(VCPUS_MAX);
    told.nics.truncate(PCI_DEVICES_MAX);
    told.disks.truncate(PCI_DEVICES_MAX);
    told.nics.iter_mut().for_each(|nic| nic.id = text(&nic.id));
    told.disks.iter_mut().for_each(|disk| disk.id = text(&disk.id));
    told
}

#[cfg(test)]
mod tests {
    use vm_model::{NicCounters, VmId};

    use super::*;
    use crate::wire::CallId;

    fn vm() -> VmId {
        VmId::new("web-1")
    }

    #[test]
    fn what_an_honest_process_says_is_believed() {
        let trouble =
            DiskTrouble { disk: "root".into(), problem: "No space left on device (os error 28)".into() };
        let told = MachineStatus { disk_trouble: Some(trouble), ..MachineStatus::booting() };
        let message = FromHost::Status { vm: vm(), status: told, counters: None };
        assert_eq!(believable(message.clone()), message);
    }

    #[test]
    fn texts_are_cut_and_lists_end() {
        let long = || "long\x1b[2J\n".repeat(1 << 16);
        let trouble = DiskTrouble { disk: long(), problem: long() };
        let told = MachineStatus {
            phase: MachinePhase::Exited(MachineExit::GuestFault(long())),
            disk_trouble: Some(trouble),
            obstacle: Some(long()),
            ..MachineStatus::booting()
        };
        let message = believable(FromHost::Status { vm: vm(), status: told, counters: None });
        assert!(serde_json::to_string(&message).expect("JSON").len() < 5 * TEXT_MAX, "{message:?}");
        let failure = LaunchFailure::Panicked(long());
        let failure = LaunchError::Machine { vm: vm(), source: failure };
        let message = believable(FromHost::Launched { call: CallId(1), failure: Some(failure) });
        assert!(serde_json::to_string(&message).expect("JSON").len() < 2 * TEXT_MAX, "{message:?}");
        let nics = vec![NicCounters { id: long(), ..NicCounters::default() }; 1000];
        let told = counters(MachineCounters { nics, ..MachineCounters::default() });
        assert_eq!((told.nics.len(), told.nics[0].id.len()), (PCI_DEVICES_MAX, TEXT_MAX));
        assert!(!told.nics[0].id.contains(char::is_control));
    }

    #[test]
    fn ends_of_processes_are_told_by_those_who_watch_them() {
        for forged in [MachineExit::HostLost, MachineExit::HostOutOfMemory, MachineExit::MemoryLimit] {
            assert_eq!(exit(forged("it said so".into())), MachineExit::Failed("it said so".into()));
        }
    }
}
