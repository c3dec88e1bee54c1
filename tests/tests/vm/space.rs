//! Space of the host's disk: a guest gives back what it discards, and is told of a full disk where it is to be.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, Filler, Place, SHORT_DEADLINE, Worker, http_get, until};

use crate::environment;

const MEBIBYTE: u64 = 1 << 20;
const DB: &str = "db";
const DATA: &str = "data";

#[test]
#[ignore = "full: what it is about, tests of the device show too"]
fn a_guest_gives_back_what_it_discards_and_is_told_of_a_full_disk() -> Result<()> {
    let environment = environment();
    let place = Arc::new(Place::new("stop_timeout_seconds = 2\n")?.with_small_state(64 * MEBIBYTE)?);
    let worker = Worker::start_at(&environment, &place)?;
    let db = Assignment::of(&environment.image("guest")?, DB).with_reporting_disk(DATA, 16 * MEBIBYTE);
    worker.assign(std::slice::from_ref(&db))?;
    let address = worker.wait_until_answering(DB)?.address()?;
    let taken = || -> Result<u64> {
        let content = place.state().join("volumes").join(DB).join(DATA).join("0.img");
        let content = fs::metadata(&content).with_context(|| format!("no {}", content.display()))?;
        Ok(content.blocks() * 512)
    };

    let blank = taken()?;
    asks(address, "?8", "done")?;
    let written = taken()?;
    ensure!(written >= blank + 8 * MEBIBYTE, "8 MiB were written, {blank} bytes became {written}");
    asks(address, "", "done")?;
    let discarded = taken()?;
    ensure!(discarded <= blank, "all was discarded, and {discarded} bytes are left");

    let filler = Filler::fill(&place.state())?;
    asks(address, "?8", "error")?;
    let vm = worker.vm(DB)?;
    ensure!(vm.phase == "running" && vm.disk_trouble.is_none(), "{}: {:?}", vm.state(), vm.disk_trouble);
    until("the failed requests are counted", SHORT_DEADLINE, || {
        let errors = worker.vm(DB)?.metrics()?.disk_errors;
        ensure!(errors > 0, "none");
        Ok(())
    })?;
    drop(filler);
    asks(address, "?8", "done")?;
    assert!(worker.terminate()?.status.success());
    Ok(())
}

/// Has the guest write to its data disk, or discard it, and looks for `expected` in what it says of that.
fn asks(address: Ipv4Addr, what: &str, expected: &str) -> Result<()> {
    let said = http_get(address, &format!("/cgi-bin/discard{what}"))?;
    let said = String::from_utf8_lossy(&said);
    ensure!(said.contains(expected), "discard{what}: {said}");
    Ok(())
}
