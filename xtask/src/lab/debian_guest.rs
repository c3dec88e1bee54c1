//! Guests that nobody has made for the worker: a small Debian with its own kernel and its own systemd. Each is built once and
//! kept as a folder that is a store path's content.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::lab::debian::DebianRecipe;
use crate::lab::images::NAME_PREFIX;

/// What an image consists of beside its disk, as the recipe's `customize.sh` leaves it.
const PARTS: [&str; 3] = ["vm-config.json", "vmlinux", "initrd"];

/// A guest and what it is made of.
pub(crate) struct DebianGuest {
    /// The image's name.
    name: &'static str,
    recipe: DebianRecipe,
}

/// One whose systemd reports over the machine's sockets that it is ready (255 and newer), and units (256).
///
/// What is added to it is its network's configuration, a server of ssh, which its systemd has listen on the machine's
/// sockets too, and a service that shows which credentials it was given.
pub(crate) const STOCK: DebianGuest = DebianGuest {
    name: "stock",
    recipe: DebianRecipe {
        suite: "trixie",
        packages: "systemd,systemd-sysv,dbus,udev,initramfs-tools,openssh-server,linux-image-cloud-amd64",
        files: &[
            ("vm-config.json", include_str!("stock_guest/vm-config.json")),
            ("wired.network", include_str!("stock_guest/wired.network")),
            ("show-credentials.service", include_str!("stock_guest/show-credentials.service")),
            ("show-credentials.sh", include_str!("stock_guest/show-credentials.sh")),
            ("customize.sh", include_str!("stock_guest/customize.sh")),
        ],
        size: "400M",
    },
};

/// One with every client of DHCP that is in use, and cloud-init, which starts a script that has each ask in turn.
pub(crate) const CLIENTS: DebianGuest = DebianGuest {
    name: "clients",
    recipe: DebianRecipe {
        suite: "trixie",
        packages: "systemd,systemd-sysv,dbus,udev,initramfs-tools,linux-image-cloud-amd64,cloud-init,network-manager,\
                   isc-dhcp-client,dhcpcd-base,busybox,iproute2,iputils-ping,hostname",
        files: &[
            ("vm-config.json", include_str!("client_guest/vm-config.json")),
            ("try-clients.service", include_str!("client_guest/try-clients.service")),
            ("try-clients.sh", include_str!("client_guest/try-clients.sh")),
            ("udhcpc.sh", include_str!("client_guest/udhcpc.sh")),
            ("customize.sh", include_str!("client_guest/customize.sh")),
        ],
        size: "500M",
    },
};

impl DebianGuest {
    /// The image's folder in `cache`, which is built first where it is not there.
    pub(crate) fn ensure(&self, cache: &Path) -> Result<PathBuf> {
        let folder = cache.join(self.recipe.key()).join(format!("{NAME_PREFIX}{}", self.name));
        let disk = folder.join("disk.img");
        // The disk comes last: with it, the rest is there.
        if !disk.is_file() {
            let fresh = self.recipe.build(cache)?;
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            for part in PARTS {
                let (source, destination) = (fresh.files().join(part), folder.join(part));
                fs::copy(&source, &destination).with_context(|| {
                    format!("cannot copy {} to {}", source.display(), destination.display())
                })?;
            }
            fresh.write_disk(&disk)?;
            fresh.remove()?;
        }
        Ok(folder)
    }
}
