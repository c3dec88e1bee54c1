//! The outer host's root file system: assembled as a folder, turned into an ext4 image without mounting anything.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::lab::dynamic;
use crate::{packages, process};

const EMPTY_FOLDERS: [&str; 10] = ["dev", "proc", "sys", "run", "tmp", "var", "etc", "root", "lab", "kept"];

/// A root file system in the making.
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Starts over in `root` with the usual folders.
    pub(crate) fn create(root: &Path) -> Result<Self> {
        match fs::remove_dir_all(root) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot clear {}", root.display()));
            }
            _ => {}
        }
        for folder in EMPTY_FOLDERS {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Self { root: root.to_path_buf() })
    }

    /// A file of the host at `destination`, without copying where the file systems allow.
    pub(crate) fn add_file(&self, source: &Path, destination: &str) -> Result<()> {
        let target = self.place(destination)?;
        let source = fs::canonicalize(source).with_context(|| format!("cannot find {}", source.display()))?;
        fs::hard_link(&source, &target)
            .or_else(|_| fs::copy(&source, &target).map(drop))
            .with_context(|| format!("cannot copy {} to {}", source.display(), target.display()))
    }

    /// A script or text made here, executable. It must not exist yet: writing through a link or to a file that shares
    /// its content with one of the host would change the host.
    pub(crate) fn add_script(&self, text: &str, destination: &str) -> Result<()> {
        let target = self.place(destination)?;
        let mut file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&target)
            .with_context(|| format!("cannot create {}", target.display()))?;
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", target.display()))
    }

    /// A folder of the host with all that is in it, at the same path.
    pub(crate) fn add_folder(&self, source: &Path) -> Result<()> {
        let shown = source.to_str().with_context(|| format!("{} is no UTF-8", source.display()))?;
        let entries = fs::read_dir(source).with_context(|| format!("cannot list {shown}"))?;
        let inside = self.place(shown)?;
        fs::create_dir_all(&inside).with_context(|| format!("cannot create {}", inside.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {shown}"))?;
            let path = entry.path();
            let kind = entry.file_type().with_context(|| format!("cannot examine {}", path.display()))?;
            if kind.is_dir() {
                self.add_folder(&path)?;
            } else if kind.is_symlink() {
                let target =
                    fs::read_link(&path).with_context(|| format!("cannot read {}", path.display()))?;
                self.add_link(&target, &path.to_string_lossy())?;
            } else {
                self.add_file(&path, &path.to_string_lossy())?;
            }
        }
        Ok(())
    }

    fn add_link(&self, target: &Path, destination: &str) -> Result<()> {
        let place = self.place(destination)?;
        symlink(target, &place).with_context(|| format!("cannot create the link {}", place.display()))
    }

    /// Busybox under the names of all its applets that nothing else has taken.
    pub(crate) fn add_busybox(&self) -> Result<()> {
        let busybox = packages::find_program("busybox").context("busybox is not there")?;
        self.add_file(&busybox, "/bin/busybox")?;
        let applets = process::output_of(Command::new(&busybox).arg("--list-full"))?;
        for applet in applets.lines() {
            if fs::symlink_metadata(self.place(applet)?).is_err() {
                self.add_link(Path::new("/bin/busybox"), applet)?;
            }
        }
        Ok(())
    }

    /// A dynamically linked program of the host with its libraries, at the same paths.
    pub(crate) fn add_dynamic_program(&self, name: &str) -> Result<()> {
        for file in dynamic::with_libraries(name, &format!("/usr/sbin/{name}"))? {
            if !self.place(&file.destination)?.exists() {
                self.add_file(&file.source, &file.destination)?;
            }
        }
        Ok(())
    }

    /// Writes it all into a new sparse ext4 image.
    pub(crate) fn write_image(&self, image: &Path) -> Result<()> {
        const MARGIN: u64 = 32 << 20;
        let megabytes = (size_of_tree(&self.root)? / 16 * 17 + MARGIN) >> 20;
        match fs::remove_file(image) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {}", image.display()));
            }
            _ => {}
        }
        let mke2fs = packages::find_program("mke2fs").context("mke2fs is not there")?;
        let mut command = Command::new(mke2fs);
        command.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d"]);
        command.arg(&self.root).arg(image).arg(format!("{megabytes}M"));
        process::output_of(&mut command).map(drop)
    }

    /// Where a path of the new root is for now. Its folder is created.
    fn place(&self, destination: &str) -> Result<PathBuf> {
        let path = self.root.join(destination.trim_start_matches('/'));
        if !path.starts_with(&self.root) || destination.contains("..") {
            bail!("{destination} leaves the new root file system");
        }
        let folder = path.parent().context("a place inside the root has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(path)
    }
}

/// Bytes of all regular files, each counted in whole blocks.
fn size_of_tree(folder: &Path) -> Result<u64> {
    const BLOCK: u64 = 4096;
    let mut size = BLOCK;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let metadata = entry.metadata().with_context(|| format!("cannot examine {:?}", entry.path()))?;
        size += match metadata.is_dir() {
            true => size_of_tree(&entry.path())?,
            false => metadata.len().next_multiple_of(BLOCK),
        };
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_arrives_with_its_links_and_nothing_leaves_the_root() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let source = scratch.path().join("source");
        fs::create_dir_all(source.join("deep")).expect("a folder");
        fs::write(source.join("deep/file"), "content").expect("a file");
        symlink("/elsewhere", source.join("link")).expect("a link");
        let root = scratch.path().join("root");
        let tree = Tree::create(&root).expect("a tree");
        tree.add_folder(&source).expect("the folder is added");
        let arrived = root.join(source.strip_prefix("/").expect("an absolute path"));
        assert_eq!(fs::read_to_string(arrived.join("deep/file")).expect("the file"), "content");
        assert_eq!(fs::read_link(arrived.join("link")).expect("the link"), Path::new("/elsewhere"));
        assert!(tree.add_script("", "/../outside").is_err());
    }

    #[test]
    fn a_script_is_never_written_through_a_link() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let of_the_host = scratch.path().join("of-the-host");
        fs::write(&of_the_host, "content").expect("a file");
        let tree = Tree::create(&scratch.path().join("root")).expect("a tree");
        tree.add_link(&of_the_host, "/sbin/init").expect("a link");
        assert!(tree.add_script("overwritten", "/sbin/init").is_err());
        assert_eq!(fs::read_to_string(&of_the_host).expect("the file"), "content");
    }
}
