//! The ACPI tables of a hardware-reduced machine (ACPI 6.4): bytes and where they go, computed from its shape.
//!
//! The registers that the tables speak of are devices'; where they lie is `layout`'s.

mod dsdt;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

pub(crate) use devices::acpi::RESET_VALUE;

use crate::layout;
use crate::topology::Topology;

const OEM: [u8; 6] = *b"PROCUR";
const OEM_TABLE: [u8; 8] = *b"MACHINE1";
const OEM_REVISION: u32 = 1;

/// FADT `IAPC_BOOT_ARCH` (ACPI 6.4 §5.2.9.3): there is no VGA to probe for and no legacy PIC or PIT to count on.
/// The keyboard controller's bit stays clear: it has a reset pulse and no keyboard.
const VGA_NOT_PRESENT: u16 = 1 << 2;

/// What of a machine its tables depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MachineShape {
    /// vCPUs, numbered from 0.
    pub(crate) vcpus: u8,
    /// Which APIC is whose.
    pub(crate) topology: Topology,
    /// Whether the guest can report a panic.
    pub(crate) panic_device: bool,
}

/// Everything ACPI that must be in memory before the first instruction.
#[derive(Debug)]
pub(crate) struct Tables {
    /// Where the root pointer lies.
    pub(crate) rsdp: u64,
    /// Guest-physical addresses and what to write there.
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
}

/// The tables of a machine of this shape.
pub(crate) fn build_tables(shape: &MachineShape) -> Tables {
    let mut placer = Placer { next: layout::ACPI.start + Rsdp::len() as u64, pieces: Vec::with_capacity(6) };
    let dsdt = placer.place(&dsdt::build(shape));
    let fadt = placer.place(&bytes_of(&fadt(dsdt)));
    let madt = placer.place(&bytes_of(&madt(shape)));
    let mcfg = placer.place(&bytes_of(&mcfg()));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = placer.place(&bytes_of(&xsdt));
    let mut pieces = placer.pieces;
    pieces.push((layout::ACPI.start, bytes_of(&Rsdp::new(OEM, xsdt))));
    Tables { rsdp: layout::ACPI.start, pieces }
}

/// Lays tables one after another.
struct Placer {
    next: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Placer {
    fn place(&mut self, table: &[u8]) -> u64 {
        let address = self.next.next_multiple_of(16);
        self.next = address + table.len() as u64;
        debug_assert!(self.next <= layout::ACPI.end, "255 vCPUs need 2 KiB of tables");
        self.pieces.push((address, table.to_vec()));
        address
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let register = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, layout::SLEEP_PORTS.start);
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Wbinvd)
        .flag(Flags::Headless)
        .preferred_pm_profile(PmProfile::EnterpriseServer);
    fadt.iapc_boot_arch = VGA_NOT_PRESENT.into();
    fadt.reset_reg = register;
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = register;
    fadt.sleep_status_reg = register;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"PROCURAT").into();
    fadt.finalize()
}

