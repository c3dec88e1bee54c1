//! Devices and firmware tables by which a guest and its host help each other along: none moves the guest's own data to
//! storage or network.

use serde::{Deserialize, Serialize};

use crate::{Bytes, FileRole, OemStrings};

/// What of this a machine has. Files are `F`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestServices<F> {
    /// Whether its guest can report that its kernel panicked.
    pub panic_device: bool,
    /// The device that takes memory from its guest and gives it back.
    pub balloon: Option<BalloonSpec>,
    /// The device that connects sockets of its guest with sockets on the host.
    pub vsock: Option<VsockSpec<F>>,
    /// Whether it has a virtio console, which is recorded as its first serial port can be.
    #[serde(default)]
    pub console: bool,
    /// Whether it has a watchdog, which resets a guest that set it going and does not reload it in time.
    #[serde(default)]
    pub watchdog: bool,
    /// Texts for its guest in its firmware tables; credentials among them.
    #[serde(default)]
    pub oem_strings: OemStrings,
}

impl<F> Default for GuestServices<F> {
    /// The device for panics alone: it costs nothing and answers the question why a guest ended.
    fn default() -> Self {
        Self {
            panic_device: true,
            balloon: None,
            vsock: None,
            console: false,
            watchdog: false,
            oem_strings: OemStrings::default(),
        }
    }
}

/// A memory balloon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonSpec {
    /// How much the guest is asked to give up from the start on. Can be changed while it runs.
    pub size: Bytes,
    /// Whether the guest may take pages back when it runs out of memory.
    pub deflate_on_oom: bool,
    /// Whether the guest tells which pages it has no use for, for the host to reclaim.
    pub free_page_reporting: bool,
}

/// A socket device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockSpec<F> {
    /// The guest's address, from 3 on. It means nothing outside the machine.
    pub cid: u32,
    /// The directory of the host's sockets.
    pub directory: F,
}

impl<F> GuestServices<F> {
    pub(crate) fn as_ref(&self) -> GuestServices<&F> {
        let vsock = self.vsock.as_ref();
        GuestServices {
            panic_device: self.panic_device,
            balloon: self.balloon,
            vsock: vsock.map(|VsockSpec { cid, directory }| VsockSpec { cid: *cid, directory }),
            console: self.console,
            watchdog: self.watchdog,
            oem_strings: self.oem_strings.clone(),
        }
    }

    pub(crate) fn try_map_files<G, E>(
        self,
        convert: &mut impl FnMut(FileRole<'_>, F) -> Result<G, E>,
    ) -> Result<GuestServices<G>, E> {
        let vsock = self.vsock.map(|VsockSpec { cid, directory }| {
            convert(FileRole::VsockDirectory, directory).map(|directory| VsockSpec { cid, directory })
        });
        Ok(GuestServices {
            panic_device: self.panic_device,
            balloon: self.balloon,
            vsock: vsock.transpose()?,
            console: self.console,
            watchdog: self.watchdog,
            oem_strings: self.oem_strings,
        })
    }
}
