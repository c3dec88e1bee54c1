//! Memory, read from its section.

use vm_model::{Bytes, HugePageSize, MemoryBacking, MemorySpec};

use super::machine::{Reader, contradiction};
use super::refusal::Refusal;
use super::section::Section;

/// The memory of a machine that names none.
const DEFAULT_MEMORY: Bytes = Bytes::from_mib(512);

impl Reader<'_> {
    pub(super) fn memory(&mut self) -> Result<MemorySpec, Box<Refusal>> {
        let Some(memory) = self.top.section("memory") else {
            let backing = MemoryBacking::default();
            return Ok(MemorySpec { size: DEFAULT_MEMORY, backing, prefault: false });
        };
        let size = memory.integer("size").map_or(DEFAULT_MEMORY, Bytes::new);
        let backing = match huge_page(memory)? {
            Some(page) => self.huge_pages(memory, size, page)?,
            None => self.ordinary_pages(memory),
        };
        Ok(MemorySpec { size, backing, prefault: asks(memory, "prefault") })
    }

    fn huge_pages(
        &mut self,
        memory: &Section,
        size: Bytes,
        page: HugePageSize,
    ) -> Result<MemoryBacking, Box<Refusal>> {
        if !are_whole_pages(size, page) {
            return Err(contradiction(
                memory.path_of("size"),
                size.get(),
                format!("memory is made of huge pages of {} bytes", page.bytes().get()),
                format!("a multiple of {}", page.bytes().get()),
            ));
        }
        if let Some(balloon) = self.top.section("balloon") {
            return Err(contradiction(
                balloon.path.clone(),
                "set",
                "memory is made of huge pages, which are not given back".to_owned(),
                "one of the two".to_owned(),
            ));
        }
        if asks(memory, "mergeable") {
            let consequence = "huge pages cannot be merged";
            self.warn(memory.path_of("mergeable"), true, consequence);
        }
        Ok(MemoryBacking::HugePages(page))
    }

    fn ordinary_pages(&mut self, memory: &Section) -> MemoryBacking {
        let (shared, mergeable, thp) =
            (asks(memory, "shared"), asks(memory, "mergeable"), asks(memory, "thp"));
        let forbids_huge_pages = memory.boolean("thp") == Some(false);
        if shared && mergeable {
            let consequence = "pages of shared memory cannot be merged";
            self.warn(memory.path_of("mergeable"), true, consequence);
        }
        if thp && mergeable && !shared {
            let consequence = "memory is offered for merging and not made of huge pages";
            self.warn(memory.path_of("thp"), true, consequence);
        }
        match (shared, mergeable, thp) {
            (true, _, _) => MemoryBacking::SharedMemfd,
            (false, false, false) if forbids_huge_pages => MemoryBacking::SharedMemfd,
            (false, false, false) => MemoryBacking::Automatic,
            (false, true, _) => MemoryBacking::AnonymousMergeable,
            (false, false, true) => MemoryBacking::AnonymousHuge,
        }
    }
}

fn asks(memory: &Section, name: &str) -> bool {
    memory.boolean(name) == Some(true)
}

/// The huge pages that memory is made of, if it is.
fn huge_page(memory: &Section) -> Result<Option<HugePageSize>, Box<Refusal>> {
    let size: Option<u64> = memory.integer("hugepage_size");
    match (asks(memory, "hugepages"), size) {
        (true, Some(size)) if size == HugePageSize::OneGib.bytes().get() => Ok(Some(HugePageSize::OneGib)),
        (true, _) => Ok(Some(HugePageSize::TwoMib)),
        (false, None) => Ok(None),
        (false, Some(size)) => Err(contradiction(
            memory.path_of("hugepage_size"),
            size,
            "hugepages is not true".to_owned(),
            "leaving it out, or hugepages".to_owned(),
        )),
    }
}

/// Whether memory of `size` is a whole number of huge pages.
pub(super) fn are_whole_pages(size: Bytes, page: HugePageSize) -> bool {
    size.get().is_multiple_of(page.bytes().get())
}
