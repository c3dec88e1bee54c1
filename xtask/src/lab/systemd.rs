//! The outer host with systemd: its root is a Debian, the worker's unit lies where packages put it, and it is shut down as
//! a host is, so that what a shutdown does can be looked at.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::lab::debian::DebianRoot;
use crate::lab::disk::Tree;
use crate::lab::host::Init;
use crate::packages;
use crate::workspace::Workspace;

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
