//! The kernel files, as the loader of the virtual machine monitors reads them.

use std::io::Cursor;
use std::net::Ipv4Addr;

use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Attack, ENTRY_ADDRESS, LONGEST_MESSAGE, MEMORY_SIZE, Target, TinyGuest};

fn load(guest: &TinyGuest) -> (KernelLoaderResult, GuestMemoryMmap) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    let loaded = Elf::load(&memory, None, &mut Cursor::new(guest.elf()), None).unwrap();
    (loaded, memory)
}

#[test]
fn a_loader_finds_the_pvh_entry_and_the_end() {
    let (loaded, memory) = load(&TinyGuest::hello("hi"));
    let entry = GuestAddress(u64::from(ENTRY_ADDRESS));
    assert_eq!(loaded.pvh_boot_cap, PvhBootCapability::PvhEntryPresent(entry));
    assert_eq!(loaded.kernel_end, entry.0 + MEMORY_SIZE);
    let image = TinyGuest::hello("hi").image();
    let mut found = vec![0; image.len()];
    memory.read_slice(&mut found, entry).unwrap();
    assert_eq!(found, image);
}

#[test]
fn the_message_is_where_the_parameter_says() {
    let image = TinyGuest::chatter("a message", 3).image();
    let word = |offset: usize| u32::from_le_bytes(image[offset..offset + 4].try_into().unwrap());
    let parameters = 16;
    assert_eq!((word(parameters), word(parameters + 8)), (0, 3));
    let message = usize::try_from(word(parameters + 4) - ENTRY_ADDRESS).unwrap();
    assert_eq!(&image[message..], b"a message\0");
}

#[test]
fn an_address_lies_as_in_a_packet() {
    let image = TinyGuest::network_host(Some(Ipv4Addr::new(10, 100, 0, 7))).image();
    assert_eq!(image[32..36], [10, 100, 0, 7]);
}

#[test]
fn guests_differ_by_their_parameters_alone() {
    let (spin, idle) = (TinyGuest::spin().image(), TinyGuest::idle().image());
    let differences = spin.iter().zip(&idle).filter(|(one, other)| one != other).count();
    assert_eq!((spin.len(), differences), (idle.len(), 1));
}

#[test]
fn the_code_leaves_room_for_the_stack() {
    let longest = TinyGuest::hello(vec![b'x'; LONGEST_MESSAGE]).image();
    assert!(longest.len() < 0x3000, "{:#x}", longest.len());
}

#[test]
fn every_script_fits() {
    let attacks = Target::ALL.into_iter().flat_map(|target| {
        let fitting = Attack::ALL.into_iter().filter(move |attack| attack.fits(target));
        fitting.map(move |attack| TinyGuest::hostile_to(target, attack))
    });
    for guest in attacks.chain([TinyGuest::waiting_for_disk(), TinyGuest::reset_during_read()]) {
        let length = guest.image().len();
        assert!(length < 0x4000 - 0x400, "{guest:?} leaves no room for the stack: {length:#x}");
    }
}
