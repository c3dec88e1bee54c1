//! Memory of every kind, as the host maps it.

use std::time::Duration;

use vm_memory::{Bytes as _, GuestMemoryBackend, GuestMemoryRegion};

use rustix::fs::fcntl_get_seals;

use super::*;

fn spec(size: u64, backing: MemoryBacking) -> MemorySpec {
    MemorySpec { size: Bytes::new(size), backing, prefault: false }
}

const BACKINGS: [MemoryBacking; 3] =
    [MemoryBacking::SharedMemfd, MemoryBacking::AnonymousHuge, MemoryBacking::AnonymousMergeable];

#[test]
fn memory_is_lazy_and_its_resident_size_follows_use() {
    // Past the hole, so that the second region's offset into the memfd matters.
    let size = 3_328 << 20;
    for backing in BACKINGS {
        let Ram { memory, resident, .. } = allocate(&spec(size, backing)).unwrap();
        assert_eq!(memory.num_regions(), 2);
        let read = |cpu_time| resident.read(Duration::from_millis(cpu_time)).get();
        let before = read(0);
        assert!(before < 1 << 20, "{backing:?} is not lazy");
        let last = GuestAddress(layout::highest_address(size) - 7);
        memory.write_obj(7_u64, last).unwrap();
        memory.write_obj(9_u64, GuestAddress(layout::HOLE_START - 8)).unwrap();
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 7);
        let (asleep, after) = (read(0), read(1));
        // Private memory is not looked through again for a guest that has not run.
        let expected = if backing == MemoryBacking::SharedMemfd { after } else { before };
        assert_eq!(asleep, expected, "{backing:?}");
        assert!((2 * layout::PAGE_SIZE..=4 << 20).contains(&after), "{backing:?}: {after}");
    }
}

#[test]
fn the_memfd_is_sealed_and_one_for_all_regions() {
    let Ram { memory, .. } = allocate(&spec(4 << 30, MemoryBacking::SharedMemfd)).unwrap();
    let files: Vec<_> =
        memory.iter().map(|region| region.file_offset().expect("file-backed").clone()).collect();
    assert!(Arc::ptr_eq(files[0].arc(), files[1].arc()));
    assert_eq!(files[1].start(), layout::HOLE_START);
    let seals = fcntl_get_seals(files[0].file()).unwrap();
    assert_eq!(seals, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    assert!(files[0].file().set_len(4096).is_err(), "the memfd could be cut");
    assert!(files[0].file().set_len(1 << 40).is_err(), "the memfd could grow");
    assert_eq!(memory.iter().map(GuestMemoryRegion::len).sum::<u64>(), 4 << 30);
}

#[test]
fn prefaulted_memory_is_resident() {
    for backing in BACKINGS {
        let mut spec = spec(16 << 20, backing);
        spec.prefault = true;
        let Ram { resident, .. } = allocate(&spec).unwrap();
        assert_eq!(resident.read(Duration::ZERO), spec.size, "{backing:?}");
    }
}

#[test]
fn impossible_sizes_are_refused_by_number() {
    for size in [0, 4096, (128 << 20) + 1, u64::MAX, 1 << 43] {
        let error = allocate(&spec(size, MemoryBacking::SharedMemfd)).unwrap_err();
        assert!(error.to_string().contains(&size.to_string()), "{error}");
    }
}

/// The flags of the mapping that `address` lies in, as the kernel lists them. It may have merged neighbours.
fn mapping_flags(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let range = |line: &str| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    let mut lines =
        maps.lines().skip_while(|line| !range(line).is_some_and(|range| range.contains(&address)));
    lines.find_map(|line| line.strip_prefix("VmFlags:")).expect("the mapping is listed").to_owned()
}

fn has_flag(flags: &str, wanted: &str) -> bool {
    flags.split_whitespace().any(|flag| flag == wanted)
}

#[test]
fn a_forked_child_does_not_inherit_it() {
    for backing in BACKINGS {
        // One that starts beyond the hole as well.
        let Ram { memory, .. } = allocate(&spec(3_328 << 20, backing)).unwrap();
        for region in memory.iter() {
            let flags = mapping_flags(region.as_ptr() as usize);
            assert!(has_flag(&flags, "dc"), "{backing:?}: {flags}");
        }
    }
}

/// What KVM and the kernel compare before they map 2 MiB at once.
#[test]
fn guest_host_and_file_addresses_are_congruent() {
    const HUGE_PAGE: u64 = mapping::HUGE_PAGE as u64;
    for backing in BACKINGS {
        // Sizes that are no whole number of huge pages, below the hole and around it; several at once, so that what the
        // kernel picks is not aligned by chance.
        let sizes = [SMALLEST, (5 << 20) + layout::PAGE_SIZE, 3_329 << 20, (4 << 30) + layout::PAGE_SIZE];
        let machines = sizes.map(|size| (size, allocate(&spec(size, backing)).unwrap()));
        for (size, Ram { memory, .. }) in &machines {
            for region in memory.iter() {
                let host = region.as_ptr() as u64 % HUGE_PAGE;
                assert_eq!(host, region.start_addr().0 % HUGE_PAGE, "{backing:?} of {size}");
                let file = region.file_offset().map_or(0, |file| file.start() % HUGE_PAGE);
                assert_eq!(host, file, "{backing:?} of {size}");
            }
        }
    }
}

#[test]
fn memory_is_unmapped_with_its_last_region_and_nothing_around_it_is_left() {
    for backing in BACKINGS {
        let Ram { memory, regions, .. } = allocate(&spec(64 << 20, backing)).unwrap();
        let (start, length) = (regions[0].as_ptr() as usize, 64 << 20);
        // The reservation's rest is gone by now: no mapping without access touches this one.
        let touching = mappings().into_iter().filter(|(range, access)| {
            access.starts_with("---") && (range.end == start || range.start == start + length)
        });
        assert_eq!(touching.count(), 0, "{backing:?}");
        let region = regions[0].clone();
        drop((memory, regions));
        assert!(mappings().iter().any(|(range, _)| range.contains(&start)), "{backing:?}: a region is held");
        assert_eq!(region.len(), 64 << 20);
        drop(region);
        assert!(
            !mappings().iter().any(|(range, _)| range.contains(&start)),
            "{backing:?}: it is mapped still"
        );
    }
}

/// The address ranges that are mapped, and how.
fn mappings() -> Vec<(std::ops::Range<usize>, String)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let (start, end) = words.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        Some((range, words.next()?.to_owned()))
    };
    maps.lines().filter_map(parse).collect()
}

