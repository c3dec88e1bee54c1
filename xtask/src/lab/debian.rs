//! Small Debian root file systems, made by `mmdebstrap` and kept: what is in one, and that it is built once.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{packages, process};

/// What a root file system is made of. Two that differ in anything have different keys.
#[derive(Hash)]
pub(crate) struct DebianRecipe {
    /// The release.
    pub(crate) suite: &'static str,
    /// What the smallest Debian lacks.
    pub(crate) packages: &'static str,
    /// Files for `customize.sh`, which is one of them: it runs with the finished root as `$1` and their folder as `$lab`.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// The size of the disk, in the words of `mke2fs`: more than the root and what runs write to it.
    pub(crate) size: &'static str,
}

/// A root file system that was just built, in a folder that goes when it has served.
pub(crate) struct FreshRoot {
    folder: PathBuf,
    size: &'static str,
}

impl DebianRecipe {
    /// What tells it from other recipes, as part of a file name.
    pub(crate) fn key(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("{}-{:016x}", self.suite, hasher.finish())
    }

    /// Builds it in a folder of `cache`.
    pub(crate) fn build(&self, cache: &Path) -> Result<FreshRoot> {
        packages::ensure_for_debian()?;
        if !packages::is_root() {
            bail!("a Debian root file system with devices of its own is built by root only");
        }
        println!("Building a Debian root file system ({})", self.suite);
        let fresh = FreshRoot { folder: cache.join("partial"), size: self.size };
        fresh.remove()?;
        let files = fresh.files();
        fs::create_dir_all(&files).with_context(|| format!("cannot create {}", files.display()))?;
        for (name, text) in self.files {
            let path = files.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let script = files.join("customize.sh");
        let hook = format!("sh {} \"$1\"", process::shell_quote(&script.to_string_lossy()));
        let program = packages::find_program("mmdebstrap").context("mmdebstrap is not there")?;
        let mut bootstrap = Command::new(program);
        bootstrap.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
        bootstrap.arg(format!("--include={}", self.packages)).arg(format!("--customize-hook={hook}"));
        bootstrap.arg(self.suite).arg(fresh.folder.join("root")).env("lab", &files);
        process::output_of(&mut bootstrap)
            .with_context(|| format!("cannot build a Debian root file system of {}", self.suite))?;
        Ok(fresh)
    }
}

impl FreshRoot {
    /// Where the recipe's files are, and what `customize.sh` put beside them.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// Makes a disk of it. It is written beside the destination and renamed, so that an interrupted run leaves nothing that
    /// looks complete.
    pub(crate) fn write_disk(&self, image: &Path) -> Result<()> {
        let unfinished = self.folder.join("image");
        let mut format = Command::new(packages::find_program("mke2fs").context("mke2fs is not there")?);
        format.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]);
        process::output_of(format.arg(self.folder.join("root")).arg(&unfinished).arg(self.size))?;
        fs::rename(&unfinished, image).with_context(|| format!("cannot create {}", image.display()))
    }

    /// Removes what it was made of.
    pub(crate) fn remove(&self) -> Result<()> {
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)
                .with_context(|| format!("cannot remove {}", self.folder.display()))?;
        }
        Ok(())
    }
}
