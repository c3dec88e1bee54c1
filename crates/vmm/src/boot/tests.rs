//! Kernels made up in memory: the smallest that load, and many that must not.

use std::io::Write;

use linux_loader::loader::bootparam::{boot_params, setup_header};
use linux_loader::loader::elf::start_info::{hvm_modlist_entry, hvm_start_info};
use proptest::prelude::*;
use vm_memory::ByteValued;
use vm_model::{MemoryBacking, MemorySpec};

use super::*;

const MIB: u64 = 1 << 20;

fn memory(size: u64) -> std::sync::Arc<GuestMemory> {
    let spec =
        MemorySpec { size: Bytes::new(size), backing: MemoryBacking::AnonymousMergeable, prefault: false };
    crate::memory::allocate(&spec).unwrap().memory
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// A 64-bit ELF whose one segment goes to `address`, with `note` as its notes.
pub(crate) fn elf(address: u64, code: &[u8], memory_size: u64, note: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    bytes.extend_from_slice(&address.to_le_bytes());
    bytes.extend_from_slice(&64_u64.to_le_bytes());
    bytes.extend_from_slice(&[0; 12]);
    for half in [64_u16, 56, 2, 0, 0, 0] {
        bytes.extend_from_slice(&half.to_le_bytes());
    }
    let code_offset = 64 + 2 * 56;
    let note_offset = code_offset + code.len() as u64;
    for (kind, offset, address, in_file, in_memory) in [
        (1_u32, code_offset, address, code.len() as u64, memory_size),
        (4, note_offset, 0, note.len() as u64, note.len() as u64),
    ] {
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&7_u32.to_le_bytes());
        for word in [offset, address, address, in_file, in_memory, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes.extend_from_slice(code);
    bytes.extend_from_slice(note);
    bytes
}

fn pvh_note(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4_u32, 4, 18] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&entry.to_le_bytes());
    note
}

fn pvh_kernel() -> Vec<u8> {
    elf(MIB, &[0xf4; 64], 4096, &pvh_note(0x10_0010))
}

/// An ELF without a note, as Linux without CONFIG_PVH is.
fn plain_kernel() -> Vec<u8> {
    elf(16 * MIB, &[0xf4; 64], 4096, &[])
}

/// Such an ELF with another entry.
fn entered_at(entry: u64) -> Vec<u8> {
    let mut kernel = elf(MIB, &[0xf4; 64], 4096, &[]);
    kernel[24..32].copy_from_slice(&entry.to_le_bytes());
    kernel
}

fn bzimage(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    let mut header = setup_header {
        setup_sects: 1,
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        version: 0x020f,
        loadflags: 1,
        code32_start: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: 1,
        cmdline_size: 2047,
        pref_address: 16 * MIB,
        init_size: 8 << 20,
        ..Default::default()
    };
    change(&mut header);
    let mut image = vec![0; 1024];
    image[0x1f1..0x1f1 + size_of::<setup_header>()].copy_from_slice(header.as_slice());
    image.extend_from_slice(&[0x90; 4096]);
    image
}

fn load_with(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    cmdline: &str,
    size: u64,
) -> (std::sync::Arc<GuestMemory>, Result<Entry, LoadError>) {
    let memory = memory(size);
    let source = BootSource {
        kernel: file(kernel),
        initrd: initrd.map(file),
        cmdline,
        rsdp: 0xe_0000,
        memory_size: size,
    };
    let entry = load(&memory, source);
    (memory, entry)
}

#[test]
fn a_pvh_kernel_gets_its_start_info() {
    let (memory, entry) = load_with(&pvh_kernel(), Some(&[5; 5000]), "console=ttyS0", 64 * MIB);
    let Entry::Pvh { instruction, start_info } = entry.unwrap() else {
        panic!("an ELF is entered as PVH says")
    };
    assert_eq!(instruction, 0x10_0010);
    let info: hvm_start_info = memory.read_obj(GuestAddress(start_info)).unwrap();
    assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 1));
    assert_eq!(info.rsdp_paddr, 0xe_0000);
    let mut line = [0; 14];
    memory.read_slice(&mut line, GuestAddress(info.cmdline_paddr)).unwrap();
    assert_eq!(&line, b"console=ttyS0\0");
    let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    assert_eq!((module.paddr, module.size), (64 * MIB - 8192, 5000));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(module.paddr + 4999)).unwrap(), 5);
}

