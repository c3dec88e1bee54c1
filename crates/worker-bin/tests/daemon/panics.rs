//! A guest whose kernel panics and has no device to say so: its console tells.

use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};

/// What Linux writes: what led to it, the announcement, a trace, and the end.
const WORDS: &str = "[    1.400000] BUG: unable to handle page fault for address: ffffffffffffffd0\r\n\
     [    1.500000] Kernel panic - not syncing: Fatal exception in interrupt\r\n\
     [    1.500000] CPU: 0 PID: 0 Comm: swapper/0 Not tainted 6.1.0\r\n\
     [    1.600000] ---[ end Kernel panic - not syncing: Fatal exception in interrupt ]---\r\n";

fn events(bench: &Bench) -> Vec<Value> {
    let told = bench.client(&["events", "--json", "a"]).stdout;
    let lines = String::from_utf8(told).expect("text");
    lines.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

#[test]
fn a_panic_that_no_device_reports_is_an_event_and_the_reason() {
    isolated(|bench| {
        let more = json!({ "pvpanic": false, "procurator": { "restart": "never" } });
        let artifact = bench.artifact("image", &TinyGuest::last_words(WORDS), &more, "0");
        bench.assign(&[json!({ "id": "a", "hash": artifact.hash, "store_path": artifact.path })]);
        let _daemon = bench.start();
        bench.until("it has failed", || bench.phases() == ["a failed"]);

        let inspected = bench.client(&["inspect", "a", "--json"]).stdout;
        let reason = &serde_json::from_slice::<Value>(&inspected).expect("JSON")["reason"];
        assert_eq!(
            reason["message"],
            "the guest's kernel panicked and stands still: Kernel panic - not syncing: Fatal exception in interrupt"
        );
        assert_eq!((&reason["kind"], &reason["class"]), (&json!("guest"), &json!("kernel_panic")));
        let timings = &reason["timings"];
        for step in ["artifact", "network", "first_entry", "first_console_byte", "ended"] {
            assert!(
                timings.as_object().is_some_and(|timings| timings.keys().any(|key| key.starts_with(step))),
                "no {step} in {timings}"
            );
        }
        let tail: Vec<&str> =
            reason["console_tail"].as_array().expect("lines").iter().filter_map(Value::as_str).collect();
        let written: Vec<&str> = WORDS.lines().collect();
        assert_eq!(tail, written);

        let events = events(&bench);
        let failed = events.iter().find(|event| event["to"] == "failed");
        let told = &failed.unwrap_or_else(|| panic!("no event of it in {events:?}"))["reason"];
        assert_eq!((&told["class"], &told["message"]), (&reason["class"], &reason["message"]), "{told}");
    });
}
