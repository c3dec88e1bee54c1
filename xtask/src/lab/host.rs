//! The outer host: QEMU with virtualisation inside, one script, its output and its exit status.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::lab::disk::Tree;
use crate::lab::kept_disk::KeptDisk;
use crate::lab::loss::HostLost;
use crate::lab::programs::Program;
use crate::lab::pulse::Pulse;
use crate::lab::relay::{Relay, RelayEvent};
use crate::lab::virtualisation::{Acceleration, Virtualisation};
use crate::packages;

/// Drivers that the worker, its tests and the relay need. Each loads after what it needs itself.
const MODULES: [&str; 22] = [
    "virtio_console",
    "tun",
    "bridge",
    "veth",
    "8021q",
    "overlay",
    "loop",
    "dm_mod",
    "dm_flakey",
    "nf_tables",
    "nf_conntrack",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_chain_nat",
    "nft_fib_inet",
    "nft_reject_inet",
    "nft_limit",
    "nft_log",
    "nft_meta_bridge",
    "vhost_net",
    "vhost_vsock",
];

/// In the host's folder: where the shell of a host that is kept listens.
const SHELL_SOCKET: &str = "shell.sock";
/// QEMU's own prompt.
const MONITOR_SOCKET: &str = "monitor.sock";
/// The outer host's kernel messages.
const KERNEL_LOG: &str = "kernel.log";
/// What grows while the outer host lives.
const PULSE_FILE: &str = "pulse";

/// One run of the outer host.
pub(crate) struct Session<'lab> {
    pub(crate) lab: &'lab Lab,
    /// Executables; they are found under `/lab/bin/<name>`.
    pub(crate) programs: &'lab [Program],
    /// What runs, in POSIX shell.
    pub(crate) script: &'lab str,
    /// After this time, counted from each boot, everything is ended and the run has failed.
    pub(crate) deadline: Duration,
    /// A disk that outlives a power cut, after which the host is booted again and the script begins anew.
    pub(crate) kept: Option<&'lab KeptDisk>,
    /// What happens after the script's end.
    pub(crate) afterwards: Afterwards,
}

/// Whether the outer host outlives its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// It switches itself off.
    PowerOff,
    /// It stays up, with a shell on a socket, until this program is interrupted.
    Keep,
}

/// How far a script was followed.
enum Followed {
    /// To its end, with that exit status.
    ToItsEnd(i32),
    /// Until the host is to lose its power.
    UntilPowerIsCut,
}

/// What the outer host's first program is, and what is its root file system.
pub(crate) trait Init {
    /// Adds what it needs to the lab's disk.
    fn add_to(&self, tree: &Tree) -> Result<()>;

    /// How the kernel mounts the root, and what `init` is told.
    fn kernel_parameters(&self) -> &'static str;

    /// The root file system; `None` where the lab's disk is it.
    fn root_image(&self) -> Option<&Path>;
}

/// A script under busybox.
struct BusyboxInit;

impl Init for BusyboxInit {
    fn add_to(&self, tree: &Tree) -> Result<()> {
        tree.add_script(include_str!("outer-init.sh"), "/sbin/init")?;
        tree.add_busybox()?;
        for name in ["nft", "ip", "dmsetup", "dbclient"] {
            tree.add_dynamic_program(name)?;
        }
        Ok(())
    }

    fn kernel_parameters(&self) -> &'static str {
        "ro"
    }

    fn root_image(&self) -> Option<&Path> {
        None
    }
}

