//! A VM that another process runs: a host process that was not taken over when the worker started.
//!
//! Nothing is done with such a VM, because nothing could be done right: its guest writes to its disks. Its supervisor waits
//! until the process is taken over after all, or lets go of the VM, and says meanwhile what it waits for.

use std::time::{Duration, Instant};

use machine_host::Stranger;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{error, info, warn};
use vm_model::{DesiredState, EndCause, EndMethod, FailureKind, RunEnd, Timestamp, VmStatus};

use super::adopted::RunningMachine;
use super::step::{Goal, RunState, Stamp};
use super::task::{RETRY, Task, Wanted};
use crate::failure::{chain, plain};
use crate::records::VmRecord;

/// How long a process may take to let go of a VM without that being told: one whose guest has ended, or that was being
/// started when its worker ended.
const LETTING_GO: Duration = Duration::from_secs(1);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a process may be silent until a VM that is to run counts as one that does not.
const SILENCE: Duration = Duration::from_secs(10);

/// What was told last, of which orders.
type Told = Option<(Goal, Stamp)>;

impl Task {
    /// Waits as long as another process runs the VM, which has no machine here. It may have one afterwards: the process was
    /// taken over.
    pub(super) async fn wait_for_holder(&mut self) -> Wanted {
        if self.record.value().running_since.is_none() && self.context.strangers.borrow().is_empty() {
            return Wanted::Yes;
        }
        let (begun, mut told) = (Instant::now(), None);
        while let Some(problem) = self.runs_elsewhere().await {
            let waited = begun.elapsed();
            let pause = if waited < LETTING_GO {
                LOOK_EVERY
            } else {
                self.held.send_replace(Some(problem.clone()));
                self.tell_held(&problem, waited, &mut told);
                RETRY
            };
            // All arms only wait, so losing any loses nothing.
            tokio::select! {
                machine = handed_over(&mut self.late) => {
                    if self.begin_late(machine).await {
                        break;
                    }
                }
                changed = self.target.changed() => if changed.is_err() {
                    return Wanted::No;
                },
                () = sleep(pause) => {}
            }
        }
        if self.held.send_replace(None).is_some() {
            // What was told of it is no longer so.
            self.info.send_modify(|info| {
                info.last_failure = None;
                info.next_start_at = None;
            });
        }
        Wanted::Yes
    }

    /// Says that another process runs the VM, and what is not done for that reason, once for each order.
    fn tell_held(&mut self, problem: &str, waited: Duration, told: &mut Told) {
        let (goal, stamp) = {
            let target = self.target.borrow_and_update();
            (target.goal, target.stamp)
        };
        if *told == Some((goal, stamp)) {
            return;
        }
        match goal {
            Goal::Be(DesiredState::Running | DesiredState::Paused) | Goal::Suspended if waited < SILENCE => {
                return;
            }
            Goal::Be(DesiredState::Running | DesiredState::Paused) => {
                let reason = plain(FailureKind::Host, problem.to_owned());
                self.publish_failure(&reason, VmStatus::Restarting);
            }
            Goal::Suspended => {
                self.tell_host_trouble(problem);
                self.publish(VmStatus::Restarting);
            }
            Goal::Gone | Goal::Be(DesiredState::Stopped) => {
                let order = if goal == Goal::Gone { "removed" } else { "stopped" };
                error!(vm_id = %self.id, error = problem, "the VM is not {order}; waiting");
                self.tell_host_trouble(problem);
                self.publish(VmStatus::Stopping);
            }
        }
        *told = Some((goal, stamp));
    }

