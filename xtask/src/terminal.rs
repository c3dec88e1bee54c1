//! The terminal that the page shows consoles in: npm packages, never committed, of which `crates/web-page/terminal.json` says
//! the version and the digest. They are downloaded once, checked and unpacked to where the page's build looks for them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use data_encoding::BASE64;
use serde::Deserialize;
use sha2::{Digest, Sha512};

use crate::workspace::Workspace;
use crate::{packages, process};

/// What is fetched.
const PINNED: &str = "crates/web-page/terminal.json";
/// Where the page's build looks for it.
const FOLDER: &str = "target/npm/terminal";
/// What packages of npm have everything in.
const TOP: &str = "package";

/// The file that says what is fetched.
#[derive(Debug, Deserialize)]
struct Pinned {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    url: String,
    /// The digest, as npm writes it: `sha512-` and base 64.
    integrity: String,
    /// Files of the package, and what they are called here.
    files: BTreeMap<String, String>,
}

/// Makes sure that the terminal's files are where the page's build looks for them.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    let pinned = workspace.root().join(PINNED);
    let text = fs::read(&pinned).with_context(|| format!("cannot read {}", pinned.display()))?;
    let Pinned { packages } =
        serde_json::from_slice(&text).with_context(|| format!("{} is no such file", pinned.display()))?;
    let folder = workspace.root().join(FOLDER);
    // Which versions they are stands beside them: newer ones replace them.
    let versions: String = packages.iter().map(|package| format!("{}\n", package.integrity)).collect();
    let record = folder.join("versions");
    if fs::read_to_string(&record).is_ok_and(|there| there == versions) {
        return Ok(());
    }
    let partial = folder.with_extension("partial");
    for folder in [&folder, &partial] {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    for package in &packages {
        println!("Downloading {} {}", package.name, package.version);
        package.fetch(&partial)?;
    }
    fs::write(partial.join("versions"), versions).context("cannot write which versions there are")?;
    fs::rename(&partial, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // The page's build has cargo look at this file's time, because a folder that is not there cannot be looked at.
    let touched =
        File::options().append(true).open(&pinned).and_then(|file| file.set_modified(SystemTime::now()));
    touched.with_context(|| format!("cannot tell cargo of {}", folder.display()))
}

/// The licences of the terminal's packages, where they were fetched to the sources at `root`.
pub(crate) fn licences(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join(FOLDER)).into_iter().flatten().flatten();
    let mut licences: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    licences
        .retain(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"LICENSE")));
    licences.sort();
    licences
}

impl Package {
    /// Downloads it and puts its files into `folder`.
    fn fetch(&self, folder: &Path) -> Result<()> {
        let curl =
            packages::find_program("curl").context("curl is not there: Debian's package curl has it")?;
        let archive = folder.join("archive.tgz");
        let mut download = Command::new(curl);
        download.args([
            "--fail",
            "--silent",
            "--show-error",
            "--location",
            "--proto",
            "=https",
            "--retry",
            "3",
        ]);
        process::run(download.arg("--output").arg(&archive).arg(&self.url))?;
        let bytes = fs::read(&archive).with_context(|| format!("cannot read {}", archive.display()))?;
        self.check(&bytes)?;
        process::run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(folder))?;
        let top = folder.join(TOP);
        for (from, to) in &self.files {
            let (from, to) = (top.join(from), folder.join(to));
            fs::rename(&from, &to).with_context(|| format!("{} has no {}", self.name, from.display()))?;
        }
        fs::remove_dir_all(&top).with_context(|| format!("cannot remove {}", top.display()))?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
    }

    /// Whether `bytes` are the package.
    fn check(&self, bytes: &[u8]) -> Result<()> {
        let Some(wanted) = self.integrity.strip_prefix("sha512-") else {
            bail!("{}: the digest {:?} is none of sha512", self.name, self.integrity);
        };
        let found = BASE64.encode(&Sha512::digest(bytes));
        ensure!(
            found == wanted,
            "{} {} is another file than the one that was looked at: its digest is sha512-{found}",
            self.name,
            self.version
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_is_refused() {
        let package = |integrity: &str| Package {
            name: "p".to_owned(),
            version: "1".to_owned(),
            url: String::new(),
            integrity: integrity.to_owned(),
            files: BTreeMap::new(),
        };
        // Of no bytes at all (FIPS 180-4).
        let empty = package(
            "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",
        );
        empty.check(b"").expect("it is the file");
        let problem = empty.check(b"x").expect_err("it is another").to_string();
        assert!(problem.contains("p 1 is another file"), "{problem}");
        package("sha1-x").check(b"").expect_err("no digest that is accepted");
    }
}
