//! Settings of the host's kernel that a test changes, and that are as before when it is over.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A changed setting; dropping it sets what was there before.
#[derive(Debug)]
pub struct HostSetting {
    path: PathBuf,
    before: String,
}

impl HostSetting {
    /// Sets the one in the file `path` to `value`.
    ///
    /// # Errors
    /// There is no such setting, or the kernel does not take the value.
    pub fn change(path: &str, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        fs::write(path, value).with_context(|| format!("cannot write {value} to {path}"))?;
        Ok(Self { path: Path::new(path).to_path_buf(), before: chosen(&before).to_owned() })
    }
}

impl Drop for HostSetting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            println!("{} is not {} again: {error}", self.path.display(), self.before);
        }
    }
}

/// What is set: the word in brackets, where all that can be set is listed.
fn chosen(text: &str) -> &str {
    let bracketed = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    bracketed.map_or(text.trim(), |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_as_before_afterwards() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("setting");
        for (before, after) in [("12\n", "12"), ("always [never] deny\n", "never")] {
            fs::write(&path, before).expect("written");
            let changed = HostSetting::change(path.to_str().expect("a short name"), "7").expect("changed");
            assert_eq!(fs::read_to_string(&path).expect("read"), "7");
            drop(changed);
            assert_eq!(fs::read_to_string(&path).expect("read"), after);
        }
        assert!(HostSetting::change("/nonexistent/setting", "7").is_err());
    }
}
