//! One VM's disk lies on a device of the host that fails or does not answer. That VM says so; the others go on, are stopped,
//! restarted and removed, and keep what they wrote.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, BOOT_DEADLINE, Environment, FaultyDisk, Place, SHORT_DEADLINE, Worker, records, records_on,
    until,
};

use crate::environment;

const MEBIBYTE: u64 = 1 << 20;
/// The VM whose disk lies on the device, and others.
const BAD: &str = "bad";
const GOOD: &str = "good";
const THIRD: &str = "third";
/// The disk, and the one of the others that has the same name.
const DATA: &str = "data";

/// A worker with the VMs, and the device that one disk lies on.
struct Scene {
    worker: Worker,
    vms: Vec<Assignment>,
    device: FaultyDisk,
}

impl Scene {
    fn new(environment: &Environment, device: &str) -> Result<Self> {
        let place = Arc::new(Place::new("stop_timeout_seconds = 2\nremoval_grace_seconds = 0\n")?);
        let worker = Worker::start_at(environment, &place)?;
        let device = FaultyDisk::mount(device, &place.state().join("volumes").join(BAD).join(DATA))?;
        let image = environment.image("guest")?;
        let vms = [BAD, GOOD, THIRD].map(|id| {
            let vm = Assignment::of(&image, id).with_cmdline("records").with_memory(96 * MEBIBYTE);
            vm.with_disk(DATA, 8 * MEBIBYTE)
        });
        let scene = Self { worker, vms: vms.to_vec(), device };
        scene.worker.assign(&scene.vms)?;
        for id in [BAD, GOOD, THIRD] {
            scene.writes_on(id, 0)?;
        }
        Ok(scene)
    }

    fn address(&self, id: &str) -> Result<Ipv4Addr> {
        self.worker.vm(id)?.address()
    }

    /// Waits until the guest has acknowledged more than `known` records on its disk, and says how many.
    fn writes_on(&self, id: &str, known: u64) -> Result<u64> {
        until(&format!("{id} writes on"), BOOT_DEADLINE, || {
            let acknowledged = records_on(self.address(id)?, DATA)?.acknowledged;
            ensure!(acknowledged > known, "{acknowledged} records are acknowledged, {known} were");
            Ok(acknowledged)
        })
    }

    fn acknowledged(&self, id: &str) -> Result<u64> {
        Ok(records_on(self.address(id)?, DATA)?.acknowledged)
    }

    /// What one VM's disk does is nothing to the others: one writes on, is restarted and finds what it wrote; the last one is
    /// removed, and is made anew.
    fn others_live(&self) -> Result<()> {
        self.writes_on(GOOD, self.acknowledged(GOOD)?)?;
        let known = self.acknowledged(GOOD)?;
        self.worker.ask(&["restart", GOOD, "--force"])?;
        self.finds(GOOD, known)?;
        self.worker.assign(&self.vms[..2])?;
        self.worker.wait_until_gone(THIRD)?;
        self.worker.assign(&self.vms)?;
        self.writes_on(THIRD, 0).map(drop)
    }

    /// Waits for a boot of the guest that found at least `known` records whole.
    fn finds(&self, id: &str, known: u64) -> Result<()> {
        until(&format!("{id} finds its records"), BOOT_DEADLINE, || {
            let vm = self.worker.vm(id)?;
            ensure!(vm.phase == "running", "{}", vm.state());
            let found = records_on(vm.address()?, DATA)?;
            ensure!(found.intact >= known, "{found:?}, {known} were acknowledged");
            Ok(())
        })
    }

    fn end(self) -> Result<()> {
        let Self { worker, vms, device } = self;
        drop(vms);
        assert!(worker.terminate()?.status.success());
        drop(device);
        Ok(())
    }
}

#[test]
#[ignore = "full: boots seven times"]
fn a_disk_that_does_not_answer_keeps_its_own_vm_alone() -> Result<()> {
    let scene = Scene::new(&environment(), "frozen")?;
    let known = scene.acknowledged(BAD)?;
    scene.device.freeze()?;
    scene.others_live()?;
    // It is not stopped as long as it may still write, and says so.
    scene.worker.ask(&["stop", BAD, "--force", "--no-wait"])?;
    let told = until("it says what hangs", BOOT_DEADLINE, || {
        let vm = scene.worker.vm(BAD)?;
        let reason = vm.reason.as_ref().context("it gives no reason")?;
        let names_it = reason.message.contains("the I/O that is in flight on its disk");
        ensure!(names_it, "{}: {}", vm.state(), reason.message);
        Ok(vm)
    })?;
    assert_eq!(
        (told.phase.as_str(), told.reason.map(|reason| reason.kind)),
        ("stopping", Some("host".to_owned()))
    );
    scene.others_live()?;

    scene.device.mend()?;
    scene.worker.wait_for_phase(BAD, "stopped")?;
    scene.worker.ask(&["start", BAD, "--no-wait"])?;
    scene.finds(BAD, known)?;
    scene.writes_on(BAD, known)?;
    scene.end()
}

#[test]
#[ignore = "full: boots six times"]
fn a_disk_that_fails_is_told_of_and_troubles_its_own_vm_alone() -> Result<()> {
    let scene = Scene::new(&environment(), "failing")?;
    let known = scene.acknowledged(BAD)?;
    scene.device.fail_writes()?;
    let errors = until("its disk's errors are counted", SHORT_DEADLINE, || {
        let vm = scene.worker.vm(BAD)?;
        let counted = vm.metrics()?.disk_errors;
        ensure!(counted > 0 || vm.disk_trouble.is_some(), "none: {}", vm.state());
        Ok(counted)
    })?;
    println!("{errors} requests failed: {:?}", scene.worker.vm(BAD)?.disk_trouble);
    // A failed flush is told to the guest, which gives up writing rather than to acknowledge what may be lost.
    println!("the guest says {:?}", records(scene.address(BAD)?));
    scene.others_live()?;

    scene.device.mend()?;
    scene.worker.ask(&["restart", BAD, "--force"])?;
    scene.finds(BAD, known)?;
    scene.writes_on(BAD, known)?;
    scene.end()
}