#[test]
fn a_bzimage_gets_its_zero_page_and_page_tables() {
    let (memory, entry) = load_with(&bzimage(|_| {}), Some(&[7; 100]), "quiet", 5 << 30);
    assert_eq!(entry.unwrap(), Entry::Linux64 { instruction: 0x10_0200, boot_params: 0x7000 });
    let zero_page: boot_params = memory.read_obj(GuestAddress(0x7000)).unwrap();
    let header = zero_page.hdr;
    assert_eq!({ header.header }, 0x5372_6448);
    assert_eq!({ header.type_of_loader }, 0xff);
    assert_eq!({ header.cmd_line_ptr }, 0x2_0000);
    // As high as the kernel allows, which is below where low memory ends.
    assert_eq!({ header.ramdisk_image }, 0x7fff_f000);
    assert_eq!({ header.ramdisk_size }, 100);
    assert_eq!({ zero_page.acpi_rsdp_addr }, 0xe_0000);
    let table = zero_page.e820_table;
    let last = table[usize::from(zero_page.e820_entries) - 1];
    assert_eq!({ last.addr }, 4 << 30);
    assert_eq!({ last.size }, 2 << 30);
    // 0x8123_4567 through the tables: PML4 0, pointer 2, directory entry 0x09.
    let next: u64 = memory.read_obj(GuestAddress(0x9000)).unwrap();
    let directory: u64 = memory.read_obj(GuestAddress((next & !0xfff) + 2 * 8)).unwrap();
    let page: u64 = memory.read_obj(GuestAddress((directory & !0xfff) + 9 * 8)).unwrap();
    assert_eq!(page, 0x8120_0000 | 0x83);
}

#[test]
fn an_elf_without_a_note_is_entered_as_linux_in_64_bits() {
    let (memory, entry) = load_with(&plain_kernel(), Some(&[7; 100]), "quiet", 64 * MIB);
    assert_eq!(entry.unwrap(), Entry::Linux64 { instruction: 16 * MIB, boot_params: 0x7000 });
    assert_eq!(memory.read_obj::<u8>(GuestAddress(16 * MIB)).unwrap(), 0xf4);
    let zero_page: boot_params = memory.read_obj(GuestAddress(0x7000)).unwrap();
    let header = zero_page.hdr;
    assert_eq!(({ header.header }, { header.boot_flag }, { header.version }), (0x5372_6448, 0xaa55, 0x020c));
    assert_eq!(({ header.type_of_loader }, { header.loadflags }), (0xff, 1));
    assert_eq!(({ header.cmd_line_ptr }, { header.cmdline_size }), (0x2_0000, 2047));
    let low = u32::try_from(64 * MIB - 4096).unwrap();
    assert_eq!(({ header.ramdisk_image }, { header.ramdisk_size }), (low, 100));
    assert_eq!({ zero_page.acpi_rsdp_addr }, 0xe_0000);
    assert!(zero_page.e820_entries > 1);
    let tables: u64 = memory.read_obj(GuestAddress(0x9000)).unwrap();
    assert_eq!(tables & 1, 1, "low memory is mapped");
}

