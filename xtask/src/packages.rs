//! The Debian packages that the lab's programs, and those of some tests, come from: found, installed where that is possible, or
//! named.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Where programs are looked for beside `PATH`, which often lacks the administrator's folders.
pub(crate) const TOOL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A package and the programs of it that are used.
struct Package {
    name: &'static str,
    programs: &'static [&'static str],
}

const PACKAGES: [Package; 13] = [
    Package { name: "qemu-system-x86", programs: &["qemu-system-x86_64"] },
    Package { name: "busybox-static", programs: &["busybox"] },
    Package { name: "e2fsprogs", programs: &["mke2fs", "debugfs"] },
    Package { name: "btrfs-progs", programs: &["mkfs.btrfs"] },
    Package { name: "dmsetup", programs: &["dmsetup"] },
    Package { name: "cpio", programs: &["cpio"] },
    Package { name: "nix-bin", programs: &["nix", "nix-build"] },
    Package { name: "kmod", programs: &["depmod"] },
    Package { name: "iproute2", programs: &["ip"] },
    Package { name: "nftables", programs: &["nft"] },
    Package { name: "socat", programs: &["socat"] },
    Package { name: "dropbear-bin", programs: &["dropbear", "dbclient"] },
    Package { name: "acpica-tools", programs: &["iasl"] },
];

/// What builds a Debian root file system.
const DEBIAN: [Package; 1] = [Package { name: "mmdebstrap", programs: &["mmdebstrap"] }];

/// What shows the page in tests, and what asks its doors.
const BROWSER: [Package; 2] =
    [Package { name: "chromium", programs: &["chromium"] }, Package { name: "curl", programs: &["curl"] }];

/// Makes sure that every package is there: installs what is missing where this is Debian and we are root, and else
/// says which command would.
pub(crate) fn ensure() -> Result<()> {
    ensure_all(&PACKAGES)
}

/// As [`ensure`], for what builds a Debian root file system.
pub(crate) fn ensure_for_debian() -> Result<()> {
    ensure_all(&DEBIAN)
}

/// As [`ensure`], for what tests of the page use.
pub(crate) fn ensure_browser() -> Result<()> {
    ensure_all(&BROWSER)
}

fn ensure_all(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|package| !is_present(package)).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if find_program("apt-get").is_none() {
        bail!(
            "programs are missing that Debian has in these packages: {}; install what corresponds to them",
            missing.join(", ")
        );
    }
    if !is_root() {
        bail!("packages are missing; run: sudo apt-get update && sudo {install}");
    }
    println!("Installing missing packages: {}", missing.join(" "));
    process::run(&mut apt_get(&["update", "--quiet=2"]))?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends", "--quiet=2"];
    arguments.extend(&missing);
    process::run(&mut apt_get(&arguments))?;
    if let Some(package) = packages.iter().find(|package| !is_present(package)) {
        bail!("package {} is installed, but has no {}", package.name, package.programs.join(", "));
    }
    Ok(())
}

/// `apt-get` told to ask nothing.
pub(crate) fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The path of a program, by `PATH` and the administrator's folders.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(TOOL_PATH.split(':'))
        .filter(|folder| !folder.is_empty())
        .map(|folder| Path::new(folder).join(name))
        .find(|candidate| candidate.is_file())
}

fn is_present(package: &Package) -> bool {
    package.programs.iter().all(|name| {
        let found = find_program(name);
        // Other packages have a busybox that is linked dynamically, which is of no use in an empty root file system.
        found.is_some_and(|path| *name != "busybox" || is_static(&path))
    })
}

/// Whether an ELF program does without a loader: one that needs it names it near its start.
pub(crate) fn is_static(program: &Path) -> bool {
    const HEAD: usize = 4096;
    let needle = b"/ld-";
    fs::read(program).is_ok_and(|bytes| {
        bytes.starts_with(b"\x7fELF")
            && !bytes[..bytes.len().min(HEAD)].windows(needle.len()).any(|window| window == needle)
    })
}

/// Downloads the Debian package `package` and unpacks it to `destination`, without installing it; `finish` puts in order what
/// was unpacked. Done beside the destination and renamed, so that an interrupted run leaves nothing that looks complete.
pub(crate) fn download_and_unpack(
    package: &str,
    cache: &Path,
    destination: &Path,
    finish: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let partial = cache.join("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let download = || process::output_of(apt_get(&["download", package]).current_dir(&partial));
    if let Err(error) = download() {
        // Lists that are older than the archive's last change name a file that is gone.
        if !is_root() {
            return Err(error.context("if the package lists are old, run: sudo apt-get update"));
        }
        process::run(&mut apt_get(&["update", "--quiet=2"])).context(error)?;
        download()?;
    }
    let archive = only_file_in(&partial)?;
    let tree = partial.join("tree");
    process::run(Command::new("dpkg").arg("-x").args([&archive, &tree]))?;
    finish(&tree)?;
    fs::rename(&tree, destination)
        .with_context(|| format!("cannot move {package} to {}", destination.display()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_outside_the_path_of_a_user_are_found() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("a-program-that-nobody-has"), None);
    }

    #[test]
    fn a_static_program_is_told_from_a_dynamic_one() {
        let this_test = std::env::current_exe().expect("a running program has a path");
        assert!(is_static(&this_test), "the workspace links statically");
        let shell = fs::canonicalize("/bin/sh").expect("a shell");
        assert!(!is_static(&shell), "distributions link their shell dynamically");
    }
}
