//! The outer host with systemd: its root is a Debian, the worker's unit lies where packages put it, and it is shut down as
//! a host is, so that what a shutdown does can be looked at.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::lab::debian::DebianRecipe;
use crate::lab::disk::Tree;
use crate::lab::host::Init;
use crate::packages;
use crate::workspace::Workspace;

/// Its root file system, of the release whose systemd the worker is tested with: version 252.
const RECIPE: DebianRecipe = DebianRecipe {
    suite: "bookworm",
    packages: "systemd,systemd-sysv,dbus,iproute2,nftables,kmod,procps,openssh-client",
    files: &[
        ("lab.service", include_str!("systemd/lab.service")),
        ("after-shutdown.sh", include_str!("systemd/after-shutdown.sh")),
        ("customize.sh", include_str!("systemd/customize.sh")),
    ],
    size: "1536M",
};

/// The outer host's root file system: a disk that nothing changes, as QEMU keeps what a run writes to itself. What a run
/// brings along is on a disk of its own, see `systemd/init.sh`.
pub(crate) struct DebianRoot {
    image: PathBuf,
}

impl DebianRoot {
    /// The one in the workspace's cache, which is built first where it is not there.
    pub(crate) fn ensure(workspace: &Workspace) -> Result<Self> {
        let cache = workspace.lab_dir().join("debian");
        let image = cache.join(format!("{}.img", RECIPE.key()));
        if !image.is_file() {
            let fresh = RECIPE.build(&cache)?;
            fresh.write_disk(&image)?;
            fresh.remove()?;
        }
        Ok(Self { image })
    }
}

/// An outer host with systemd.
pub(crate) struct SystemdInit<'a> {
    root: &'a DebianRoot,
    /// What is shipped for service managers.
    packaging: PathBuf,
    after_shutdown: &'a str,
}

impl<'a> SystemdInit<'a> {
    /// One that runs `after_shutdown`, in POSIX shell, when everything is shut down: its exit status is that of the run.
    /// Only what lies on the root file system is still there.
    pub(crate) fn new(workspace: &Workspace, root: &'a DebianRoot, after_shutdown: &'a str) -> Self {
        Self { root, packaging: workspace.root().join("packaging"), after_shutdown }
    }
}

impl Init for SystemdInit<'_> {
    fn add_to(&self, tree: &Tree) -> Result<()> {
        tree.add_script(include_str!("systemd/init.sh"), "/lab/init")?;
        tree.add_script(self.after_shutdown, "/lab/after-shutdown")?;
        // Tests use it by its own name.
        let busybox = packages::find_program("busybox").context("busybox is not there")?;
        tree.add_file(&busybox, "/lab/bin/busybox")?;
        let packaging = &self.packaging;
        let entries =
            fs::read_dir(packaging).with_context(|| format!("cannot list {}", packaging.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", packaging.display()))?;
            tree.add_file(&entry.path(), &format!("/lab/packaging/{}", entry.file_name().to_string_lossy()))?;
        }
        Ok(())
    }

    /// The journal goes to the kernel's console too: it is all that is left of a host.
    fn kernel_parameters(&self) -> &'static str {
        "rw systemd.journald.forward_to_console=1"
    }

    fn root_image(&self) -> Option<&Path> {
        Some(&self.root.image)
    }
}