fn madt(shape: &MachineShape) -> MADT {
    let local_apic = u32::try_from(layout::LOCAL_APIC).expect("the local APIC lies below 4 GiB");
    let io_apic = u32::try_from(layout::IO_APIC).expect("the I/O APIC lies below 4 GiB");
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(local_apic));
    for index in 0..shape.vcpus {
        madt.add_structure(ProcessorLocalApic::new(
            index,
            shape.topology.apic_id(index),
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(0, io_apic, 0));
    madt
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(layout::PCI_ECAM.start, 0, 0, 0);
    mcfg
}

#[cfg(test)]
mod tests {
    use vm_model::{CpuSpec, CpuTopology};

    use super::*;

    fn shape(vcpus: u8) -> MachineShape {
        let topology = Topology::of(&CpuSpec::of(vcpus)).unwrap();
        MachineShape { vcpus, topology, panic_device: true }
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_has_a_valid_length_and_checksum() {
        for vcpus in [1, 2, 255] {
            let tables = build_tables(&shape(vcpus));
            for (address, bytes) in &tables.pieces {
                assert_eq!(address % 16, 0);
                assert!(address + bytes.len() as u64 <= layout::ACPI.end);
                assert_eq!(sum(bytes), 0, "checksum at {address:#x}");
                if *address != tables.rsdp {
                    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
                    assert_eq!(length as usize, bytes.len());
                }
            }
        }
    }

    #[test]
    fn the_root_leads_to_every_table() {
        let tables = build_tables(&shape(3));
        let at = |address: u64| {
            let piece = tables.pieces.iter().find(|(start, _)| *start == address);
            &piece.expect("a table starts there").1
        };
        let pointer = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let root = at(tables.rsdp);
        assert_eq!(&root[..8], b"RSD PTR ");
        assert_eq!(sum(&root[..20]), 0, "the checksum of version 1");
        let xsdt = at(pointer(&root[24..]));
        let names: Vec<_> = xsdt[36..].chunks(8).map(|entry| at(pointer(entry))[..4].to_vec()).collect();
        assert_eq!(names, [b"FACP", b"APIC", b"MCFG"]);
        let fadt = at(pointer(&xsdt[36..]));
        assert_eq!(&at(pointer(&fadt[140..]))[..4], b"DSDT");
        let madt = at(pointer(&xsdt[44..]));
        assert_eq!(madt.len(), 44 + 3 * 8 + 12);
    }

    #[test]
    fn processors_are_listed_by_their_apic_ids() {
        let topology =
            CpuTopology { threads_per_core: 1, cores_per_die: 3, dies_per_package: 1, packages: 2 };
        let topology = Topology::of(&CpuSpec { topology: Some(topology), ..CpuSpec::of(5) }).unwrap();
        let table = bytes_of(&madt(&MachineShape { vcpus: 5, topology, panic_device: true }));
        let listed: Vec<_> =
            table[44..44 + 5 * 8].chunks(8).map(|entry| (entry[0], entry[2], entry[3])).collect();
        assert_eq!(listed, [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 3, 4), (0, 4, 5)]);
    }

    #[test]
    fn the_generation_counter_says_where_its_identifier_is() {
        let tables = build_tables(&MachineShape {
            vcpus: 1,
            topology: Topology::of(&CpuSpec::of(1)).unwrap(),
            panic_device: false,
        });
        let dsdt = tables.pieces.iter().find(|(_, bytes)| bytes.starts_with(b"DSDT")).expect("there is one");
        // NameOp, the name, a package of two: a double word and zero (ACPI 6.4 §20.2).
        let mut package = b"\x08ADDR\x12\x08\x02\x0c".to_vec();
        package.extend_from_slice(&u32::try_from(layout::GENERATION_ID).unwrap().to_le_bytes());
        package.push(0);
        for expected in [&package[..], b"VM_Gen_Counter\0", b"\\._SB_VGEN"] {
            let found = dsdt.1.windows(expected.len()).filter(|window| *window == expected).count();
            assert!(found > 0, "{expected:x?} is not in the DSDT");
        }
    }

    /// Needs `iasl` (Debian: acpica-tools); says so where it is absent.
    #[test]
    fn the_tables_disassemble() {
        let directory = tempfile::tempdir().unwrap();
        let tables = build_tables(&shape(2));
        for (address, bytes) in &tables.pieces {
            let signature = String::from_utf8_lossy(&bytes[..4]).into_owned();
            if !matches!(signature.as_str(), "DSDT" | "FACP" | "APIC" | "MCFG") {
                continue;
            }
            let file = directory.path().join(format!("{signature}-{address:x}.aml"));
            std::fs::write(&file, bytes).unwrap();
            let Ok(output) = std::process::Command::new("iasl").arg("-d").arg(&file).output() else {
                println!("SKIPPED: no iasl on this host; install acpica-tools");
                return;
            };
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{signature}: {text}");
            assert!(!text.contains("Error") && !text.contains("Warning"), "{signature}: {text}");
        }
    }
}
