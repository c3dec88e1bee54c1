//! `cargo xtask package`: a Debian package of the worker, made with `dpkg-deb` alone.
//!
//! What is in it is decided as a value (`contents.rs`, `control.rs`), laid out in a folder (`layout.rs`) and packed. The same
//! sources and the same program give the same bytes: time stamps are those of the last commit, or `SOURCE_DATE_EPOCH`.

mod contents;
mod control;
mod layout;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::MetadataCommand;
use clap::Args;

use crate::lab::programs;
use crate::workspace::Workspace;
use crate::{packages, process, terminal};

use self::contents::Contents;
use self::control::Control;
pub(crate) use self::control::MAINTAINER;

/// The name of the package, and of the program in it.
const NAME: &str = "procurator-worker";
/// The configuration file.
const SETTINGS: &str = "worker.toml";
/// Where the package has its host keep images; `packaging/procurator-worker.tmpfiles` makes it.
const IMAGES: &str = "/var/lib/procurator-images";
/// The variable by which builds are given a time: seconds since 1970.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Options of the task.
#[derive(Args, Debug)]
pub(crate) struct Package {
    /// The cargo profile by which the program is built.
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
    /// What follows the version of the sources, like `+2` or `~rc1`.
    #[arg(long, value_name = "TEXT", default_value = "")]
    suffix: String,
    /// Whom the package names as its maintainer.
    #[arg(long, value_name = "NAME <ADDRESS>", default_value = MAINTAINER)]
    maintainer: String,
}

/// A package that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct Order<'a> {
    /// The program, which also writes its manual pages and completions.
    pub(crate) program: &'a Path,
    /// What follows the version of the sources.
    pub(crate) suffix: &'a str,
    pub(crate) maintainer: &'a str,
    pub(crate) compression: Compression,
}

/// How a package is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// As small as it gets, for whoever downloads it.
    Small,
    /// Not at all, for a host on which each second counts.
    None,
}

impl Package {
    /// Builds the program and packs it to `target/package`.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<bool> {
        terminal::ensure(workspace)?;
        let build =
            ["build", "--package", "worker-bin", "--bin", NAME, "--locked", "--profile", &self.profile];
        let built = programs::build(workspace, &build)?;
        let program = built.iter().find(|program| program.name == NAME);
        let order = Order {
            program: &program.context("cargo did not build the worker")?.path,
            suffix: &self.suffix,
            maintainer: &self.maintainer,
            compression: Compression::Small,
        };
        let package = build_package(workspace, &order)?;
        println!("{}", package.display());
        Ok(true)
    }
}

/// Makes the package below `target/package`, and returns where it is.
pub(crate) fn build_package(workspace: &Workspace, order: &Order) -> Result<PathBuf> {
    let packer =
        packages::find_program("dpkg-deb").context("dpkg-deb is not there: Debian's package dpkg has it")?;
    let folder = workspace.target_dir().join("package");
    let version = format!("{}{}", version(workspace)?, order.suffix);
    let written = written_by_program(order.program, &folder.join("written"))?;
    let stripped = written.join("program");
    strip(order.program, &stripped)?;
    refuse_armed(&stripped)?;
    let contents = Contents::of(workspace.root(), &stripped, &written)?;
    let root = folder.join("root");
    let bytes = layout::lay_out(&contents.files, &root)?;
    let control = Control { version: &version, maintainer: order.maintainer, installed_bytes: bytes };
    layout::lay_out(&control.files(workspace.root()), &root.join("DEBIAN"))?;

    let package = folder.join(format!("{NAME}_{version}_amd64.deb"));
    let mut pack = Command::new(packer);
    // With more threads the archive depends on how many there are.
    pack.arg("--root-owner-group").env("DPKG_DEB_THREADS_MAX", "1");
    pack.arg(match order.compression {
        Compression::Small => "-Zxz",
        Compression::None => "-Znone",
    });
    pack.arg("--build").arg(&root).arg(&package).env(EPOCH, epoch(workspace)?);
    process::output_of(&mut pack)?;
    remove(&root)?;
    remove(&written)?;
    Ok(package)
}

