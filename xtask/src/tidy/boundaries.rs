//! Which crate must not depend on what: the table of `docs/architecture.md` as data, and its check.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, PackageId};

/// One crate's row.
struct Boundary {
    package: &'static str,
    /// Packages of the workspace that it may use. Others are refused.
    workspace: Allowed,
    /// Packages that it must not name itself.
    not_directly: &'static [&'static str],
    /// Packages that must not be anywhere below it.
    not_at_all: &'static [&'static str],
}

/// A name in `not_directly` and `not_at_all` that ends in `*` stands for all that begin so.
enum Allowed {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

use Allowed::{AllBut, Only};

const BOUNDARIES: [Boundary; 30] = [
    Boundary {
        package: "vm-model",
        workspace: Only(&[]),
        not_directly: &["libc"],
        not_at_all: &["tokio", "rustix", "nix", "kvm-*", "vmm-sys-util", "vm-memory"],
    },
    Boundary { package: "hypervisor", workspace: Only(&[]), not_directly: &[], not_at_all: &["tokio"] },
    Boundary {
        package: "devices",
        workspace: AllBut(&["hypervisor", "vmm", "vmm-host", "host-network", "worker"]),
        not_directly: &[],
        not_at_all: &["kvm-*", "tokio", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "vmm",
        workspace: AllBut(&["worker", "vmm-host", "host-network", "nix-artifacts"]),
        not_directly: &[],
        not_at_all: &["tokio", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "binary-cache",
        workspace: Only(&["vm-model"]),
        not_directly: &["libc"],
        not_at_all: &["kvm-*", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "cgroups",
        workspace: Only(&["vm-model"]),
        not_directly: &[],
        not_at_all: &["tokio", "kvm-*", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "cidata",
        workspace: Only(&["vm-model"]),
        not_directly: &["libc"],
        not_at_all: &["tokio", "rustix", "kvm-*", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "console-log",
        workspace: Only(&["syscall-filter", "vm-model"]),
        not_directly: &[],
        not_at_all: &["kvm-*", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "last-words",
        workspace: Only(&[]),
        not_directly: &[],
        not_at_all: &["tokio", "rustix", "kvm-*", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "syscall-filter",
        workspace: Only(&["last-words"]),
        not_directly: &["kvm-*"],
        not_at_all: &["tokio", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "fail-points",
        workspace: Only(&[]),
        not_directly: &[],
        not_at_all: &["tokio", "kvm-*", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "health",
        workspace: Only(&["console-log", "vm-model"]),
        not_directly: &["libc"],
        not_at_all: &["kvm-*", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "machine-host",
        workspace: Only(&["console-log", "vm-model"]),
        not_directly: &[],
        not_at_all: &["kvm-*", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "vmm-host",
        workspace: AllBut(&["host-network", "nix-artifacts", "master-protocol", "worker"]),
        not_directly: &[],
        not_at_all: &["rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "host-process",
        workspace: AllBut(&["host-network", "nix-artifacts", "master-protocol", "worker"]),
        not_directly: &[],
        not_at_all: &["rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "jail",
        workspace: Only(&[]),
        not_directly: &[],
        not_at_all: &["tokio", "kvm-*", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "ipam",
        workspace: Only(&["vm-model"]),
        not_directly: &["libc"],
        not_at_all: &["tokio", "rustix", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "host-network",
        workspace: AllBut(&["vmm", "vmm-host", "master-protocol", "worker"]),
        not_directly: &["kvm-*"],
        not_at_all: &[],
    },
    Boundary {
        package: "metrics",
        workspace: AllBut(&["master-protocol", "host-network", "worker"]),
        not_directly: &[],
        not_at_all: &["rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "nix-artifacts",
        workspace: AllBut(&["host-network", "vmm", "vmm-host", "worker"]),
        not_directly: &[],
        not_at_all: &["rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "master-protocol",
        workspace: Only(&["vm-model"]),
        not_directly: &["kvm-*", "rtnetlink"],
        not_at_all: &[],
    },
    Boundary {
        package: "worker",
        workspace: AllBut(&[]),
        not_directly: &["kvm-*", "rtnetlink"],
        not_at_all: &[],
    },
    Boundary {
        package: "admin",
        workspace: AllBut(&["hypervisor", "vmm", "vmm-host", "host-network"]),
        not_directly: &["kvm-*", "rtnetlink"],
        not_at_all: &[],
    },
    Boundary {
        package: "web-page",
        workspace: Only(&[]),
        not_directly: &["libc"],
        not_at_all: &["kvm-*", "rtnetlink", "netlink-*"],
    },
    Boundary {
        package: "procurator-master",
        workspace: Only(&["vm-model", "master-protocol"]),
        not_directly: &[],
        not_at_all: &[],
    },
    Boundary {
        package: "worker-bin",
        workspace: AllBut(&[]),
        not_directly: &["kvm-*", "rtnetlink"],
        not_at_all: &[],
    },
    Boundary {
        package: "fuzz-bodies",
        workspace: AllBut(&["hypervisor", "vmm-host", "worker", "admin"]),
        not_directly: &["kvm-*", "rtnetlink", "tokio"],
        not_at_all: &[],
    },
    Boundary { package: "test-frames", workspace: Only(&[]), not_directly: &[], not_at_all: &["tokio"] },
    Boundary {
        package: "test-host",
        workspace: Only(&["nix-artifacts", "tiny-guest"]),
        not_directly: &[],
        not_at_all: &["kvm-*", "tokio"],
    },
    Boundary { package: "tiny-guest", workspace: Only(&[]), not_directly: &[], not_at_all: &["tokio"] },
];

/// Packages of the workspace that are no part of the product.
const TOOLS: [&str; 3] = ["xtask", "end-to-end", "benchmarks"];

/// Who depends on whom in a build without tests, by package name.
#[derive(Debug, Default)]
pub(super) struct Graph {
    members: BTreeSet<String>,
    direct: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let name = |id: &PackageId| metadata[id].name.to_string();
        let resolve = metadata.resolve.as_ref().context("cargo resolved no dependencies")?;
        let mut direct: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in &resolve.nodes {
            let normal = node.deps.iter().filter(|dependency| {
                dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
            });
            direct.entry(name(&node.id)).or_default().extend(normal.map(|dependency| name(&dependency.pkg)));
        }
        Ok(Self { members: metadata.workspace_members.iter().map(name).collect(), direct })
    }

    fn directly_below(&self, package: &str) -> BTreeSet<&str> {
        self.direct.get(package).into_iter().flatten().map(String::as_str).collect()
    }

    fn anywhere_below(&self, package: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&str> = self.directly_below(package).into_iter().collect();
        while let Some(next) = open.pop() {
            if found.insert(next) {
                open.extend(self.directly_below(next));
            }
        }
        found
    }
}

/// Findings over the whole workspace. A package without a row is one.
pub(super) fn check(graph: &Graph) -> Vec<String> {
    let mut findings = Vec::new();
    for member in graph.members.iter().filter(|member| !TOOLS.contains(&member.as_str())) {
        match BOUNDARIES.iter().find(|boundary| boundary.package == member) {
            Some(boundary) => findings.extend(boundary.check(graph)),
            None => findings.push(format!("{member} has no row in the table of dependencies")),
        }
    }
    findings
}

impl Boundary {
    fn check(&self, graph: &Graph) -> Vec<String> {
        let direct = graph.directly_below(self.package);
        let below = graph.anywhere_below(self.package);
        let named = direct.iter().filter(|name| {
            matches_any(self.not_directly, name) || graph.members.contains(**name) && !self.permits(name)
        });
        let reached = below.iter().filter(|name| matches_any(self.not_at_all, name));
        named
            .map(|name| format!("{} must not depend on {name}", self.package))
            .chain(reached.map(|name| format!("{} must not reach {name}, not even indirectly", self.package)))
            .collect()
    }

    fn permits(&self, member: &str) -> bool {
        match self.workspace {
            Only(allowed) => allowed.contains(&member),
            AllBut(refused) => !refused.contains(&member),
        }
    }
}

fn matches_any(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => *pattern == name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(members: &[&str], edges: &[(&str, &str)]) -> Graph {
        let mut graph =
            Graph { members: members.iter().map(|name| (*name).to_owned()).collect(), ..Graph::default() };
        for (from, to) in edges {
            graph.direct.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    }

    #[test]
    fn what_the_table_allows_passes() {
        let graph = graph(
            &["vm-model", "devices", "vmm", "hypervisor", "worker", "xtask"],
            &[("vmm", "devices"), ("vmm", "hypervisor"), ("hypervisor", "kvm-ioctls"), ("xtask", "tokio")],
        );
        assert_eq!(check(&graph), Vec::<String>::new());
    }

    #[test]
    fn a_direct_breach_is_named() {
        let graph =
            graph(&["vm-model", "hypervisor"], &[("hypervisor", "vm-model"), ("vm-model", "kvm-bindings")]);
        assert_eq!(
            check(&graph),
            [
                "hypervisor must not depend on vm-model",
                "vm-model must not reach kvm-bindings, not even indirectly"
            ]
        );
    }

    #[test]
    fn a_breach_through_another_package_is_found_where_that_matters() {
        let graph = graph(
            &["worker", "vmm", "vmm-host"],
            &[
                ("vmm", "some-crate"),
                ("some-crate", "tokio"),
                ("worker", "vmm-host"),
                ("vmm-host", "kvm-ioctls"),
            ],
        );
        assert_eq!(check(&graph), ["vmm must not reach tokio, not even indirectly"]);
    }

    #[test]
    fn a_new_crate_needs_a_row() {
        assert_eq!(check(&graph(&["surprise"], &[])), ["surprise has no row in the table of dependencies"]);
    }
}
