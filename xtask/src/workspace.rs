//! Where the project's files are. Leaves what is done with them to the tasks.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The checkout whose tasks these are.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    pub(crate) fn locate() -> Self {
        // Checkouts may share a target directory, and with it this program: cargo says for which of them it runs.
        let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir.parent().expect("the package is a folder of the workspace");
        Self { root: root.to_path_buf() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo builds.
    pub(crate) fn target_dir(&self) -> PathBuf {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        self.root.join(target)
    }

    /// Where the lab keeps what it downloads, builds and writes.
    pub(crate) fn lab_dir(&self) -> PathBuf {
        self.target_dir().join("lab")
    }

    /// The cargo that runs this task, in the workspace's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        command
    }
}
