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

/// A worker that had seen its guest's end would have taken it for the guest's own wish, and not start it again.
#[test]
fn the_guest_is_on_record_as_one_to_be_started_again() -> Result<()> {
    let path = "/var/lib/procurator/vms/last/record.json";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let record: Value = serde_json::from_str(&text).with_context(|| format!("{path} says {text}"))?;
    assert_eq!(record["powered_off"], false, "{record:#}");
    assert!(record["running_since"].is_number(), "{record:#}");
    Ok(())
}