impl Session<'_> {
    /// Boots the host, hands each line of the script's output to `on_line`, and returns the script's exit status.
    pub(crate) fn run(&self, on_line: impl FnMut(&str)) -> Result<i32> {
        self.run_under(&BusyboxInit, on_line)
    }

    /// As [`Session::run`], on a host with `init`.
    pub(crate) fn run_under(&self, init: &dyn Init, mut on_line: impl FnMut(&str)) -> Result<i32> {
        let folder = self.lab.workspace.lab_dir().join("host");
        let _alone = wait_for_turn(&folder)?;
        let virtualisation = Virtualisation::observe();
        let acceleration = virtualisation.acceleration();
        let disk = self.build_disk(&folder, virtualisation.driver(acceleration), init)?;
        match acceleration {
            Acceleration::Hardware => println!("Host     QEMU on this machine's KVM, nested"),
            Acceleration::Emulated => println!("Host     QEMU, emulating a processor with SVM"),
        }
        let (mut child, status) = loop {
            let mut qemu = self.qemu(acceleration, &disk, init)?;
            qemu.current_dir(&folder);
            let mut child = Guarded(qemu.spawn().context("cannot start QEMU")?);
            let output = child.0.stdout.take().context("QEMU was started with a pipe")?;
            match self.follow(&Relay::start(output), &folder, &mut on_line)? {
                Followed::ToItsEnd(status) => break (child, status),
                // Dropped, it is killed.
                Followed::UntilPowerIsCut => println!("Host     its power is cut; it boots again"),
            }
        };
        if self.afterwards == Afterwards::Keep {
            let shell = folder.join(SHELL_SOCKET);
            println!(
                "The outer host stays up; a shell in it: socat -,rawer UNIX-CONNECT:{}",
                shell.display()
            );
            println!(
                "Its kernel log: {}. Interrupt this program to end it.",
                folder.join(KERNEL_LOG).display()
            );
            child.0.wait().context("cannot wait for QEMU")?;
        }
        Ok(status)
    }

    /// Hands on lines up to the script's end or to a power cut. An error is a loss of the host, not a verdict of the script.
    fn follow(&self, relay: &Relay, folder: &Path, on_line: &mut impl FnMut(&str)) -> Result<Followed> {
        const LOOK: Duration = Duration::from_secs(5);
        let end = Instant::now() + self.deadline;
        let mut pulse = Pulse::of(&folder.join(PULSE_FILE));
        let loss = loop {
            match relay.next(end.min(Instant::now() + LOOK)) {
                RelayEvent::Line(line) => on_line(&line),
                RelayEvent::Ended(status) => return Ok(Followed::ToItsEnd(status)),
                RelayEvent::PowerCut(after) if self.kept.is_some() => {
                    thread::sleep(after);
                    return Ok(Followed::UntilPowerIsCut);
                }
                RelayEvent::PowerCut(_) => on_line("a power cut was asked for, and no disk is kept"),
                RelayEvent::Closed => break HostLost::Died,
                RelayEvent::DeadlinePassed if Instant::now() >= end => {
                    break HostLost::OutOfTime(self.deadline);
                }
                RelayEvent::DeadlinePassed if pulse.has_stopped() => break HostLost::Hangs,
                RelayEvent::DeadlinePassed => {}
            }
        };
        let logs = format!("{} and {}", folder.join(KERNEL_LOG).display(), folder.join("qemu.log").display());
        Err(loss).with_context(|| {
            format!("more is in {logs}; its last lines:\n{}", tail(&folder.join(KERNEL_LOG)))
        })
    }

    fn build_disk(&self, folder: &Path, kvm_driver: &str, init: &dyn Init) -> Result<PathBuf> {
        let tree = Tree::create(&folder.join("root"))?;
        init.add_to(&tree)?;
        let names: Vec<&str> = MODULES.into_iter().chain([kvm_driver]).collect();
        let modules = self.lab.kernel.module_index()?.load_order(&names)?;
        for module in &modules {
            tree.add_file(&self.lab.kernel.modules_dir.join(module), &format!("/lib/modules/{module}"))?;
        }
        tree.add_script(&(modules.join("\n") + "\n"), "/lab/modules")?;
        for store_path in self.lab.images.store_paths() {
            tree.add_folder(store_path)?;
        }
        tree.add_script(&self.lab.images.to_json()?, "/lab/images.json")?;
        for program in self.programs {
            tree.add_file(&program.path, &format!("/lab/bin/{}", program.name))?;
        }
        tree.add_script(self.script, "/lab/script")?;
        let image = folder.join("root.img");
        tree.write_image(&image)?;
        Ok(image)
    }

    /// QEMU with the images' own kernel and initial root file system, which mounts whatever `root=` names. It dies with
    /// this program, also when that is killed.
    fn qemu(&self, acceleration: Acceleration, disk: &Path, init: &dyn Init) -> Result<Command> {
        let guest = &self.lab.images.guest()?.store_path;
        let mut command = Command::new(packages::find_program("setpriv").context("setpriv is not there")?);
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        command.args(acceleration.qemu_arguments());
        command.args(["-m", "3000", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-no-reboot", "-d", "cpu_reset,guest_errors", "-D", "qemu.log"]);
        command.args(["-monitor", &format!("unix:{MONITOR_SOCKET},server=on,wait=off")]);
        command.arg("-kernel").arg(guest.join("vmlinux"));
        command.arg("-initrd").arg(guest.join("initrd"));
        let more = acceleration.kernel_parameters();
        let root = init.kernel_parameters();
        command.args(["-append", &format!("console=ttyS0 root=/dev/vda {root} quiet panic=-1{more}")]);
        command.args(["-serial", &format!("file:{KERNEL_LOG}")]);
        // Disks in the order of their letters. What is written to a root of its own is gone with QEMU.
        if let Some(root) = init.root_image() {
            command.arg("-drive").arg(format!("file={},if=virtio,format=raw,snapshot=on", root.display()));
        }
        command.arg("-drive").arg(format!("file={},if=virtio,format=raw,read-only=on", disk.display()));
        command.args(self.kept.into_iter().flat_map(KeptDisk::qemu_arguments));
        command.args(["-device", "virtio-serial-pci", "-chardev", "file,id=relay,path=/dev/stdout"]);
        command.args(["-device", "virtserialport,chardev=relay,nr=1,name=procurator.relay"]);
        command.args(["-chardev", &format!("file,id=pulse,path={PULSE_FILE}")]);
        command.args(["-device", "virtserialport,chardev=pulse,nr=2,name=procurator.pulse"]);
        if self.afterwards == Afterwards::Keep {
            // Relative to QEMU's folder: the names of sockets are short.
            let socket = format!("socket,id=shell,path={SHELL_SOCKET},server=on,wait=off");
            command.args(["-chardev", &socket, "-device", "virtconsole,chardev=shell,nr=3"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }
}

/// Holds the host's folder until dropped: two hosts at once would share their disk, and their processors.
fn wait_for_turn(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.with_extension("lock");
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if lock.try_lock().is_err() {
        println!("Waiting for another outer host to end");
        lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(lock)
}

/// A child that does not outlive its owner.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // Both fail only where it has ended and been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last lines of a log, or why there are none.
fn tail(log: &Path) -> String {
    const LINES: usize = 40;
    match fs::read(log) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LINES)..].join("\n")
        }
        Err(error) => format!("({} cannot be read: {error})", log.display()),
    }
}
