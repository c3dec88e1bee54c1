//! A writer of the smallest ELF file that a PVH loader boots: one loadable segment and the note that names its
//! 32-bit entry.

/// File offset of the loadable segment, and its alignment.
const SEGMENT_OFFSET: usize = 0x1000;
const HEADER_SIZE: u16 = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
const NOTE_OFFSET: usize = (HEADER_SIZE + 2 * PROGRAM_HEADER_SIZE) as usize;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// The note type of the PVH boot protocol's entry (Xen's `XEN_ELFNOTE_PHYS32_ENTRY`).
const PHYS32_ENTRY: u32 = 18;

/// An ELF-64 executable that loads `content` at the physical address `address`, reserves `memory_size` bytes
/// there, and is entered at its first byte.
pub(crate) fn executable(content: &[u8], address: u32, memory_size: u64) -> Vec<u8> {
    let note = entry_note(address);
    let mut file = Vec::with_capacity(SEGMENT_OFFSET + content.len());
    file.extend_from_slice(b"\x7fELF\x02\x01\x01");
    file.resize(16, 0);
    put_u16(&mut file, 2); // e_type: executable
    put_u16(&mut file, 62); // e_machine: x86-64
    put_u32(&mut file, 1); // e_version
    put_u64(&mut file, u64::from(address)); // e_entry
    put_u64(&mut file, u64::from(HEADER_SIZE)); // e_phoff
    put_u64(&mut file, 0); // e_shoff
    put_u32(&mut file, 0); // e_flags
    put_u16(&mut file, HEADER_SIZE);
    put_u16(&mut file, PROGRAM_HEADER_SIZE);
    put_u16(&mut file, 2); // e_phnum
    put_u16(&mut file, 0); // e_shentsize
    put_u16(&mut file, 0); // e_shnum
    put_u16(&mut file, 0); // e_shstrndx
    let loaded = Segment { kind: PT_LOAD, offset: SEGMENT_OFFSET, address, size: content.len(), memory_size };
    loaded.put(&mut file);
    let note_size = note.len();
    let named = Segment {
        kind: PT_NOTE,
        offset: NOTE_OFFSET,
        address: 0,
        size: note_size,
        memory_size: note_size as u64,
    };
    named.put(&mut file);
    file.extend_from_slice(&note);
    file.resize(SEGMENT_OFFSET, 0);
    file.extend_from_slice(content);
    file
}

struct Segment {
    kind: u32,
    offset: usize,
    address: u32,
    size: usize,
    memory_size: u64,
}

impl Segment {
    fn put(&self, file: &mut Vec<u8>) {
        const READ_WRITE_EXECUTE: u32 = 7;
        put_u32(file, self.kind);
        put_u32(file, READ_WRITE_EXECUTE);
        put_u64(file, self.offset as u64);
        put_u64(file, u64::from(self.address)); // virtual
        put_u64(file, u64::from(self.address)); // physical
        put_u64(file, self.size as u64);
        put_u64(file, self.memory_size);
        put_u64(file, if self.kind == PT_LOAD { SEGMENT_OFFSET as u64 } else { 4 });
    }
}

fn entry_note(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    put_u32(&mut note, 4); // length of the name
    put_u32(&mut note, 8); // length of the descriptor
    put_u32(&mut note, PHYS32_ENTRY);
    note.extend_from_slice(b"Xen\0");
    put_u64(&mut note, u64::from(entry));
    note
}

fn put_u16(file: &mut Vec<u8>, value: u16) {
    file.extend_from_slice(&value.to_le_bytes());
}

fn put_u32(file: &mut Vec<u8>, value: u32) {
    file.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(file: &mut Vec<u8>, value: u64) {
    file.extend_from_slice(&value.to_le_bytes());
}
