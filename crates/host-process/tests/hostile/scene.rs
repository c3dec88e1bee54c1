//! A worker, a sibling and a hostile machine.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use console_log::ConsoleFiles;
use fail_points::COMMAND_PORT;
use host_process::{HostProcessOptions, HostProcesses};
use machine_host::{CommandError, MachineHandle, MachineHost, StopPolicy};
use tiny_guest::TinyGuest;
use tokio::task::JoinHandle;
use vm_model::{DiskAccess, DiskFormat, DiskOptions, DiskSpec, MachineExit, MachinePhase, ThreadHealth};

use super::support::{Ground, PATIENCE, directory, file_with, host, launch, options, request, until, within};

/// A command with this bit is for the process' first thread.
const ON_MAIN: u8 = 0x80;

/// Which thread says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Vcpu,
    Main,
}

/// A worker with a sibling, and what the acts are about.
pub(crate) struct Scene {
    worker: HostProcesses,
    sibling: MachineHandle,
    /// What the sibling's guest says, and how often it was asked to say something.
    console: ConsoleFiles,
    beats: Cell<u32>,
    acts: BTreeMap<String, u8>,
    _sockets: [UnixListener; 2],
    _port: TcpListener,
    ground: Ground,
}

impl Scene {
    pub(crate) async fn new(change: impl FnOnce(&mut HostProcessOptions)) -> Self {
        let ground = directory();
        let path = ground.path();
        let mut options = options(&ground);
        options.program[0] = env!("CARGO_BIN_EXE_hostile-vm-host").into();
        change(&mut options);
        let worker = host(options);
        fs::create_dir(path.join("console")).expect("made");
        let mut request = request("sibling", &TinyGuest::echo());
        request.console_dir = Some(File::open(path.join("console")).expect("it is there").into());
        let sibling = within(worker.launch(request)).await.expect("it launches");
        let console = ConsoleFiles::open(&path.join("console")).expect("it can be read");
        let process = worker.process_of(sibling.id()).expect("its process").pid;
        let port = TcpListener::bind("127.0.0.1:0").expect("a port");
        fs::write(path.join("port"), port.local_addr().expect("bound").port().to_string()).expect("written");
        fs::write(path.join("sibling"), process.to_string()).expect("written");
        fs::create_dir(path.join("mount")).expect("made");
        let open = UnixListener::bind(path.join("open.sock")).expect("bound");
        fs::set_permissions(path.join("open.sock"), PermissionsExt::from_mode(0o777)).expect("set");
        let name = SocketAddr::from_abstract_name(path.as_os_str().as_encoded_bytes()).expect("a name");
        let sockets = [open, UnixListener::bind_addr(&name).expect("bound")];
        Self {
            worker,
            sibling,
            console,
            beats: Cell::new(0),
            acts: acts(),
            _sockets: sockets,
            _port: port,
            ground,
        }
    }

    /// A machine whose guest commands what it is told on its console, with a disk.
    pub(crate) async fn launch_hostile(&self) -> MachineHandle {
        let mut request = request("hostile", &TinyGuest::relay(COMMAND_PORT));
        request.spec.disks = vec![DiskSpec {
            direct_file: None,
            id: "disk".to_owned(),
            file: file_with(&[0; 4096]),
            format: DiskFormat::Raw,
            access: DiskAccess::ReadWrite,
            serial: None,
            queue_size: 128,
            options: DiskOptions::default(),
        }];
        within(self.worker.launch(request)).await.expect("the machine launches")
    }

    /// Has the guest command. Nobody waits for the answer: the process may end of it, or lose its connection, before that.
    pub(crate) fn command(&self, machine: &MachineHandle, act: &str, thread: Thread) -> Commanding {
        let number = self.acts[act] | if thread == Thread::Main { ON_MAIN } else { 0 };
        let machine = machine.clone();
        let answer = tokio::spawn(async move { machine.write_console(vec![number]).await.map(drop) });
        Commanding(answer)
    }

    /// What `attempt` comes to in a machine of its own, which ends of it.
    pub(crate) async fn attempt(&self, attempt: &str, thread: Thread) -> String {
        let machine = self.launch_hostile().await;
        let _commanding = self.command(&machine, attempt, thread);
        let MachineExit::HostLost(reason) = within(machine.exited()).await else {
            panic!("{attempt}: its process ends")
        };
        within(machine.released()).await;
        self.sibling_is_well(attempt).await;
        reason
    }

    /// The sibling's guest answers on its console, and nothing is said of its machine.
    pub(crate) async fn sibling_is_well(&self, after: &str) {
        let beat = self.beats.get() + 1;
        self.beats.set(beat);
        let text = format!("{beat}\n");
        assert_eq!(
            within(self.sibling.write_console(text.clone().into_bytes())).await,
            Ok(text.len()),
            "{after}"
        );
        until(after, || {
            let newest = self.console.newest().expect("it can be read");
            newest.is_some_and(|boot| {
                self.console.tail_lines(boot, 1).expect("it can be read") == [beat.to_string()]
            })
        })
        .await;
        assert_eq!(self.sibling.status().borrow().phase, MachinePhase::Running, "{after}");
        assert_eq!(*self.sibling.health().borrow(), ThreadHealth::Turning, "{after}");
    }

    /// The worker starts a new machine, whose guest powers off as it is asked to.
    pub(crate) async fn another_starts(&self) {
        let another = launch(&self.worker, "another", &TinyGuest::power_button()).await;
        let report = within(another.stop(StopPolicy::default())).await.expect("it stops");
        assert_eq!(report.exit, MachineExit::PoweredOff);
        within(another.released()).await;
    }

    /// The worker does what it always does, and ends.
    pub(crate) async fn end(self) {
        self.another_starts().await;
        assert_eq!(within(self.worker.shut_down(PATIENCE / 2)).await.remaining, []);
        drop(self.ground);
    }
}

/// What waits for an answer, until this is dropped.
pub(crate) struct Commanding(JoinHandle<Result<(), CommandError>>);

impl Drop for Commanding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The acts of the hostile process, and their numbers.
pub(crate) fn acts() -> BTreeMap<String, u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_hostile-vm-host")).arg("--acts").output().expect("started");
    let names = String::from_utf8(output.stdout).expect("text");
    (0..ON_MAIN).zip(names.lines()).map(|(number, name)| (name.to_owned(), number)).collect()
}
