//! The lab: a host with working KVM for the end-to-end tests and the demonstration, whatever this machine has.
//!
//! ```text
//! kernel ──┬── images (built by Nix) ──┐
//!          └── modules ────────────────┼── disk ── host (QEMU) ── relay ── this terminal
//! programs (built by cargo) ───────────┘
//! ```
//!
//! The *outer host* is a stock kernel in QEMU whose processor has virtualisation, by hardware or in software. Its root
//! file system holds the images, the programs and busybox; it runs one script and switches itself off. Another kind of it
//! has systemd, as a host of the worker has (`systemd.rs`): its root is a Debian (`debian.rs`), all else a second disk. Its tests
//! have a guest that is a stock Debian, too (`debian_guest.rs`).

pub(crate) mod debian;
pub(crate) mod debian_guest;
pub(crate) mod disk;
pub(crate) mod dynamic;
pub(crate) mod host;
pub(crate) mod images;
pub(crate) mod kept_disk;
pub(crate) mod kernel;
pub(crate) mod loss;
pub(crate) mod modules;
pub(crate) mod programs;
pub(crate) mod pulse;
pub(crate) mod relay;
pub(crate) mod systemd;
pub(crate) mod task;
pub(crate) mod virtualisation;

use std::time::Instant;

use anyhow::Result;

use crate::packages;
use crate::workspace::Workspace;

/// What a script in the outer host passes on to the test programs, in POSIX shell.
pub(crate) const SCRIPT_VARIABLES: &str = "export PROCURATOR_TEST_WORKER=/lab/bin/procurator-worker \
     PROCURATOR_TEST_MASTER=/lab/bin/procurator-master PROCURATOR_TEST_IMAGES=/lab/images.json";

/// What every use of the lab needs: the kernel and the images.
pub(crate) struct Lab {
    pub(crate) workspace: Workspace,
    pub(crate) kernel: kernel::Kernel,
    pub(crate) images: images::Images,
}

impl Lab {
    /// Installs, downloads and builds what is missing.
    pub(crate) fn prepare(workspace: &Workspace) -> Result<Self> {
        let start = Instant::now();
        packages::ensure()?;
        let kernel = kernel::Kernel::ensure(&workspace.lab_dir().join("kernel"))?;
        println!("Kernel   {} (Debian, {:.1?})", kernel.release, start.elapsed());
        let start = Instant::now();
        let images = images::Images::build(workspace, &kernel)?;
        println!("Image    {} (Nix, {:.1?})", images.guest()?.store_path.display(), start.elapsed());
        Ok(Self { workspace: workspace.clone(), kernel, images })
    }

    /// With the image `stock`, which takes a while to build and much space: only some tests need it.
    pub(crate) fn with_stock_guest(mut self) -> Result<Self> {
        self.add(&debian_guest::STOCK)?;
        Ok(self)
    }

    /// With the image `clients`, of which the same is true.
    pub(crate) fn with_client_guest(mut self) -> Result<Self> {
        self.add(&debian_guest::CLIENTS)?;
        Ok(self)
    }

    fn add(&mut self, guest: &debian_guest::DebianGuest) -> Result<()> {
        let folder = guest.ensure(&self.workspace.lab_dir().join("stock"))?;
        self.images.add(&self.workspace, &folder)
    }
}
