//! Which command is accepted in which phase. Pure: the thread that owns the machine asks, then acts.

use vm_model::{CommandKind, MachinePhase};

/// What is to become of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Carry it out.
    Perform,
    /// What it asks for is so already; answer that it is done.
    AlreadySo,
    /// Refuse it.
    Deny,
}

/// Decides on `command` for a machine in `phase`.
///
/// - A killing always goes through: nothing may make a machine impossible to end.
/// - A machine that was asked to stop is not paused any more, as that would keep it from stopping.
/// - The power button alone is refused while vCPUs are parked, as the guest would not see it. A request to shut down
///   resumes them first.
/// - A balloon's new target, a console's new size and a link's new state wait where vCPUs are parked.
/// - vCPUs can be looked at wherever they are; those that are parked take a non-maskable interrupt when they go on.
/// - The reset button works on a paused machine, which runs after it, and not on one that is to stop.
/// - Console input is taken while paused; the reply says how much fitted.
pub(crate) fn admit(phase: &MachinePhase, command: CommandKind) -> Admission {
    use Admission::{AlreadySo, Deny, Perform};
    use CommandKind::{
        Announce, DumpVcpus, InjectNmi, Kill, Pause, PressPowerButton, RequestShutdown, Reset, ResizeConsole,
        Resume, SetBalloon, SetLink, WriteConsole,
    };

    match (phase, command) {
        (MachinePhase::Exited(_), Kill) => AlreadySo,
        (_, Kill) => Perform,
        (MachinePhase::Booting | MachinePhase::Exited(_), _) => Deny,

        (
            _,
            SetBalloon | SetLink | Announce | ResizeConsole | WriteConsole | InjectNmi | DumpVcpus
            | RequestShutdown,
        ) => Perform,

        (MachinePhase::Running, Resume) => AlreadySo,
        (MachinePhase::Running, Pause | PressPowerButton | Reset) => Perform,

        (MachinePhase::Paused, Pause) => AlreadySo,
        (MachinePhase::Paused, PressPowerButton) => Deny,
        (MachinePhase::Paused, Resume | Reset) => Perform,

        (MachinePhase::Stopping, Pause | Reset) => Deny,
        (MachinePhase::Stopping, Resume) => AlreadySo,
        (MachinePhase::Stopping, PressPowerButton) => Perform,
    }
}

/// The phase after `command` was carried out in `phase`.
pub(crate) fn phase_after(phase: &MachinePhase, command: CommandKind) -> MachinePhase {
    match command {
        CommandKind::Pause => MachinePhase::Paused,
        CommandKind::Resume => MachinePhase::Running,
        CommandKind::Reset => MachinePhase::Booting,
        CommandKind::RequestShutdown | CommandKind::Kill => MachinePhase::Stopping,
        CommandKind::PressPowerButton
        | CommandKind::SetLink
        | CommandKind::Announce
        | CommandKind::ResizeConsole
        | CommandKind::SetBalloon
        | CommandKind::WriteConsole
        | CommandKind::InjectNmi
        | CommandKind::DumpVcpus => phase.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_model::MachineExit;

    use super::*;

    /// What the vCPUs of a machine do: the model that phases are held against.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Vcpus {
        Run,
        Parked,
    }

    fn any_command() -> impl Strategy<Value = CommandKind> {
        proptest::sample::select(&CommandKind::ALL[..])
    }

    proptest! {
        /// Whatever is asked in whatever order: the phase never lies about the vCPUs, a machine that was asked
        /// to stop never ends up parked, and it can always be killed.
        #[test]
        fn phases_agree_with_what_vcpus_do(
            starts_paused: bool,
            commands in proptest::collection::vec(any_command(), 0..40),
        ) {
            let (mut phase, mut vcpus) = if starts_paused {
                (MachinePhase::Paused, Vcpus::Parked)
            } else {
                (MachinePhase::Running, Vcpus::Run)
            };
            let mut asked_to_stop = false;
            for command in commands {
                if admit(&phase, command) == Admission::Perform {
                    match command {
                        CommandKind::Pause => {
                            prop_assert_eq!(vcpus, Vcpus::Run);
                            vcpus = Vcpus::Parked;
                        }
                        CommandKind::Resume => {
                            prop_assert_eq!(vcpus, Vcpus::Parked);
                            vcpus = Vcpus::Run;
                        }
                        CommandKind::PressPowerButton => prop_assert_eq!(vcpus, Vcpus::Run),
                        CommandKind::RequestShutdown => {
                            vcpus = Vcpus::Run;
                            asked_to_stop = true;
                        }
                        CommandKind::SetLink
                        | CommandKind::Announce
                        | CommandKind::ResizeConsole
                        | CommandKind::SetBalloon
                        | CommandKind::WriteConsole
                        | CommandKind::InjectNmi
                        | CommandKind::DumpVcpus => {}
                        CommandKind::Reset => vcpus = Vcpus::Run,
                        CommandKind::Kill => break,
                    }
                    phase = phase_after(&phase, command);
                }
                // A machine that is being rebuilt takes no commands until it runs.
                if phase == MachinePhase::Booting {
                    phase = MachinePhase::Running;
                }
                prop_assert_eq!(phase == MachinePhase::Paused, vcpus == Vcpus::Parked);
                prop_assert_eq!(phase == MachinePhase::Stopping, asked_to_stop);
                prop_assert_eq!(admit(&phase, CommandKind::Kill), Admission::Perform);
            }
        }
    }

    #[test]
    fn a_machine_that_boots_or_has_ended_only_takes_a_kill() {
        for command in CommandKind::ALL {
            let expected = match command {
                CommandKind::Kill => (Admission::Perform, Admission::AlreadySo),
                CommandKind::Pause
                | CommandKind::Resume
                | CommandKind::PressPowerButton
                | CommandKind::RequestShutdown
                | CommandKind::ResizeConsole
                | CommandKind::SetBalloon
                | CommandKind::SetLink
                | CommandKind::Announce
                | CommandKind::WriteConsole
                | CommandKind::InjectNmi
                | CommandKind::DumpVcpus
                | CommandKind::Reset => (Admission::Deny, Admission::Deny),
            };
            let ended = MachinePhase::Exited(MachineExit::PoweredOff);
            let answers = (admit(&MachinePhase::Booting, command), admit(&ended, command));
            assert_eq!(answers, expected, "{command}");
        }
    }
}
