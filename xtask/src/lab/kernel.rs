//! The stock kernel: Debian's cloud kernel, downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

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
            packages::download_and_unpack(&package, cache, &unpacked, |tree| index_modules(&package, tree))?;
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

/// Writes `modules.dep` and its like of the kernel in `tree`.
fn index_modules(package: &str, tree: &Path) -> Result<()> {
    let release = package.trim_start_matches("linux-image-");
    let depmod = packages::find_program("depmod").context("depmod is not there")?;
    process::run(Command::new(depmod).arg("-b").arg(tree).arg(release))
}