#[test]
fn what_is_no_kernel_is_refused_by_name() {
    let text = |kernel: &[u8]| load_with(kernel, None, "", 64 * MIB).1.unwrap_err().to_string();
    for (kernel, expected) in [
        (b"".to_vec(), "neither an ELF file nor a bzImage"),
        (b"#!/bin/sh\n".to_vec(), "starts with [23, 21, 2f, 62]"),
        (vec![0; 4096], "neither an ELF file nor a bzImage"),
        (b"\x7fELF".to_vec(), "it ends within its ELF header"),
        (
            entered_at(0xffff_ffff_8100_0000),
            "no PVH entry note (Xen note 18), and its entry 0xffffffff81000000 is",
        ),
        (entered_at(MIB + 0x1000), "its entry 0x101000 is no physical address"),
        (elf(MIB, &[0xf4], 1, &pvh_note(0x20_0000)), "outside its segments"),
        (elf(0x1000, &[0xf4], 1, &pvh_note(0x1000)), "from 0x1000 to 0x1001"),
        (elf(MIB, &[0xf4], 1 << 40, &pvh_note(0x10_0000)), "to 0x10000100000; kernels fit"),
        (pvh_kernel()[..200].to_vec(), "past the file's end"),
        (bzimage(|header| header.version = 0x020b), "boot protocol 2.11"),
        (bzimage(|header| header.xloadflags = 0), "without a 64-bit entry"),
        (bzimage(|header| header.loadflags = 0), "zImage"),
        (bzimage(|header| header.setup_sects = 64), "real-mode part"),
        (bzimage(|header| header.init_size = 1 << 30), "to 0x41000000; kernels fit"),
        (bzimage(|header| header.pref_address = u64::MAX), "wraps around"),
    ] {
        let message = text(&kernel);
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn a_directory_is_no_kernel() {
    let memory = memory(64 * MIB);
    let source = BootSource {
        kernel: File::open("/").unwrap(),
        initrd: None,
        cmdline: "",
        rsdp: 0,
        memory_size: 64 * MIB,
    };
    let error = load(&memory, source).unwrap_err();
    assert_eq!(error.to_string(), "the kernel is not a regular file");
}

#[test]
fn an_initrd_must_fit_between_the_kernel_and_the_end() {
    let initrd = vec![1; 41 << 20];
    let (_, entry) = load_with(&bzimage(|_| {}), Some(&initrd), "", 64 * MIB);
    let message = entry.unwrap_err().to_string();
    assert!(message.contains("41 MiB does not fit") && message.contains("0x1800000"), "{message}");
    let (_, entry) = load_with(&bzimage(|_| {}), Some(&initrd[..40 << 20]), "", 64 * MIB);
    assert!(entry.is_ok());
    let (memory, entry) = load_with(&pvh_kernel(), Some(&[]), "", 64 * MIB);
    assert!(entry.is_ok());
    let info: hvm_start_info = memory.read_obj(GuestAddress(layout::PVH_START_INFO)).unwrap();
    assert_eq!(info.nr_modules, 0, "an empty file is no initial RAM disk");
}

#[test]
fn a_command_line_has_the_kernels_limit() {
    for kernel in [pvh_kernel(), plain_kernel(), bzimage(|_| {})] {
        assert!(load_with(&kernel, None, &"x".repeat(2047), 64 * MIB).1.is_ok());
        let error = load_with(&kernel, None, &"x".repeat(2048), 64 * MIB).1.unwrap_err();
        assert!(error.to_string().contains("2048 bytes; at most 2047"), "{error}");
        assert!(load_with(&kernel, None, "a\0b", 64 * MIB).1.is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_damage_to_a_kernel_makes_it_panic(
        kind in 0..3,
        cut in 0_usize..8192,
        changes in proptest::collection::vec((0_usize..1200, any::<u8>()), 0..12),
    ) {
        let mut kernel = match kind {
            0 => pvh_kernel(),
            1 => plain_kernel(),
            _ => bzimage(|_| {}),
        };
        for (offset, value) in changes {
            if let Some(byte) = kernel.get_mut(offset) {
                *byte = value;
            }
        }
        kernel.truncate(cut);
        let _ = load_with(&kernel, Some(&[1; 10]), "quiet", 4 * MIB);
    }

    #[test]
    fn placed_images_are_aligned_and_inside(size in 1_u64..1 << 33, from in 0_u64..1 << 32, to in 0_u64..1 << 32) {
        if let Some(start) = place_below(size, from, to) {
            prop_assert_eq!(start % layout::PAGE_SIZE, 0);
            prop_assert!(start >= from && start + size <= to);
        } else {
            prop_assert!(from + size + layout::PAGE_SIZE > to);
        }
    }
}
