//! Another release of the worker: the same program at another place, whose version is another.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::Environment;

impl Environment {
    /// With a copy of the worker's program in `directory`, which says another version when it is asked; that is also returned.
    /// Nothing else is changed, so that it is known what an upgrade is about: another file, under another name.
    ///
    /// # Errors
    /// The program cannot be copied, or says no other version afterwards.
    pub fn upgraded_in(&self, directory: &Path) -> Result<(Self, String)> {
        let before = version_of(&self.worker)?;
        // As long as before: a program has it between other words.
        let after = next(&before).with_context(|| format!("no version as long as {before} follows it"))?;
        let mut program =
            fs::read(&self.worker).with_context(|| format!("cannot read {}", self.worker.display()))?;
        for place in places(&program, before.as_bytes()) {
            program[place..place + after.len()].copy_from_slice(after.as_bytes());
        }
        let path = directory.join("procurator-worker-next");
        fs::write(&path, program).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("cannot make it a program")?;
        let said = version_of(&path)?;
        ensure!(said == after, "it should say {after}, and says {said}");
        let mut upgraded = self.clone();
        upgraded.worker = path;
        Ok((upgraded, after))
    }
}

/// What the program says when it is asked for its version.
fn version_of(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = said.split_whitespace().last();
    version.map(str::to_owned).with_context(|| format!("{} says {said:?}", program.display()))
}

/// The version with another last figure.
fn next(version: &str) -> Option<String> {
    let (rest, last) = version.split_at_checked(version.len().checked_sub(1)?)?;
    let digit = last.parse::<u8>().ok()?;
    Some(format!("{rest}{}", (digit + 1) % 10))
}

/// Where `needle` is in `bytes`.
fn places(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(needle.len()).enumerate();
    windows.filter(|(_, window)| *window == needle).map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_version_is_as_long() {
        assert_eq!(next("0.1.0").as_deref(), Some("0.1.1"));
        assert_eq!(next("1.0.9").as_deref(), Some("1.0.0"));
        assert_eq!(next("1.0-beta"), None);
        assert_eq!(next(""), None);
    }

    #[test]
    fn every_place_is_found() {
        assert_eq!(places(b"0.1.0 and 0.1.0", b"0.1.0"), [0, 10]);
        assert_eq!(places(b"0.1", b"0.1.0"), [0; 0]);
    }
}