/// The variable that arms a point at which tests kill a process (`fail-points`): programs of tests alone know it.
const ARMING: &[u8] = b"PROCURATOR_FAIL_POINT";

/// Fails where `program` was built for tests: cargo puts it at the same path.
fn refuse_armed(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    if bytes.windows(ARMING.len()).any(|window| window == ARMING) {
        bail!(
            "{} was built for tests, which can end it at points of their choice: build it anew",
            program.display()
        );
    }
    Ok(())
}

/// What the program writes of itself, in `folder`: manual pages, completions, the configuration file.
fn written_by_program(program: &Path, folder: &Path) -> Result<PathBuf> {
    remove(folder)?;
    process::output_of(Command::new(program).arg("man").arg(folder.join("man")))?;
    let pages = [
        ("bash", &["completion", "bash"]),
        ("zsh", &["completion", "zsh"]),
        ("fish", &["completion", "fish"]),
        (SETTINGS, &["schema", "worker-toml"]),
    ];
    for (name, words) in pages {
        let mut text = process::output_of(Command::new(program).args(words))?;
        if name == SETTINGS {
            text = with_images(&text)?;
        }
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(folder.to_path_buf())
}

/// The configuration file of a host that need not have Nix: a worker does not start without the store that is its default.
fn with_images(settings: &str) -> Result<String> {
    let (default, images) = ("#store_roots = [\"/nix/store\"]", format!("store_roots = [\"{IMAGES}\"]"));
    ensure!(settings.contains(default), "the configuration file does not say {default}");
    let comment = "# This package has a directory for images. Where Nix is installed, add \"/nix/store\".";
    Ok(settings.replace(default, &format!("{comment}\n{images}")))
}

/// Copies `program` without its line numbers, which are most of it. Backtraces still name functions.
fn strip(program: &Path, stripped: &Path) -> Result<()> {
    let strip =
        packages::find_program("strip").context("strip is not there: Debian's package binutils has it")?;
    process::output_of(Command::new(strip).arg("--strip-debug").arg("-o").arg(stripped).arg(program))
        .map(drop)
}

/// The version of the sources, as Debian writes it: what comes before a release sorts before it.
fn version(workspace: &Workspace) -> Result<String> {
    let manifest = workspace.root().join("Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec();
    let metadata = metadata.context("cannot read the workspace")?;
    let package = metadata.packages.iter().find(|package| package.name.as_str() == "worker-bin");
    Ok(package.context("there is no package worker-bin")?.version.to_string().replace('-', "~"))
}

/// The time that everything in the package has.
fn epoch(workspace: &Workspace) -> Result<String> {
    if let Ok(epoch) = std::env::var(EPOCH) {
        if epoch.parse::<u64>().is_err() {
            bail!("{EPOCH} is {epoch:?}: seconds since 1970 are accepted");
        }
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    git.arg("-C").arg(workspace.root()).args(["log", "-1", "--format=%ct"]);
    let time = process::output_of(&mut git)
        .with_context(|| format!("nobody says of which time the sources are; {EPOCH} can"))?;
    Ok(time.trim().to_owned())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_tests_is_not_packed() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        for (content, is_refused) in [("PROCURATOR_FAIL_POIN", false), ("a\0PROCURATOR_FAIL_POINT\0b", true)]
        {
            fs::write(&program, content).expect("written");
            assert_eq!(refuse_armed(&program).is_err(), is_refused, "{content:?}");
        }
    }

    #[test]
    fn a_host_without_nix_has_a_place_for_images() {
        let settings = with_images("a\n#store_roots = [\"/nix/store\"]\nb\n").expect("it has the default");
        assert!(settings.contains("\nstore_roots = [\"/var/lib/procurator-images\"]\nb\n"), "{settings}");
        assert!(with_images("store_roots = []\n").is_err());
        let made = include_str!("../../packaging/procurator-worker.tmpfiles");
        assert!(made.contains(&format!("d {IMAGES} ")), "{made}");
    }
}