    /// Goes on with a machine that was taken over after the worker had started; whether it is this VM's.
    async fn begin_late(&mut self, machine: RunningMachine) -> bool {
        if machine.notes.uuid.is_some_and(|uuid| uuid != self.record.uuid()) {
            warn!(vm_id = %self.id, "a machine of another VM of this name is left alone");
            return false;
        }
        machine.hold_addresses(&self.context.leases);
        for (network, kept) in machine.kept_nics() {
            let nic = kept.nic.clone();
            match self.context.networks.keep(&network, kept).await {
                Ok(None) => {}
                Ok(Some(problem)) => warn!(vm_id = %self.id, nic, %problem, "its TAP is not as it was"),
                Err(problem) => {
                    warn!(vm_id = %self.id, nic, error = chain(&problem), "its TAP is not looked after")
                }
            }
        }
        let corrected = self.record.update(|record| {
            machine.correct(record);
        });
        if let Err(problem) = corrected.await {
            error!(vm_id = %self.id, error = problem.message, "the VM's record was not kept");
        }
        let runs = machine.number_under(&self.target.borrow());
        self.begin_with(machine, runs);
        true
    }

    /// Says of a run that an earlier worker began, and of which nobody saw the end, that it was lost.
    pub(super) async fn note_lost_run(&mut self) {
        let Some(since) = self.record.value().running_since else { return };
        let detail = format!(
            "started at {since}; no process ran it any more when the worker came back, and none had recorded its end"
        );
        let end = RunEnd {
            at: Timestamp::now(),
            ran_for: None,
            method: EndMethod::Lost,
            cause: EndCause::WorkerEnded,
            detail: Some(detail),
        };
        self.record_end(end).await;
    }

    /// What keeps the VM's lock from being taken, where something does.
    pub(super) async fn runs_elsewhere(&self) -> Option<String> {
        let context = std::sync::Arc::clone(&self.context);
        let stranger = running_stranger(&context.strangers.borrow(), self.record.value());
        let id = self.id.clone();
        let looking = tokio::task::spawn_blocking(move || context.lock_idle(&id).err().or(stranger));
        looking.await.unwrap_or_else(|lost| Some(chain(&lost)))
    }

    /// Whether the VM has a machine here.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, RunState::Up { .. })
    }
}

/// What is told where a process that was not taken over says that it runs the VM of `record`: it has that VM's addresses, though
/// maybe not its directory with the lock.
///
/// That is its word alone, and its guest may have taken it over. So it counts only of a VM that no worker is known to have
/// started with a seal: one that was, runs where its lock is held, and nowhere else.
fn running_stranger(strangers: &[Stranger], record: &VmRecord) -> Option<String> {
    if record.seal_key.is_some() {
        return None;
    }
    let id = &record.assignment.id;
    let mut of_its_name = strangers.iter().filter(|stranger| stranger.vms.contains(id) && stranger.may_run());
    let pid = of_its_name.find_map(|stranger| stranger.pid)?;
    Some(format!("process {pid} runs a VM of this name and was not taken over: `kill {pid}` ends it"))
}

/// Returns the machine that is handed over; never where none can be. Cancel-safe.
async fn handed_over(late: &mut Option<mpsc::Receiver<RunningMachine>>) -> RunningMachine {
    let machine = match late {
        Some(late) => late.recv().await,
        None => None,
    };
    match machine {
        Some(machine) => {
            info!(vm_id = %machine.notes.assignment.id, "its process answered after all");
            machine
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use vm_model::{Assignment, VmId};

    use super::*;
    use crate::records::SealKey;

    #[test]
    fn the_word_of_a_process_counts_of_a_vm_without_a_seal_alone() {
        let pid = std::process::id();
        let says = |vms: &[&str]| Stranger {
            vms: vms.iter().copied().map(VmId::new).collect(),
            pid: Some(pid),
            place: "a host process".to_owned(),
            problem: "its notes are not sealed".to_owned(),
        };
        let mut record = VmRecord::new(Assignment::new(VmId::new("a"), "", "/nix/store/x"));
        let told = running_stranger(&[says(&["b"]), says(&["c", "a"])], &record).expect("it counts");
        assert!(told.contains(&format!("`kill {pid}`")), "{told}");
        assert_eq!(running_stranger(&[says(&["b"])], &record), None);
        record.seal_key = Some(SealKey::draw().expect("a key"));
        assert_eq!(running_stranger(&[says(&["a"])], &record), None);
    }
}
