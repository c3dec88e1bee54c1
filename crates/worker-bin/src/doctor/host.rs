//! The files in which a host tells of itself. Tests make a directory of such files.

use std::fs;
use std::path::PathBuf;

/// A host by its root directory.
#[derive(Clone, Debug)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    /// The host that this program runs on.
    pub(super) fn this() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// A host whose files lie below `root`.
    #[cfg(test)]
    pub(super) fn at(root: &std::path::Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where the file `path` of the host lies.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The content of a file without the blanks around it; `None` where it cannot be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.path(path)).ok()?.trim().to_owned())
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The names of the entries of a directory, ordered.
    pub(super) fn entries(&self, path: &str) -> Vec<String> {
        let listed = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            listed.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// Tests' hosts.
#[cfg(test)]
pub(super) mod testing {
    use std::path::Path;

    use super::*;

    /// A host with these files.
    pub(in crate::doctor) fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().expect("a directory");
        let host = Host::at(folder.path());
        for (path, content) in files {
            let path = host.path(path);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("made");
            fs::write(path, content).expect("written");
        }
        (folder, host)
    }
}
