//! The devices by which guest and host help each other, read from their sections.

use vm_model::{BalloonSpec, Bytes, GuestServices, MemorySpec};

use super::extract::WantedFile;
use super::machine::{Reader, contradiction};
use super::refusal::Refusal;

/// The first address that a guest can have.
const DEFAULT_CID: u32 = 3;

/// A socket device that an image asks for; the worker finds a directory for the host's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VsockRequest {
    /// The guest's address, from 3 on.
    pub cid: u32,
}

impl Reader<'_> {
    pub(super) fn services(&self, memory: &MemorySpec) -> Result<GuestServices<WantedFile>, Box<Refusal>> {
        let defaults = GuestServices::<WantedFile>::default();
        Ok(GuestServices {
            panic_device: self.top.boolean("pvpanic").unwrap_or(defaults.panic_device),
            balloon: self.balloon(memory)?,
            // It needs a directory of the host.
            vsock: None,
            console: self.virtio_console(),
            watchdog: self.top.boolean("watchdog").unwrap_or(defaults.watchdog),
            oem_strings: self.oem_strings()?,
        })
    }

    /// The device that is described, or the one that probes need.
    pub(super) fn vsock(&self) -> Option<VsockRequest> {
        match self.top.section("vsock") {
            Some(vsock) => Some(VsockRequest { cid: vsock.integer("cid").unwrap_or(DEFAULT_CID) }),
            None => self.probes_need_vsock().then_some(VsockRequest { cid: DEFAULT_CID }),
        }
    }

    /// Only a mode asks for a console: the section alone is what other tools write for none.
    pub(super) fn virtio_console(&self) -> bool {
        match self.top.section("console").and_then(|console| console.text("mode")) {
            Some("Null" | "Off") | None => false,
            Some(_) => true,
        }
    }

    fn balloon(&self, memory: &MemorySpec) -> Result<Option<BalloonSpec>, Box<Refusal>> {
        let Some(balloon) = self.top.section("balloon") else {
            return Ok(None);
        };
        let size = balloon.integer("size").map_or(Bytes::new(0), Bytes::new);
        if size > memory.size {
            return Err(contradiction(
                balloon.path_of("size"),
                size.get(),
                format!("the memory has {} bytes", memory.size.get()),
                format!("at most {}", memory.size.get()),
            ));
        }
        Ok(Some(BalloonSpec {
            size,
            deflate_on_oom: balloon.boolean("deflate_on_oom") == Some(true),
            free_page_reporting: balloon.boolean("free_page_reporting") == Some(true),
        }))
    }
}
