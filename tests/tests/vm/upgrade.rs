//! What a guest has under way goes on when its worker is killed, restarted and replaced by another release: a transfer, the
//! disks, a session.

#![expect(clippy::print_stdout, reason = "what was carried tells how much was tried")]

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, BOOT_DEADLINE, Echoes, Never, ObservedVm, Place, Records, SHORT_DEADLINE, Session, Transfer,
    Worker, host_process_of, records_on, until,
};

use crate::environment;

const MEBIBYTE: u64 = 1 << 20;
/// The VM.
const DB: &str = "db";

#[test]
#[ignore = "full: a transfer, disks and a session under load, through four workers"]
fn what_a_guest_has_under_way_goes_on_through_kills_restarts_and_upgrades() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let programs = tempfile::tempdir().context("cannot create a directory")?;
    let (next, version) = environment.upgraded_in(programs.path())?;
    let place = Arc::new(Place::new("")?);
    let worker = Worker::start_leaving(&environment, &place)?;
    let db = Assignment::of(&guest, DB).with_cmdline("records readers sshd").with_disk("data", 4 * MEBIBYTE);
    worker.assign(&[db])?;
    let vm = worker.wait_until_answering(DB)?;
    let process = host_process_of(DB)?.context("it has a host process")?;
    let work = Work::with(&vm)?;

    worker.kill()?;
    work.goes_on("without a worker that was killed")?;
    let worker = Worker::start_leaving(&environment, &place)?;
    is_the_same_run(&worker, &vm)?;
    work.goes_on("with the next worker")?;

    assert!(worker.terminate()?.status.success());
    work.goes_on("without a worker that ended in order")?;
    let worker = Worker::start_leaving(&environment, &place)?;
    is_the_same_run(&worker, &vm)?;

    // The other release says first what it would do, and then does it.
    let told = worker.asked_by(&next).ask(&["upgrade", "--check"])?;
    print!("{told}");
    assert!(told.contains("survives") && told.contains(&process.to_string()), "{told}");
    assert!(worker.terminate()?.status.success());
    let worker = Worker::start_leaving(&next, &place)?;
    let program = fs::read_link(format!("/proc/{}/exe", worker.pid())).context("the worker's program")?;
    assert!(program.starts_with(programs.path()), "release {version} runs, not {}", program.display());
    is_the_same_run(&worker, &vm)?;
    work.goes_on("with another release")?;
    assert_eq!(host_process_of(DB)?, Some(process), "the same process runs it");
    let program = fs::read_link(format!("/proc/{process}/exe")).context("its program")?;
    assert!(!program.starts_with(programs.path()), "it is of the release before: {}", program.display());

    worker.kill()?;
    let worker = Worker::start_at(&next, &place)?;
    is_the_same_run(&worker, &vm)?;
    work.goes_on("with the other release, which was killed too")?;
    work.ends_well()?;
    // What the other release took over obeys it.
    worker.assign(&[])?;
    worker.wait_until_gone(DB)?;
    assert!(worker.terminate()?.status.success());
    Ok(())
}

fn is_the_same_run(worker: &Worker, before: &ObservedVm) -> Result<()> {
    let vm = worker.vm(DB)?;
    let told = |vm: &ObservedVm| (vm.phase.clone(), vm.started_at, vm.address, vm.restarts, vm.resets);
    assert_eq!(told(&vm), told(before), "{}", vm.state());
    Ok(())
}

/// What a guest has under way.
struct Work<'a> {
    vm: &'a ObservedVm,
    echoes: Echoes,
    transfer: Transfer,
    session: Session,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
struct Progress {
    bytes: u64,
    lines: u64,
    disks: [Records; 2],
}

impl<'a> Work<'a> {
    fn with(vm: &'a ObservedVm) -> Result<Self> {
        let address = vm.address()?;
        // The server's first random numbers may take longer than the boot.
        let session = until("a session is open", 2 * BOOT_DEADLINE, || Session::with(address))?;
        let transfer = until("a transfer begins", SHORT_DEADLINE, || Transfer::with(address))?;
        let work = Self { vm, echoes: Echoes::of(address), transfer, session };
        until("it writes and reads", BOOT_DEADLINE, || {
            let now = work.progress()?;
            ensure!(now.disks.iter().all(|disk| disk.reads > 0), "{now:?}");
            Ok(())
        })?;
        Ok(work)
    }

    fn progress(&self) -> Result<Progress> {
        let address = self.vm.address()?;
        let disks = [records_on(address, "root")?, records_on(address, "data")?];
        Ok(Progress { bytes: self.transfer.bytes(), lines: self.session.lines(), disks })
    }

    /// Waits until all of it is further than it is now.
    fn goes_on(&self, when: &str) -> Result<()> {
        let before = until("its records are told", SHORT_DEADLINE, || self.progress())?;
        until(&format!("all goes on {when}"), SHORT_DEADLINE, || {
            let ended = self.session.has_ended() || self.transfer.has_ended();
            ensure!(!ended, Never("the session or the transfer has ended".to_owned()));
            let now = self.progress()?;
            let disks = now.disks.iter().zip(&before.disks);
            let further = disks
                .clone()
                .all(|(now, before)| now.acknowledged > before.acknowledged + 5 && now.reads > before.reads);
            ensure!(
                further && now.bytes > before.bytes + MEBIBYTE / 4 && now.lines > before.lines + 5,
                "{now:?}, {before:?} before"
            );
            Ok(())
        })
    }

    fn ends_well(self) -> Result<()> {
        println!("disks at last: {:?}", self.progress()?.disks);
        println!("a session: {:?}", self.session.stop()?);
        println!("a transfer, in both directions: {:?}", self.transfer.stop()?);
        let heard = self.echoes.stop()?;
        println!("echoes: {heard:?}");
        assert_eq!(heard.lost, 0, "{heard:?}");
        Ok(())
    }
}
