//! What a host process does while its guest does nothing: nothing.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use machine_host::{MachineHost, StopPolicy};
use tiny_guest::TinyGuest;
use tokio::time::sleep;

use support::{PATIENCE, children, directory, has_kvm, host, launch, options, within};

/// Longer than any timer that goes off again and again would be left unnoticed.
const WINDOW: Duration = Duration::from_secs(2);

/// How often each thread of `process` was put on a processor so far, by name.
fn runs(process: u32) -> BTreeMap<String, u64> {
    let mut runs = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{process}/task")).expect("it is there") {
        let read = |file: &str| fs::read_to_string(task.as_ref().expect("an entry").path().join(file));
        let (name, statistics) = (read("comm").expect("a name"), read("schedstat").expect("statistics"));
        let count = statistics.split_whitespace().nth(2).expect("three numbers").parse::<u64>();
        *runs.entry(name.trim_end().to_owned()).or_default() += count.expect("a number");
    }
    runs
}

#[tokio::test]
async fn nothing_wakes_a_host_process_whose_guest_halts() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch(&host, "vm", &TinyGuest::last_words("said")).await;
    let process = *children().first().expect("its process");
    // What its launch stirred up may take a while to come to rest.
    let mut before = runs(process);
    for _ in 0..PATIENCE.as_secs() / WINDOW.as_secs() {
        sleep(WINDOW).await;
        let now = runs(process);
        if now == before {
            within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
            assert_eq!(within(host.shut_down(PATIENCE)).await.remaining, []);
            return;
        }
        before = now;
    }
    sleep(WINDOW).await;
    panic!("something wakes it again and again: {before:?}, then {:?}", runs(process));
}
