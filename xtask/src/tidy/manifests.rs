//! Rules on package manifests: a licence, the workspace's lints, and nothing in what ships that is for tests.

use std::path::Path;

use anyhow::{Context, Result};
use toml::Table;

/// A feature that compiles in what only tests may have, and the package that has it. Tests ask for it in
/// `[dev-dependencies]`, which no other build looks at.
const FOR_TESTS: (&str, &str) = ("fail-points", "armed");

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
    if asks_for_tests_feature(&manifest) {
        let (package, feature) = FOR_TESTS;
        findings
            .push(format!("{}: asks for {package}/{feature} outside of dev-dependencies", name.display()));
    }
    Ok(findings)
}

fn asks_for_tests_feature(manifest: &Table) -> bool {
    let (package, feature) = FOR_TESTS;
    let names = |list: Option<&toml::Value>, wanted: &str| {
        let list = list.and_then(toml::Value::as_array);
        list.is_some_and(|list| list.iter().any(|name| name.as_str() == Some(wanted)))
    };
    let depends = ["dependencies", "build-dependencies"].into_iter().any(|section| {
        let dependency = manifest.get(section).and_then(|section| section.get(package));
        names(dependency.and_then(|dependency| dependency.get("features")), feature)
    });
    let features = manifest.get("features").and_then(toml::Value::as_table);
    let passed_on = format!("{package}/{feature}");
    depends || features.is_some_and(|features| features.values().any(|list| names(Some(list), &passed_on)))
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
    fn what_is_for_tests_is_asked_for_by_tests_alone() {
        let whole = "[package]\nlicense.workspace = true\n[lints]\nworkspace = true\n";
        let findings = |text: &str| check(Path::new("x"), &format!("{whole}{text}")).expect("valid").len();
        let armed = "fail-points = { workspace = true, features = [\"armed\"] }\n";
        assert_eq!(findings(&format!("[dev-dependencies]\n{armed}")), 0);
        assert_eq!(findings("[dependencies]\nfail-points.workspace = true\n"), 0);
        assert_eq!(findings(&format!("[dependencies]\n{armed}")), 1);
        assert_eq!(findings("[features]\ntrying = [\"fail-points/armed\"]\n"), 1);
    }

    #[test]
    fn what_is_missing_is_said() {
        let findings = check(Path::new("x/Cargo.toml"), "[package]\nname = \"x\"\n[lints]\n").expect("valid");
        assert_eq!(findings.len(), 2);
        assert!(check(Path::new("x/Cargo.toml"), "[package").is_err());
    }
}
