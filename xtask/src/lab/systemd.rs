//! The outer host with systemd: its root is a Debian, the worker is installed by its package, and the host is shut down as
//! hosts are, so that what a shutdown does can be looked at.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::lab::debian::DebianRecipe;
use crate::lab::disk::Tree;
use crate::lab::host::Init;
use crate::lab::programs::Program;
use crate::package::{self, Compression, MAINTAINER, Order};
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

/// The versions of the worker's package that the host finds: it has the first one installed, and a test upgrades to the second.
const VERSIONS: [&str; 2] = ["~lab1", "~lab2"];

/// The packages of the worker that is among `programs`, in [`VERSIONS`]; none where there is no worker.
pub(crate) fn build_packages(workspace: &Workspace, programs: &[Program]) -> Result<Vec<PathBuf>> {
    let Some(worker) = programs.iter().find(|program| program.name == "procurator-worker") else {
        return Ok(Vec::new());
    };
    let (program, compression) = (worker.path.as_path(), Compression::None);
    let order = |suffix| Order { program, suffix, maintainer: MAINTAINER, compression };
    VERSIONS.into_iter().map(|suffix| package::build_package(workspace, &order(suffix))).collect()
}

/// An outer host with systemd.
pub(crate) struct SystemdInit<'a> {
    root: &'a DebianRoot,
    /// The worker's packages, as [`VERSIONS`] has them.
    packages: &'a [PathBuf],
    after_shutdown: &'a str,
}

impl<'a> SystemdInit<'a> {
    /// One that runs `after_shutdown`, in POSIX shell, when everything is shut down: its exit status is that of the run.
    /// Only what lies on the root file system is still there.
    pub(crate) fn new(root: &'a DebianRoot, packages: &'a [PathBuf], after_shutdown: &'a str) -> Self {
        Self { root, packages, after_shutdown }
    }
}

impl Init for SystemdInit<'_> {
    fn add_to(&self, tree: &Tree) -> Result<()> {
        tree.add_script(include_str!("systemd/init.sh"), "/lab/init")?;
        tree.add_script(self.after_shutdown, "/lab/after-shutdown")?;
        // Tests use it by its own name.
        let busybox = packages::find_program("busybox").context("busybox is not there")?;
        tree.add_file(&busybox, "/lab/bin/busybox")?;
        for (package, name) in self.packages.iter().zip(VERSIONS) {
            tree.add_file(package, &format!("/lab/packages/{}.deb", name.trim_start_matches('~')))?;
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
