//! `hash`: the NAR hash of a store path, for who writes an assignment by hand.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, absolute};

use anyhow::{Context, Result};
use nix_artifacts::{StoreRoots, hash_store_path};

/// Prints the hash of `store_path` in SRI form. The directory that it lies in is taken for a store, whichever that is.
pub(crate) fn run(store_path: &Path) -> Result<()> {
    let hash = hash_of(store_path)?;
    writeln!(std::io::stdout(), "{hash}").context("cannot write to standard output")
}

fn hash_of(store_path: &Path) -> Result<String> {
    let path = absolute(store_path).with_context(|| format!("invalid path {}", store_path.display()))?;
    let directory = path.parent().with_context(|| format!("{} is no store path", path.display()))?;
    let roots = StoreRoots::open(&[directory.to_owned()])?;
    let hashed = hash_store_path(&roots, &path, &mut |_| ControlFlow::Continue(()))?;
    Ok(hashed.hash.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_path_is_hashed_as_nix_does_and_one_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image");
        fs::write(&path, "hello\n").expect("written");
        // What `nix hash path` prints of a file with this content.
        let expected = "sha256-HDfQGvQL4ugGkd48w99EN3ppmvuxfGjwgJZLL9Bx/BM=";
        assert_eq!(hash_of(&path).expect("hashed"), expected);
        let missing = hash_of(&directory.path().join("none")).expect_err("it is not there");
        assert!(format!("{missing:#}").contains("none"), "{missing:#}");
    }
}
