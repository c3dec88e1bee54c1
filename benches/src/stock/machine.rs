//! The process of a machine of ours: one guest under `vmm-host`, its TAP by `host-network`, its console on standard
//! output.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};
use host_network::{Egress, HostNetwork, LinkName, NetworkConfig, NicAttachment, Teardown};
use hypervisor::Hypervisor;
use ipnetwork::Ipv4Network;
use machine_host::{LaunchRequest, MachineHandle};
use vm_model::{
    BootSpec, Bytes, CpuSpec, DiskAccess, DiskFormat, DiskOptions, DiskSpec, GuestServices, InitialState,
    MacAddress, MachineSpec, MemoryBacking, MemorySpec, NicOptions, NicSpec, ResetPolicy, SerialMode, VmId,
};
use vmm_host::{HostOptions, VmmHost};

use crate::workload::{GUEST, HOST, Workload};

const MAC: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 2]);

/// Runs the guest of `files` (kernel, initial RAM disk, disk) until it ends. It has a network where its command line names a workload that needs one.
pub(crate) fn run(files: [&Path; 3], backing: MemoryBacking, cmdline: &str) -> Result<()> {
    let [kernel, initrd, disk] = files;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let boot = BootSpec {
        kernel: open(kernel)?.into(),
        initrd: Some(open(initrd)?.into()),
        cmdline: cmdline.to_owned(),
    };
    let has_network = Workload::ALL
        .iter()
        .any(|workload| workload.has_network() && cmdline == crate::guest::Guest::cmdline(*workload));
    runtime.block_on(async {
        let network = if has_network { Some(Network::start().await?) } else { None };
        let nics = network.as_ref().map(|network| network.nic()).transpose()?;
        let host = VmmHost::new(Hypervisor::open()?, HostOptions::default())?;
        let machine = host.launch(request(boot, backing, disk_spec(disk)?, nics)).await?;
        show_console(&machine).await?;
        machine.exited().await;
        machine.released().await;
        match network {
            Some(network) => network.stop().await,
            None => Ok(()),
        }
    })
}

async fn show_console(machine: &MachineHandle) -> Result<()> {
    let mut console = machine.console_recorder().context("the machine is in another process")?.follow(0);
    let mut output = std::io::stdout().lock();
    while let Some(chunk) = console.next().await {
        output.write_all(&chunk.bytes).and_then(|()| output.flush()).context("cannot show the console")?;
    }
    Ok(())
}

/// A bridge with one TAP.
struct Network {
    network: HostNetwork,
    taps: Vec<OwnedFd>,
}

impl Network {
    async fn start() -> Result<Self> {
        let subnet = Ipv4Network::new(HOST, 24).context("a network")?;
        let subnet = Ipv4Network::new(subnet.network(), 24).context("a network")?;
        let mut config = NetworkConfig::new(LinkName::parse("bench0")?, subnet);
        config.egress = Egress::Isolated;
        let network = HostNetwork::start(config).await?;
        let attachment = NicAttachment {
            vm: VmId::new("stock"),
            nic: "net0".to_owned(),
            mac: MAC,
            address: GUEST,
            mask: None,
            mtu: None,
            tap_hint: None,
            queues: NonZeroU16::MIN,
            access: vm_model::NetworkAccess::default(),
        };
        let taps = network.attach(attachment).await?.fds;
        Ok(Self { network, taps })
    }

    fn nic(&self) -> Result<NicSpec<OwnedFd>> {
        let taps = self.taps.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>();
        Ok(NicSpec {
            id: "net0".into(),
            taps: taps.context("cannot share the TAP")?,
            mac: MAC,
            mtu: None,
            queue_size: 256,
            vhost: None,
            options: NicOptions::default(),
        })
    }

    async fn stop(self) -> Result<()> {
        drop(self.taps);
        self.network.shutdown(Teardown::Remove).await?;
        Ok(())
    }
}

fn request(
    boot: BootSpec<OwnedFd>,
    backing: MemoryBacking,
    disk: DiskSpec<OwnedFd>,
    nic: Option<NicSpec<OwnedFd>>,
) -> LaunchRequest {
    let spec = MachineSpec {
        uuid: uuid::Uuid::from_u128(1),
        cpus: CpuSpec::of(1),
        memory: MemorySpec { size: Bytes::from_mib(256), backing, prefault: false },
        boot,
        disks: vec![disk],
        nics: nic.into_iter().collect(),
        serial: SerialMode::Console,
        rng: true,
        services: GuestServices::default(),
    };
    let (initial, resets) = (InitialState::Running, ResetPolicy::EndsMachine);
    LaunchRequest {
        id: VmId::new("stock"),
        spec,
        verified: None,
        initial,
        isolation: Default::default(),
        limits: Default::default(),
        resets,
        console_dir: None,
        lock: None,
        notes: String::new(),
    }
}

fn disk_spec(path: &Path) -> Result<DiskSpec<OwnedFd>> {
    let file = File::options().read(true).write(true).open(path);
    Ok(DiskSpec {
        id: "disk0".into(),
        direct_file: None,
        file: file.with_context(|| format!("cannot open {}", path.display()))?.into(),
        format: DiskFormat::Raw,
        access: DiskAccess::ReadWrite,
        serial: None,
        queue_size: 128,
        options: DiskOptions::default(),
    })
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}
