//! The real Prometheus that the worker's figures are tried with: Debian's package, downloaded and unpacked, never installed,
//! because an installed one would start a server of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::packages;
use crate::process;

/// The package that has the server and `promtool`.
const PACKAGE: &str = "prometheus";
/// The variable that tells tests where the programs are.
pub(crate) const VARIABLE: &str = "PROCURATOR_TEST_PROMETHEUS";

/// The folder of the programs in `cache`, downloaded into it first where they are not there; the host's own where it has them.
pub(crate) fn ensure(cache: &Path) -> Result<PathBuf> {
    if let Some(server) = packages::find_program("prometheus")
        && packages::find_program("promtool").is_some()
        && let Some(folder) = server.parent()
    {
        return Ok(folder.to_owned());
    }
    let unpacked = cache.join("unpacked");
    if !unpacked.is_dir() {
        println!("Downloading {PACKAGE}");
        packages::download_and_unpack(PACKAGE, cache, &unpacked, |_tree| Ok(()))?;
    }
    let folder = unpacked.join("usr/bin");
    for program in ["prometheus", "promtool"] {
        let path = folder.join(program);
        fs::metadata(&path).with_context(|| format!("package {PACKAGE} has no {}", path.display()))?;
    }
    process::run(Command::new(folder.join("promtool")).arg("--version"))?;
    Ok(folder)
}
