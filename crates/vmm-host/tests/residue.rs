//! What machines on real KVM leave behind: nothing. One test, alone in its process, as counting needs it.

#[path = "support/holdings.rs"]
mod holdings;
mod support;

use std::time::Duration;

use tiny_guest::TinyGuest;
use vm_model::MachineExit;
use vmm_host::{StopPolicy, VmmHost};

use holdings::{holdings, mappings_by_name, resident_kib};
use support::{host, launch, request, within};

async fn one_life(host: &VmmHost, number: usize) {
    match number % 4 {
        0 | 1 => {
            let machine = launch(host, request("vm", &TinyGuest::hello("x"))).await;
            assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
            within(machine.released()).await;
        }
        2 => {
            let machine = launch(host, request("vm", &TinyGuest::spin())).await;
            within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
            within(machine.released()).await;
        }
        _ => {
            drop(launch(host, request("vm", &TinyGuest::idle())).await);
            within(async {
                while host.counts().hosted > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_thousand_machines_leave_nothing_behind() {
    /// By then the allocator holds on to as much as it ever will.
    const SETTLED: usize = 500;
    const LIVES: usize = 1000;
    let Some(host) = host() else { return };
    for number in 0..8 {
        one_life(&host, number).await;
    }
    let (before, mapped) = (holdings(), mappings_by_name());
    let mut settled_kib = 0;
    for number in 0..LIVES {
        if number == SETTLED {
            settled_kib = resident_kib();
        }
        one_life(&host, number).await;
    }
    let after = holdings();
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(after.threads, before.threads);
    // The allocator and cached thread stacks may take a few mappings more; machines take several each.
    assert!(
        after.mappings <= before.mappings + 16,
        "{before:?} became {after:?}: {mapped:?} became {:?}",
        mappings_by_name()
    );
    let growth_kib = resident_kib().saturating_sub(settled_kib);
    assert!(growth_kib < (LIVES - SETTLED) as u64, "{growth_kib} KiB more after {SETTLED} lives more");

    let report = within(host.shut_down(Duration::from_secs(10))).await;
    assert_eq!(report.remaining, []);
    assert!(holdings().threads < before.threads, "the reaper has ended");
}
