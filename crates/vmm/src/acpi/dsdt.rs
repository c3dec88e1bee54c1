//! The definition block: the machine's devices and how its guest is notified of events, as AML (ACPI 6.4 §20).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Device, EISAName, Equal, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method, Name, Notify, ONE,
    OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;
use devices::acpi::{GENERATION_EVENT, POWER_BUTTON_EVENT, S5_SLEEP_TYPE};

use super::{MachineShape, OEM, OEM_REVISION, OEM_TABLE};
use crate::layout;

const DSDT_HEADER: u32 = 36;
/// The revision whose integers have 64 bits.
const REVISION: u8 = 6;
/// The notification of a pressed button (ACPI 6.4 §5.6.6).
const BUTTON_PRESSED: u8 = 0x80;
/// The notification of a changed generation identifier (Virtual Machine Generation ID §2.2).
const GENERATION_CHANGED: u8 = 0x80;

/// The DSDT's bytes.
pub(super) fn build(shape: &MachineShape) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", DSDT_HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let mut body = Vec::new();
    pci_root(&mut body);
    platform_resources(&mut body);
    serial_port(&mut body);
    clock(&mut body);
    power_button(&mut body);
    generation_counter(&mut body);
    event_device(&mut body);
    soft_off(&mut body);
    if shape.panic_device {
        panic_device(&mut body);
    }
    table.append_slice(&body);
    table.as_slice().to_vec()
}

fn add_device(body: &mut Vec<u8>, name: &str, children: Vec<&dyn Aml>) {
    let device = Device::new(name.into(), children);
    Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(body);
}

fn address32(address: u64) -> u32 {
    u32::try_from(address).expect("the layout puts devices below 4 GiB")
}

fn port(number: u64) -> u16 {
    u16::try_from(number).expect("a port number has 16 bits")
}

fn ports(range: &std::ops::Range<u64>) -> IO {
    let length = u8::try_from(range.end - range.start).expect("a device has a few ports");
    IO::new(port(range.start), port(range.start), 1, length)
}

fn edge_interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

fn pci_root(body: &mut Vec<u8>) {
    let window = &layout::PCI_WINDOW;
    let resources = ResourceTemplate::new(vec![
        &AddressSpace::<u16>::new_bus_number(0, 0) as &dyn Aml,
        &ports(&layout::PCI_CONFIG_PORTS),
        &AddressSpace::<u32>::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            address32(window.start),
            address32(window.end - 1),
            None,
        ),
    ])
    .to_bytes();
    add_device(
        body,
        "PCI0",
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_CCA".into(), &ONE),
            &Name::new("_CRS".into(), &resources),
        ],
    );
}

/// The memory-mapped configuration space as a resource of the board, which Linux asks for before it uses it.
fn platform_resources(body: &mut Vec<u8>) {
    let ecam = &layout::PCI_ECAM;
    let resources = ResourceTemplate::new(vec![
        &Memory32Fixed::new(true, address32(ecam.start), address32(ecam.end - ecam.start)) as &dyn Aml,
        &ports(&layout::SLEEP_PORTS),
    ])
    .to_bytes();
    add_device(
        body,
        "MBRD",
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &resources),
        ],
    );
}

fn serial_port(body: &mut Vec<u8>) {
    let resources = ResourceTemplate::new(vec![
        &edge_interrupt(layout::SERIAL_GSI) as &dyn Aml,
        &ports(&layout::SERIAL_PORTS),
    ])
    .to_bytes();
    add_device(
        body,
        "COM1",
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new("_CRS".into(), &resources),
        ],
    );
}

fn clock(body: &mut Vec<u8>) {
    let resources = ResourceTemplate::new(vec![&ports(&layout::RTC_PORTS) as &dyn Aml]).to_bytes();
    add_device(
        body,
        "RTC0",
        vec![&Name::new("_HID".into(), &EISAName::new("PNP0B00")), &Name::new("_CRS".into(), &resources)],
    );
}

fn power_button(body: &mut Vec<u8>) {
    add_device(
        body,
        "PWRB",
        vec![&Name::new("_HID".into(), &EISAName::new("PNP0C0C")), &Name::new("_UID".into(), &ZERO)],
    );
}

/// The generation counter (Virtual Machine Generation ID §2.2), by the ids that drivers know it by: `ADDR` is the
/// identifier's address in two halves.
fn generation_counter(body: &mut Vec<u8>) {
    let low = address32(layout::GENERATION_ID);
    let address = Package::new(vec![&low, &ZERO]);
    add_device(
        body,
        "VGEN",
        vec![
            &Name::new("_HID".into(), &"QEMUVGID"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("ADDR".into(), &address),
        ],
    );
}

/// The generic event device (ACPI 6.4 §5.6.9): reading its register says which events are pending and clears them.
fn event_device(body: &mut Vec<u8>) {
    let resources =
        ResourceTemplate::new(vec![&edge_interrupt(layout::EVENT_DEVICE_GSI) as &dyn Aml]).to_bytes();
    let register = address32(layout::EVENT_DEVICE.start);
    add_device(
        body,
        "GED_",
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &resources),
            &OpRegion::new("GEDR".into(), OpRegionSpace::SystemMemory, &register, &4_u8),
            &Field::new(
                "GEDR".into(),
                FieldAccessType::DWord,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"EVTS", 32)],
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![
                    &Store::new(&Local(0), &Path::new("EVTS")),
                    &And::new(&Local(1), &Local(0), &POWER_BUTTON_EVENT),
                    &If::new(
                        &Equal::new(&Local(1), &POWER_BUTTON_EVENT),
                        vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &BUTTON_PRESSED)],
                    ),
                    &And::new(&Local(1), &Local(0), &GENERATION_EVENT),
                    &If::new(
                        &Equal::new(&Local(1), &GENERATION_EVENT),
                        vec![&Notify::new(&Path::new("\\_SB_.VGEN"), &GENERATION_CHANGED)],
                    ),
                ],
            ),
        ],
    );
}

/// The panic device, by the id that drivers know it by.
fn panic_device(body: &mut Vec<u8>) {
    let resources = ResourceTemplate::new(vec![&ports(&layout::PANIC_PORTS) as &dyn Aml]).to_bytes();
    add_device(
        body,
        "PEVT",
        vec![&Name::new("_HID".into(), &"QEMU0001"), &Name::new("_CRS".into(), &resources)],
    );
}

fn soft_off(body: &mut Vec<u8>) {
    let states = Package::new(vec![&S5_SLEEP_TYPE, &ZERO, &ZERO, &ZERO]);
    Name::new("\\_S5_".into(), &states).to_aml_bytes(body);
}

/// A resource template is borrowed by the `_CRS` around it, but borrows its own children: bytes break the chain.
trait ToBytes {
    fn to_bytes(&self) -> RawAml;
}

impl ToBytes for ResourceTemplate<'_> {
    fn to_bytes(&self) -> RawAml {
        let mut bytes = Vec::new();
        self.to_aml_bytes(&mut bytes);
        RawAml(bytes)
    }
}

struct RawAml(Vec<u8>);

impl Aml for RawAml {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}
