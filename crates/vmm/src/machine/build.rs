//! A machine from its description: one function a subsystem, each returning a value, called in the order that KVM
//! is quick in (memory slots, interrupt controllers, vCPUs, then descriptors on its I/O buses).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use devices::bus::Bus;
use devices::memory::{GuestMemory, GuestRegion};
use hypervisor::{HostFacts, Hypervisor, Vcpu, Vm, VmError, kvm_cpuid_entry2};
use vm_model::{BootSpec, CpuSpec, MachineSpec, MemoryBacking, MemorySpec};

use super::console::ConsoleTap;
use super::virtio::{self, BusSpec, VirtioDevices};
use super::{BuildError, BuildOptions, CounterSources, Machine, Phase, Platform, ProcessorsError, Told};
use crate::boot::{self, BootSource, Entry};
use crate::cpuid::{self, CpuidShape};
use crate::generation::GenerationId;
use crate::interrupts::InterruptRouter;
use crate::memory::{self, MemoryError, Ram, ResidentMemory};
use crate::outcome::Outcome;
use crate::poller::{Poller, Token, Trigger};
use crate::topology::Topology;
use crate::vcpu::{self, Affinity, Buses, Meter, VcpuContext};
use crate::{acpi, layout, reset_vector, smbios};

/// Builds the machine; see [`Machine::build`].
pub(super) fn build(
    hypervisor: &Hypervisor,
    spec: MachineSpec<OwnedFd>,
    options: BuildOptions,
) -> Result<Machine, BuildError> {
    let processors = arrange_processors(hypervisor, &spec.cpus, &spec.memory)?;
    if spec.services.balloon.is_some() && matches!(spec.memory.backing, MemoryBacking::HugePages(_)) {
        return Err(BuildError::Memory(MemoryError::BalloonOnHugePages));
    }
    let Ram { memory, regions, resident } = memory::allocate(&spec.memory).map_err(BuildError::Memory)?;
    let rsdp = write_firmware_tables(&memory, &spec, processors.topology).map_err(BuildError::Load)?;
    write_generation(&memory)?;
    let entry = load_guest(&memory, spec.boot, &spec.memory, rsdp).map_err(BuildError::Load)?;

    let vm = create_vm(hypervisor, regions)?;
    let vcpus = create_vcpus(&vm, &processors, &entry, &memory)?;

    let outcome = Arc::new(Outcome::new().map_err(watching("the machine's news"))?);
    let console = ConsoleTap::new(options.console, &outcome);
    let platform = Platform::build(&vm, spec.serial, spec.services.panic_device, &console, &outcome)?;
    let router = InterruptRouter::new(vm.clone());
    let parts = virtio::Parts { vm: &vm, router: &router, memory: &memory, outcome: &outcome };
    let bus = BusSpec { disks: spec.disks, nics: spec.nics, rng: spec.rng, services: spec.services };
    let mut virtio = VirtioDevices::build(&parts, bus, || Box::new(console))?;
    let buses = Arc::new(build_buses(&platform, &virtio).map_err(BuildError::Layout)?);
    let poller = build_poller(&outcome, &platform, &virtio)?;
    let counters = Arc::new(counter_sources(&spec.memory, resident, vcpus.len(), &mut virtio));
    Ok(Machine {
        phase: Phase::Built { vcpus },
        poller,
        context: VcpuContext {
            name: options.name,
            buses,
            outcome: outcome.clone(),
            affinity: processors.affinity,
            core_scheduling: spec.cpus.core_scheduling,
            #[cfg(any(test, feature = "fault-injection"))]
            injected_panic: options.injected_panic,
        },
        platform,
        virtio,
        devices_ended: false,
        settled: true,
        outcome,
        told: Told::default(),
        trouble: None,
        counters,
        memory,
        vm,
    })
}

/// The vCPUs' topology, CPUID and placement, before any is made.
struct Processors {
    vcpus: u8,
    topology: Topology,
    /// Of CPUID, the same for all.
    leaves: Vec<kvm_cpuid_entry2>,
    affinity: Arc<Affinity>,
}

/// Checks what depends on the host and the CPU, before anything is made.
fn arrange_processors(
    hypervisor: &Hypervisor,
    cpus: &CpuSpec,
    memory: &MemorySpec,
) -> Result<Processors, BuildError> {
    let facts: &HostFacts = hypervisor.facts();
    let vcpus = cpus.boot_vcpus;
    let most = facts.max_vcpus.min(facts.max_vcpu_id).min(255);
    if vcpus == 0 || u32::from(vcpus) > most {
        return Err(BuildError::Vcpus { vcpus, most });
    }
    // Ids may have gaps. A host that takes none so high refuses the vCPU when it is made.
    let topology =
        Topology::of(cpus).map_err(|problem| BuildError::Processors(ProcessorsError::Topology(problem)))?;
    let affinity = Affinity::on_this_host(&cpus.affinity, vcpus)
        .map_err(|problem| BuildError::Processors(ProcessorsError::Affinity(problem)))?;
    let supported = hypervisor.supported_cpuid().map_err(BuildError::Cpuid)?;
    let shape =
        CpuidShape { topology, tsc_deadline: facts.tsc_deadline_timer, max_phys_bits: cpus.max_phys_bits };
    let leaves = cpuid::for_machine(supported.as_slice(), &shape);
    let (end, bits) = (layout::highest_address(memory.size.get()), cpuid::phys_bits(&leaves));
    if bits < 64 && end >> bits != 0 {
        return Err(BuildError::AddressBits { end, bits });
    }
    Ok(Processors { vcpus, topology, leaves, affinity: Arc::new(affinity) })
}

