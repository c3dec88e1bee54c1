//! What a machine's thread does: runs its machine (`place`), and publishes how it ended and hands over what is left of it
//! (`end`), unless another follows in its place (`renewal`), which begins on a thread of its own.

mod admission;
mod boot_files;
mod driver;
mod end;
mod place;
mod renewal;
mod slow_turns;
mod standing_orders;

use std::sync::Arc;
use std::time::Instant;

use console_log::{ConsoleFileWriter, ConsoleWriter};
use machine_host::LaunchRequest;
use syscall_filter::ThreadKind;
use tokio::sync::watch;
use vm_model::{MachineStatus, VmId};

use crate::counters::CountersCell;
use crate::engine::Engine;
use crate::handover::{ReleaseSignal, ToReaper};
use crate::heartbeat::Heartbeat;
use crate::launch::LaunchSignal;
use crate::mailbox::Inbox;
use boot_files::BootFiles;
use driver::MachineDriver;
pub(crate) use place::NextMachine;
use place::{Beginning, MachinePlace};
use slow_turns::SlowTurns;
use standing_orders::StandingOrders;

/// Threads' names are cut by the kernel after so many bytes.
const THREAD_NAME_BYTES: usize = 15;

/// What the thread of a first machine is started with.
pub(crate) struct MachineThread {
    pub(crate) request: LaunchRequest,
    /// When the machine was asked for.
    pub(crate) requested: Instant,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) console: ConsoleWriter,
    /// Writes it to files, where its directory was given.
    pub(crate) console_files: ConsoleFileWriter,
    pub(crate) counters: Arc<CountersCell>,
    pub(crate) inbox: Inbox,
    pub(crate) status: watch::Sender<MachineStatus>,
    /// Moved on at each turn of the machine's event loop.
    pub(crate) heartbeat: Arc<Heartbeat>,
    /// Answers the launch that waits for the machine to be under way.
    pub(crate) under_way: LaunchSignal,
    pub(crate) reaper: ToReaper,
    pub(crate) release: ReleaseSignal,
}

impl MachineThread {
    /// Runs the thread to its end. Nothing that happens in here, panics included, reaches another machine.
    pub(crate) fn run(self) {
        syscall_filter::enter(ThreadKind::Machine, self.request.id.as_str());
        // Whatever is logged on this thread is about this VM, also by devices, which do not know its name.
        let _about = tracing::info_span!("machine", vm_id = %self.request.id).entered();
        let Self { request, console_files, reaper, release, .. } = self;
        let LaunchRequest {
            id,
            spec,
            verified,
            initial,
            resets,
            lock,
            console_dir,
            isolation: _,
            limits: _,
            notes: _,
        } = request;
        let files =
            console_dir.map(|directory| console_files.register(&id, self.console.recorder(), directory));
        drop(console_files);
        let driver = MachineDriver {
            id,
            inbox: self.inbox,
            status: self.status,
            heartbeat: self.heartbeat,
            requested: self.requested,
            under_way: Some(self.under_way),
            slow_turns: SlowTurns::default(),
            last_command: None,
            resets,
            boot_files: BootFiles::default(),
            button: None,
            orders: StandingOrders::default(),
        };
        let place = MachinePlace {
            engine: self.engine,
            console: self.console,
            counters: self.counters,
            driver,
            files,
            lock,
            reaper,
            release,
        };
        place.run(Beginning::First { spec: Box::new(spec), verified, initial });
    }
}

/// `vm:<id>` in what fits a thread's name. Of a longer id both ends are kept: families of VMs tend to share the
/// front.
pub fn thread_name(id: &VmId) -> String {
    let whole = format!("vm:{id}");
    if whole.len() <= THREAD_NAME_BYTES {
        return whole;
    }
    // Ids are ASCII: every byte is a character's border.
    let (front, back) = (&whole[..9], &whole[whole.len() - 5..]);
    format!("{front}~{back}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_names_fit_and_tell_long_ids_apart() {
        assert_eq!(thread_name(&VmId::new("web-1")), "vm:web-1");
        assert_eq!(thread_name(&VmId::new("exactly-12-b")), "vm:exactly-12-b");
        assert_eq!(thread_name(&VmId::new("web-frontend-17")), "vm:web-fr~nd-17");
        assert_eq!(thread_name(&VmId::new(&"a".repeat(63))).len(), THREAD_NAME_BYTES);
    }
}
