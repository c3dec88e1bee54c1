//! Every ending, and what follows it.

use std::time::Duration;

use proptest::prelude::*;
use vm_model::{ResetLimit, ResetSource};

use super::*;

fn any_exit() -> impl Strategy<Value = MachineExit> {
    prop_oneof![
        Just(MachineExit::PoweredOff),
        prop_oneof![
            Just(ResetSource::Acpi),
            Just(ResetSource::KeyboardController),
            Just(ResetSource::Watchdog)
        ]
        .prop_map(MachineExit::Reset),
        Just(MachineExit::TripleFault),
        Just(MachineExit::Killed),
        Just(MachineExit::Failed("its code".to_owned())),
    ]
}

fn any_ending() -> impl Strategy<Value = Ending> {
    let phase = prop_oneof![
        Just(MachinePhase::Booting),
        Just(MachinePhase::Running),
        Just(MachinePhase::Paused),
        Just(MachinePhase::Stopping)
    ];
    let button = prop_oneof![Just(Button::Pressed), Just(Button::NotPressed)];
    let guest = prop_oneof![Just(GuestHealth::Well), Just(GuestHealth::Panicked)];
    let rest = prop_oneof![Just(Rest::Settled), Just(Rest::Unsettled)];
    let boot_files = prop_oneof![Just(BootFilesState::AsVerified), Just(BootFilesState::Changed)];
    (any_exit(), phase, button, guest, rest, boot_files).prop_map(
        |(exit, phase, button, guest, rest, boot_files)| Ending {
            exit,
            phase,
            button,
            guest,
            rest,
            boot_files,
        },
    )
}

fn reset() -> Ending {
    Ending {
        exit: MachineExit::Reset(ResetSource::Acpi),
        phase: MachinePhase::Running,
        button: Button::NotPressed,
        guest: GuestHealth::Well,
        rest: Rest::Settled,
        boot_files: BootFilesState::AsVerified,
    }
}

fn budget(count: u32) -> ResetBudget {
    ResetBudget::new(ResetLimit { count, window: Duration::from_secs(60) })
}

#[test]
fn a_reset_ends_the_machine_when_the_budget_is_used_up_and_the_button_works_on() {
    let (mut budget, now) = (budget(1), Instant::now());
    let by_guest = Verdict::Again { by: ResetBy::Guest, initial: InitialState::Running };
    assert_eq!(verdict(&mut budget, reset(), now), by_guest);
    assert_eq!(verdict(&mut budget, reset(), now), Verdict::Final(reset().exit));
    let pressed = Ending { button: Button::Pressed, exit: MachineExit::Killed, ..reset() };
    let by_button = Verdict::Again { by: ResetBy::Button, initial: InitialState::Running };
    for _ in 0..9 {
        assert_eq!(verdict(&mut budget, pressed.clone(), now), by_button);
    }
    assert_eq!(verdict(&mut budget, reset(), now + Duration::from_secs(60)), by_guest);
}

#[test]
fn what_stops_stops_and_what_is_paused_stays_so() {
    let (mut budget, now) = (budget(9), Instant::now());
    let stopping = Ending { phase: MachinePhase::Stopping, ..reset() };
    assert_eq!(verdict(&mut budget, stopping, now), Verdict::Final(reset().exit));
    let paused = Ending { phase: MachinePhase::Paused, ..reset() };
    let again = Verdict::Again { by: ResetBy::Guest, initial: InitialState::Paused };
    assert_eq!(verdict(&mut budget, paused, now), again);
}

proptest! {
    #[test]
    fn only_a_reset_of_a_settled_machine_is_followed_by_another(
        endings in proptest::collection::vec((any_ending(), 0_u64..40), 0..60),
        count in 0_u32..4,
    ) {
        let mut budget = budget(count);
        let mut now = Instant::now();
        let mut by_guest = Vec::<Instant>::new();
        for (ending, seconds) in endings {
            now += Duration::from_secs(seconds);
            let found = verdict(&mut budget, ending.clone(), now);
            let Verdict::Again { by, .. } = found else {
                let Verdict::Final(exit) = found else { unreachable!("there are two") };
                prop_assert!(exit == ending.exit || ending.button == Button::Pressed);
                continue;
            };
            prop_assert_eq!(ending.rest, Rest::Settled);
            prop_assert_eq!(by == ResetBy::Button, ending.button == Button::Pressed);
            prop_assert!(matches!(ending.exit, MachineExit::Reset(_) | MachineExit::Killed));
            if by == ResetBy::Guest {
                prop_assert_eq!(ending.guest, GuestHealth::Well);
                prop_assert_ne!(ending.phase, MachinePhase::Stopping);
                by_guest.push(now);
                let recent = by_guest.iter().filter(|&&then| now - then < Duration::from_secs(60)).count();
                prop_assert!(recent <= usize::try_from(count).expect("small"));
            }
        }
    }
}
