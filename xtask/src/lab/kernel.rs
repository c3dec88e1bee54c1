//! The stock kernel: Debian's cloud kernel, downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::lab::modules::ModuleIndex;
use crate::{packages, process};

/// The package that always depends on the newest cloud kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
pub(crate) struct Kernel {
    /// What `uname -r` says under it.
    pub(crate) release: String,
    /// The bootable image.
    pub(crate) image: PathBuf,
    /// The folder that `modules.dep` and the modules are in.
    pub(crate) modules_dir: PathBuf,
}

impl Kernel {
    /// The kernel in `cache`, downloaded into it first where it is not there.
    pub(crate) fn ensure(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let package = newest_package()?;
        let unpacked = cache.join(&package);
        if !unpacked.is_dir() {
            println!("Downloading {package}");
            download_and_unpack(&package, cache, &unpacked)?;
        }
        let release = package
            .strip_prefix("linux-image-")
            .with_context(|| format!("{package} does not name a kernel release"))?
            .to_owned();
        Ok(Self {
            image: unpacked.join(format!("boot/vmlinuz-{release}")),
            modules_dir: unpacked.join(format!("lib/modules/{release}")),
            release,
        })
    }

    /// Which of its modules need which.
    pub(crate) fn module_index(&self) -> Result<ModuleIndex> {
        let read = |name: &str| {
            let path = self.modules_dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(ModuleIndex::parse(&read("modules.dep")?, &read("modules.builtin")?))
    }
}

/// The package that the meta package depends on at present. On a machine whose package lists were never fetched, they
/// are fetched first.
fn newest_package() -> Result<String> {
    let ask = || process::output_of(Command::new("apt-cache").args(["depends", META_PACKAGE]));
    let answer = match ask() {
        Ok(answer) => answer,
        Err(error) if packages::is_root() => {
            println!("Fetching package lists ({META_PACKAGE} is not in them)");
            process::run(&mut packages::apt_get(&["update", "--quiet=2"])).context(error)?;
            ask()?
        }
        Err(error) => {
            return Err(error.context("the package lists lack the kernel; run: sudo apt-get update"));
        }
    };
    let dependency = answer.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    dependency.map(str::to_owned).with_context(|| format!("{META_PACKAGE} depends on no kernel:\n{answer}"))
}

/// Unpacks beside the destination and renames, so that an interrupted run leaves nothing that looks complete.
fn download_and_unpack(package: &str, cache: &Path, destination: &Path) -> Result<()> {
    let partial = cache.join("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let download = || process::output_of(packages::apt_get(&["download", package]).current_dir(&partial));
    if let Err(error) = download() {
        // Lists that are older than the archive's last change name a file that is gone.
        if !packages::is_root() {
            return Err(error.context("if the package lists are old, run: sudo apt-get update"));
        }
        process::run(&mut packages::apt_get(&["update", "--quiet=2"])).context(error)?;
        download()?;
    }
    let archive = only_file_in(&partial)?;
    let tree = partial.join("tree");
    process::run(Command::new("dpkg").arg("-x").args([&archive, &tree]))?;
    let release = package.trim_start_matches("linux-image-");
    let depmod = packages::find_program("depmod").context("depmod is not there")?;
    process::run(Command::new(depmod).arg("-b").arg(&tree).arg(release))?;
    fs::rename(&tree, destination)
        .with_context(|| format!("cannot move the kernel to {}", destination.display()))?;
    fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))
}

fn only_file_in(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    match <[PathBuf; 1]>::try_from(files) {
        Ok([file]) => Ok(file),
        Err(files) => bail!("one downloaded package was expected, found {files:?}"),
    }
}
