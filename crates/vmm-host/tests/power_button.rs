//! The power button of a guest that reads it late, or reads it and does not obey, on real KVM.

mod support;

use machine_host::{MachineHandle, StopPolicy};
use tiny_guest::TinyGuest;
use vm_model::{MachineExit, PowerButton, StopMethod};

use support::{host, launch, request, within};

async fn until_button_is(machine: &MachineHandle, wanted: PowerButton) {
    let mut status = machine.status();
    within(status.wait_for(|status| status.power_button == wanted)).await.expect("the machine is there");
}

fn console(machine: &MachineHandle) -> String {
    String::from_utf8(machine.console().snapshot().head).expect("a text")
}

#[tokio::test]
async fn presses_that_a_guest_has_not_read_are_one() {
    let Some(host) = host() else { return };
    let machine = launch(&host, request("vm", &TinyGuest::late_presses())).await;
    assert_eq!(machine.status().borrow().power_button, PowerButton::Untouched);
    for _ in 0..3 {
        within(machine.press_power_button()).await.expect("it is pressed");
        until_button_is(&machine, PowerButton::Pressed).await;
    }
    assert_eq!(within(machine.write_console(b"x".to_vec())).await, Ok(1));
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
    assert_eq!(console(&machine), "ready\npress\nbye\n");
}

#[tokio::test]
async fn it_is_told_that_a_guest_has_read_each_press() {
    let Some(host) = host() else { return };
    let machine = launch(&host, request("vm", &TinyGuest::presses(3))).await;
    for count in 1..3 {
        within(machine.press_power_button()).await.expect("it is pressed");
        until_button_is(&machine, PowerButton::Seen).await;
        within(async {
            while console(&machine).matches("press\n").count() < count {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    let report = within(machine.stop(StopPolicy::default())).await.expect("it stops");
    assert_eq!(report.method, StopMethod::PowerButton);
    assert_eq!(console(&machine), "ready\npress\npress\npress\nbye\n");
}

/// In real time, so it takes a few seconds.
#[tokio::test]
async fn a_stop_asks_again_where_the_guest_ignored_it() {
    let Some(host) = host() else { return };
    let machine = launch(&host, request("vm", &TinyGuest::presses(2))).await;
    let report = within(machine.stop(StopPolicy::default())).await.expect("it stops");
    assert_eq!((report.method, report.exit), (StopMethod::PowerButton, MachineExit::PoweredOff));
    assert_eq!(console(&machine), "ready\npress\npress\nbye\n");
}