#[test]
fn shared_memory_is_offered_huge_pages_above_the_boot_structures() {
    let Ram { memory, .. } = allocate(&spec(3_328 << 20, MemoryBacking::SharedMemfd)).unwrap();
    let start = |region: usize| memory.iter().nth(region).unwrap().as_ptr() as usize;
    if !has_flag(&mapping_flags(start(1)), "hg") {
        assert!(!std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists());
        println!("SKIPPED: this host's kernel has no transparent huge pages");
        return;
    }
    assert!(!has_flag(&mapping_flags(start(0)), "hg"), "the first pages are small");
    let above = mapping_flags(start(0) + mapping::HUGE_PAGE);
    assert!(has_flag(&above, "hg") && has_flag(&above, "dc"), "{above}");
}

#[test]
fn each_kind_of_private_memory_asks_for_what_is_its_own() {
    for (backing, wanted) in [(MemoryBacking::AnonymousHuge, "hg"), (MemoryBacking::AnonymousMergeable, "mg")]
    {
        // Two regions: both are advised.
        let Ram { memory, .. } = allocate(&spec(3_328 << 20, backing)).unwrap();
        for region in memory.iter() {
            let start = region.as_ptr().addr();
            if backing == MemoryBacking::AnonymousHuge && region.start_addr().0 == 0 {
                let flags = mapping_flags(start);
                assert!(
                    has_flag(&flags, "nh") && !has_flag(&flags, "hg"),
                    "the first pages are small: {flags}"
                );
            }
            let flags = mapping_flags(start + mapping::HUGE_PAGE);
            for advised in ["hg", "mg"] {
                assert_eq!(has_flag(&flags, advised), advised == wanted, "{backing:?}, {advised}: {flags}");
            }
        }
    }
}

/// One test, because both parts count what the host has.
#[test]
fn huge_pages_are_promised_at_once_or_refused_in_figures() {
    too_few_huge_pages_are_told_in_figures();
    huge_pages_are_promised_at_once_and_sealed();
}

fn too_few_huge_pages_are_told_in_figures() {
    let page = HugePageSize::TwoMib;
    let Some(free) = huge_pages::unpromised(page) else {
        println!("SKIPPED: this host has no huge pages of 2 MiB");
        return;
    };
    // Around the hole, so that the first piece is promised before the second is refused, where there are so many.
    for needed in [free + 1, free.max(1536) + 1024] {
        let size = Bytes::new(needed * page.bytes().get());
        let error = allocate(&spec(size.get(), MemoryBacking::HugePages(page))).unwrap_err();
        let text = format!("guest memory of {size} needs {needed} huge pages of 2 MiB; {free} are free");
        assert_eq!(error.to_string(), text);
        assert!(std::error::Error::source(&error).is_some(), "the kernel's answer is told too");
    }
    assert_eq!(huge_pages::unpromised(page), Some(free), "a refusal keeps nothing");
}

#[test]
fn partial_huge_pages_are_refused() {
    let error = allocate(&spec(63 << 20, MemoryBacking::HugePages(HugePageSize::TwoMib))).unwrap_err();
    assert_eq!(error.to_string(), "guest memory of 63 MiB is no whole number of huge pages of 2 MiB");
    let error = allocate(&spec(512 << 20, MemoryBacking::HugePages(HugePageSize::OneGib))).unwrap_err();
    assert_eq!(error.to_string(), "guest memory of 512 MiB is no whole number of huge pages of 1 GiB");
}

fn huge_pages_are_promised_at_once_and_sealed() {
    let page = HugePageSize::TwoMib;
    let free = huge_pages::unpromised(page).unwrap_or(0);
    if free < 4 {
        println!("SKIPPED: this host has {free} free huge pages of 2 MiB, and this takes 4");
        return;
    }
    let Ram { memory, resident, .. } = allocate(&spec(8 << 20, MemoryBacking::HugePages(page))).unwrap();
    assert_eq!(huge_pages::unpromised(page), Some(free - 4), "nothing was touched yet");
    let region = memory.iter().next().unwrap();
    let flags = mapping_flags(region.as_ptr() as usize);
    assert!(has_flag(&flags, "dc") && has_flag(&flags, "ht"), "{flags}");
    let file = region.file_offset().expect("file-backed");
    let seals = fcntl_get_seals(file.file()).unwrap();
    assert_eq!(seals, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    assert_eq!(resident.read(Duration::ZERO), Bytes::new(0));
    memory.write_obj(7_u64, GuestAddress(3 << 20)).unwrap();
    assert_eq!(resident.read(Duration::ZERO), page.bytes());
    drop((memory, resident));
    assert_eq!(huge_pages::unpromised(page), Some(free), "all is given back");
}
