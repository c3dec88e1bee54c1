//! Boots a kernel in a machine of its own and shows its console: `boot KERNEL [--initrd FILE] [--disk FILE]…
//! [--vcpus N] [--mib N] [--seconds N] [--cmdline TEXT]`.
//!
//! The smallest owner that a machine can have, for a look at a kernel or a host.
#![expect(clippy::print_stdout, reason = "an example talks to its terminal")]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use devices::serial::ConsoleSink;
use hypervisor::Hypervisor;
use vm_model::{
    BootSpec, Bytes, CpuSpec, DiskAccess, DiskFormat, DiskOptions, DiskSpec, InitialState, MachineSpec,
    MemoryBacking, MemorySpec, SerialMode,
};
use vmm::{BuildOptions, Controller, Flow, Machine, MachineEvent};

struct Terminal;

impl ConsoleSink for Terminal {
    fn write(&mut self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        // A closed terminal is no reason to stop the guest.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }
}

/// Kills the guest at a deadline.
struct Patience {
    wake: OwnedFd,
    started: Instant,
    until: Instant,
}

impl Controller for Patience {
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn woken(&mut self, _machine: &mut Machine) -> Flow {
        Flow::Kill
    }

    fn next_deadline(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn deadline_passed(&mut self, _machine: &mut Machine) -> Flow {
        Flow::Kill
    }

    fn event(&mut self, event: MachineEvent) {
        println!("[{:?}] {event:?}", self.started.elapsed());
    }
}

struct Arguments {
    spec: MachineSpec<OwnedFd>,
    patience: Duration,
}

fn parse() -> Result<Arguments, Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let kernel =
        words.next().ok_or("usage: boot KERNEL [--initrd FILE] [--disk FILE] [--vcpus N] [--mib N]")?;
    let mut arguments = Arguments {
        spec: MachineSpec {
            uuid: uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0),
            cpus: CpuSpec::default(),
            memory: MemorySpec {
                size: Bytes::from_mib(256),
                backing: MemoryBacking::SharedMemfd,
                prefault: false,
            },
            boot: BootSpec {
                kernel: File::open(kernel)?.into(),
                initrd: None,
                cmdline: "console=ttyS0 panic=-1".into(),
            },
            disks: Vec::new(),
            nics: Vec::new(),
            serial: SerialMode::Console,
            rng: true,
            services: Default::default(),
        },
        patience: Duration::from_secs(60),
    };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let spec = &mut arguments.spec;
        match word.as_str() {
            "--initrd" => spec.boot.initrd = Some(File::open(value)?.into()),
            "--disk" => spec.disks.push(disk(&value, spec.disks.len())?),
            "--vcpus" => spec.cpus.boot_vcpus = value.parse()?,
            "--mib" => spec.memory.size = Bytes::from_mib(value.parse()?),
            "--seconds" => arguments.patience = Duration::from_secs(value.parse()?),
            "--cmdline" => spec.boot.cmdline = value,
            _ => return Err(format!("{word} is not known").into()),
        }
    }
    Ok(arguments)
}

fn disk(path: &str, index: usize) -> Result<DiskSpec<OwnedFd>, std::io::Error> {
    Ok(DiskSpec {
        direct_file: None,
        id: format!("disk{index}"),
        file: File::options().read(true).write(true).open(path)?.into(),
        format: DiskFormat::Raw,
        access: DiskAccess::ReadWrite,
        serial: None,
        queue_size: 256,
        options: DiskOptions::default(),
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { spec, patience } = parse()?;
    let started = Instant::now();
    let hypervisor = Hypervisor::open()?;
    let options = BuildOptions::new("boot", Box::new(Terminal));
    let mut machine = Machine::build(&hypervisor, spec, options)?;
    println!("[{:?}] built", started.elapsed());
    machine.start(InitialState::Running)?;
    let (wake, _other) = std::os::unix::net::UnixStream::pair()?;
    let mut owner = Patience { wake: wake.into(), started, until: started + patience };
    let exit = machine.run(&mut owner);
    println!("[{:?}] {exit:?}", started.elapsed());
    println!("{:#?}", machine.counters());
    Ok(())
}