/// Writes what a PC's firmware would have left and says where ACPI's root pointer lies.
fn write_firmware_tables(
    memory: &GuestMemory,
    spec: &MachineSpec<OwnedFd>,
    topology: Topology,
) -> Result<u64, boot::LoadError> {
    let shape = acpi::MachineShape {
        vcpus: spec.cpus.boot_vcpus,
        topology,
        panic_device: spec.services.panic_device,
    };
    let tables = acpi::build_tables(&shape);
    for (address, bytes) in tables.pieces {
        boot::write(memory, address, &bytes, "an ACPI table")?;
    }
    let oem_strings = &spec.services.oem_strings;
    for (address, bytes) in smbios::build(spec.uuid.to_bytes_le(), spec.memory.size, oem_strings) {
        boot::write(memory, address, &bytes, "SMBIOS structures")?;
    }
    let (address, code) = reset_vector::build();
    boot::write(memory, address, &code, "the reset vector")?;
    Ok(tables.rsdp)
}

/// Gives the machine a new generation identifier.
fn write_generation(memory: &GuestMemory) -> Result<(), BuildError> {
    let id = GenerationId::random().map_err(|error| BuildError::Device {
        device: "generation counter".to_owned(),
        source: error.into(),
    })?;
    boot::write(memory, layout::GENERATION_ID, &id.bytes(), "the generation identifier")
        .map_err(BuildError::Load)
}

fn load_guest(
    memory: &GuestMemory,
    boot: BootSpec<OwnedFd>,
    spec: &MemorySpec,
    rsdp: u64,
) -> Result<Entry, boot::LoadError> {
    let source = BootSource {
        kernel: boot.kernel.into(),
        initrd: boot.initrd.map(Into::into),
        cmdline: &boot.cmdline,
        rsdp,
        memory_size: spec.size.get(),
    };
    boot::load(memory, source)
}

fn refused(step: &'static str) -> impl FnOnce(VmError) -> BuildError {
    move |source| BuildError::Hypervisor { step, source }
}

/// The machine with its memory and interrupt controllers.
fn create_vm(hypervisor: &Hypervisor, regions: Vec<Arc<GuestRegion>>) -> Result<Arc<Vm>, BuildError> {
    let vm = hypervisor.create_vm().map_err(refused("creating the machine"))?;
    for region in regions {
        vm.add_memory(region).map_err(refused("a memory slot"))?;
    }
    vm.create_irqchip().map_err(refused("the interrupt controllers"))?;
    Ok(Arc::new(vm))
}

fn create_vcpus(
    vm: &Vm,
    processors: &Processors,
    entry: &Entry,
    memory: &GuestMemory,
) -> Result<Vec<Vcpu>, BuildError> {
    let Processors { vcpus, topology, leaves, affinity: _ } = processors;
    (0..*vcpus)
        .map(|index| {
            let vcpu =
                vm.create_vcpu_with_apic_id(index, topology.apic_id(index)).map_err(refused("a vCPU"))?;
            vcpu::prepare(&vcpu, leaves, topology, entry, memory)
                .map_err(|source| BuildError::CpuSetup { index, source })?;
            Ok(vcpu)
        })
        .collect()
}

fn build_buses(platform: &Platform, virtio: &VirtioDevices) -> Result<Buses, devices::bus::BusError> {
    let (mut ports, mut memory) = (Bus::builder(), Bus::builder());
    platform.attach(&mut ports, &mut memory)?;
    virtio.attach(&mut ports, &mut memory)?;
    Ok(Buses { ports: ports.build(), memory: memory.build() })
}

fn watching(what: &'static str) -> impl FnOnce(std::io::Error) -> BuildError {
    move |source| BuildError::EventLoop { what, source }
}

fn build_poller(
    outcome: &Outcome,
    platform: &Platform,
    virtio: &VirtioDevices,
) -> Result<Poller, BuildError> {
    let poller = Poller::new().map_err(watching("anything"))?;
    poller.watch(&outcome.bell(), Token::Outcome, Trigger::Edge).map_err(watching("the machine's news"))?;
    poller
        .watch(&platform.serial.room_event(), Token::SerialRoom, Trigger::Edge)
        .map_err(watching("the serial port"))?;
    virtio.watch(&poller).map_err(watching("a virtio device"))?;
    Ok(poller)
}

fn counter_sources(
    memory: &MemorySpec,
    resident: ResidentMemory,
    vcpus: usize,
    virtio: &mut VirtioDevices,
) -> CounterSources {
    CounterSources {
        vcpus: (0..vcpus).map(|_| Arc::new(Meter::default())).collect(),
        memory_size: memory.size,
        resident,
        devices: virtio.take_counters(),
    }
}
