//! What a shutdown of the host did to the guest that `at_shutdown` left. Nothing runs any more, and the root file system is
//! all there is.

use std::fs;

use anyhow::{Context, Result};
use end_to_end::Service;
use serde_json::Value;

#[test]
fn the_guest_obeyed_its_power_button() -> Result<()> {
    let console = Service::kept_console("last")?;
    assert!(console.contains("reboot: Power down"), "{console}");
    Ok(())
}

#[test]
fn the_guest_is_on_record_as_one_to_be_started_again() -> Result<()> {
    let record = "/var/lib/procurator/worker.json";
    let text = fs::read_to_string(record).with_context(|| format!("cannot read {record}"))?;
    let desired: Value = serde_json::from_str(&text).with_context(|| format!("{record} says {text}"))?;
    assert!(text.contains("\"last\""), "{desired}");
    Ok(())
}
