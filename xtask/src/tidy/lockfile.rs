//! Rules on `Cargo.lock`: one copy of what must be unique in a process, and none of what was decided against.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Types of these cross crates, or their state is the process's.
const SINGLE: [&str; 5] = ["kvm-bindings", "rustls", "tokio", "vm-memory", "vmm-sys-util"];
/// There is one cryptographic provider, and it is another.
const FORBIDDEN: [&str; 3] = ["aws-lc", "native-tls", "openssl"];

#[derive(Deserialize)]
struct Lockfile {
    package: Vec<LockedPackage>,
}

#[derive(Deserialize)]
struct LockedPackage {
    name: String,
    version: String,
}

/// Findings on the workspace's lock file.
pub(super) fn check(text: &str) -> Result<Vec<String>> {
    let lockfile: Lockfile = toml::from_str(text).context("cannot read Cargo.lock")?;
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in &lockfile.package {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    let mut findings = Vec::new();
    for (name, versions) in versions {
        if SINGLE.contains(&name) && versions.len() > 1 {
            findings.push(format!("Cargo.lock: {name} is there in versions {}", versions.join(" and ")));
        }
        if FORBIDDEN.iter().any(|start| name.starts_with(start)) {
            findings.push(format!("Cargo.lock: {name} must not be there"));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_copies_and_forbidden_packages_are_found() {
        let package =
            |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
        let text = [
            package("tokio", "1.48.0"),
            package("tokio-util", "0.7.0"),
            package("syn", "1.0.0"),
            package("syn", "2.0.0"),
        ]
        .concat();
        assert_eq!(check(&text).expect("valid"), Vec::<String>::new());
        let text = [text, package("tokio", "0.2.0"), package("openssl-sys", "0.9.0")].concat();
        assert_eq!(
            check(&text).expect("valid"),
            [
                "Cargo.lock: openssl-sys must not be there",
                "Cargo.lock: tokio is there in versions 1.48.0 and 0.2.0"
            ]
        );
    }
}
