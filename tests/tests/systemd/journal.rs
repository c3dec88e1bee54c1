//! The worker's log in systemd's journal: native records with a field each, not lines of text.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use end_to_end::{SHORT_DEADLINE, Service, until};
use serde_json::Value;

/// Checks that what is said of VM `id` is found by its name, with the fields that the documentation promises, and that an
/// operator's order is among it.
pub(crate) fn has_lines_about(id: &str) -> Result<()> {
    let about = format!("VM_ID={id}");
    // The log does not wait for the journal.
    let ordered = until("the journal has the orders", SHORT_DEADLINE, || {
        let found = records(&[&about, "TARGET=audit"])?;
        ensure!(found.iter().any(|record| record["VERB"] == "resume"), "{found:?}");
        Ok(found)
    })?;
    for record in &ordered {
        assert_eq!((&record["UID"], &record["PRIORITY"]), (&"0".into(), &"6".into()), "{record}");
        assert!(record["MESSAGE"].as_str().is_some_and(|message| message.starts_with("audit: ")), "{record}");
    }
    let request = ordered.iter().find_map(|record| record["REQUEST_ID"].as_str());
    let request = request.with_context(|| format!("no order has the number of its request: {ordered:?}"))?;
    assert!(!records(&[&about, &format!("REQUEST_ID={request}")])?.is_empty());

    let all = records(&[&about])?;
    for record in &all {
        assert_eq!(record["_TRANSPORT"], "journal", "it came as text: {record}");
        assert_eq!(record["SYSLOG_IDENTIFIER"], "procurator-worker", "{record}");
        assert!(record["TARGET"].is_string() && record["PRIORITY"].is_string(), "{record}");
    }
    // Its supervisor tells which definition it follows, its own machine is in a unit of its own.
    assert!(all.iter().any(|record| record["GENERATION"].is_string()), "{all:?}");
    let of_the_worker = |record: &&Value| record["_SYSTEMD_UNIT"] == Service::UNIT.0;
    assert!(all.iter().filter(of_the_worker).count() > 1, "{all:?}");
    Ok(())
}

/// The journal's records that have all these fields.
fn records(fields: &[&str]) -> Result<Vec<Value>> {
    let mut journalctl = Command::new("journalctl");
    let output = journalctl.args(["--no-pager", "--output=json"]).args(fields).output();
    let output = output.context("cannot start journalctl")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{journalctl:?}: {errors}");
    let lines = String::from_utf8(output.stdout).context("it is no text")?;
    let records = lines.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
    records.collect()
}
