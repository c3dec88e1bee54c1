//! Standing still: a machine that was told to pause, and one with a disk in trouble.
//!
//! vCPUs run exactly while neither holds. The two come and go on their own:
//!
//! ```text
//!              pause                       a disk's first kept request
//!   running ─────────→ paused    running ───────────────────────────────→ in trouble
//!           ←─────────                   ←───────────────────────────────
//!             resume                      all of them went through, or their device was reset
//! ```
//!
//! A paused machine has no I/O in flight, but for a disk in trouble, which is tried again all the same.

use std::time::{Duration, Instant};

use vm_model::DiskTrouble;

use super::trouble::Trouble;
use super::{Controller, Machine, MachineEvent, PauseError, Phase};

/// How long vCPUs may take to leave the guest when a disk gets into trouble. One that takes longer is parked when it
/// comes.
const PARK_PATIENCE: Duration = Duration::from_secs(1);

impl Machine {
    /// Whether the machine was paused and not resumed. One with a disk in trouble is not, unless it was told to.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        matches!(self.phase, Phase::Started { paused: true, .. })
    }

    /// Makes all vCPUs leave the guest and waits for I/O in flight. Pausing a paused machine changes nothing.
    ///
    /// # Errors
    /// Not all of it happened until `deadline`, or there is nothing to pause; the machine goes on as before.
    pub fn pause(&mut self, deadline: Instant) -> Result<(), PauseError> {
        let Phase::Started { vcpus, paused } = &mut self.phase else {
            return Err(PauseError::NotRunning);
        };
        if *paused {
            return Ok(());
        }
        if !vcpus.park(deadline) {
            if self.trouble.is_none() {
                vcpus.resume();
            }
            return Err(PauseError::VcpuTimeout);
        }
        *paused = true;
        self.virtio.freeze_watchdog();
        if let Err(device) = self.virtio.drain(deadline) {
            self.resume();
            return Err(PauseError::DrainTimeout { device });
        }
        Ok(())
    }

    /// Lets a paused machine go on, and has a disk in trouble tried again at once: until that went through, vCPUs stay
    /// parked. Does nothing to any other.
    pub fn resume(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.hurry(Instant::now());
        }
        let Phase::Started { paused, .. } = &mut self.phase else { return };
        if std::mem::replace(paused, false) {
            self.virtio.catch_up();
            self.run_vcpus();
        }
    }

    /// Lets vCPUs go on if nothing speaks against it.
    fn run_vcpus(&self) {
        if let (Phase::Started { vcpus, paused: false }, None) = (&self.phase, &self.trouble) {
            self.virtio.thaw_watchdog();
            vcpus.resume();
        }
    }

    /// Looks whether a disk is in trouble, and does what follows: parks the vCPUs, tries again when it is time, lets them
    /// go on, and tells `controller`. For the end of each turn of the event loop.
    pub(super) fn attend_to_disks(&mut self, controller: &mut dyn Controller) {
        if let Some(trouble) = &mut self.trouble
            && trouble.take_try(Instant::now())
        {
            self.virtio.retry_disks();
        }
        match (self.virtio.disk_trouble(), &mut self.trouble) {
            (None, None) => {}
            (Some(found), None) => {
                let (machine, disk, problem) = (&self.context.name, &found.disk, &found.problem);
                tracing::warn!(
                    machine,
                    disk,
                    problem,
                    "the host cannot carry out a disk's requests: vCPUs wait"
                );
                self.trouble = Some(Trouble::begin(found.clone(), Instant::now()));
                self.park_vcpus();
                controller.event(MachineEvent::DiskTrouble(Some(found)));
            }
            (Some(found), Some(trouble)) if found != trouble.told => {
                trouble.told = found.clone();
                controller.event(MachineEvent::DiskTrouble(Some(found)));
            }
            (Some(_same), Some(_trouble)) => {}
            (None, Some(trouble)) => {
                let (machine, disk) = (&self.context.name, &trouble.told.disk);
                tracing::info!(machine, disk, "a disk's requests went through: vCPUs go on");
                self.trouble = None;
                self.run_vcpus();
                controller.event(MachineEvent::DiskTrouble(None));
            }
        }
    }

    fn park_vcpus(&self) {
        if let Phase::Started { vcpus, paused: false } = &self.phase {
            if !vcpus.park(Instant::now() + PARK_PATIENCE) {
                let machine = &self.context.name;
                tracing::error!(machine, "a disk is in trouble and not all vCPUs have left the guest yet");
            }
            self.virtio.freeze_watchdog();
        }
    }

    /// Whether a device's own descriptors are to be served now.
    pub(super) fn serves(&self, device: u16) -> bool {
        !self.is_paused() || self.trouble.is_some() && self.virtio.is_in_trouble(device)
    }

    /// The trouble that was told of last.
    #[must_use]
    pub fn disk_trouble(&self) -> Option<&DiskTrouble> {
        self.trouble.as_ref().map(|trouble| &trouble.told)
    }
}
