//! Rules on package manifests: a licence, and the workspace's lints.

use std::path::Path;

use anyhow::{Context, Result};
use toml::Table;

/// Findings on one package's manifest.
pub(super) fn check(name: &Path, text: &str) -> Result<Vec<String>> {
    let manifest: Table = text.parse().with_context(|| format!("cannot read {}", name.display()))?;
    let mut findings = Vec::new();
    let licence = manifest.get("package").and_then(|package| package.get("license"));
    if licence.is_none() {
        findings.push(format!("{}: names no licence (`license.workspace = true`)", name.display()));
    }
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    if lints.and_then(toml::Value::as_bool) != Some(true) {
        findings.push(format!("{}: does not take the workspace's lints", name.display()));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_manifest_passes() {
        let text = "[package]\nname = \"x\"\nlicense.workspace = true\n[lints]\nworkspace = true\n";
        assert_eq!(check(Path::new("x/Cargo.toml"), text).expect("valid"), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_said() {
        let findings = check(Path::new("x/Cargo.toml"), "[package]\nname = \"x\"\n[lints]\n").expect("valid");
        assert_eq!(findings.len(), 2);
        assert!(check(Path::new("x/Cargo.toml"), "[package").is_err());
    }
}
