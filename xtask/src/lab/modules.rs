//! The order in which kernel modules load. Reads what `depmod` wrote; loads nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

/// A kernel's modules and what each needs, by name. A dash and an underscore in a name are the same.
#[derive(Debug, Default)]
pub(crate) struct ModuleIndex {
    paths: BTreeMap<String, ModuleFile>,
    built_in: BTreeSet<String>,
}

#[derive(Debug)]
struct ModuleFile {
    path: String,
    /// Files that load before it, in order.
    needs: Vec<String>,
}

impl ModuleIndex {
    /// Reads `modules.dep` and `modules.builtin`.
    pub(crate) fn parse(dependencies: &str, built_in: &str) -> Self {
        let mut paths = BTreeMap::new();
        for (path, needs) in dependencies.lines().filter_map(|line| line.split_once(':')) {
            // `modules.dep` lists what has to load last first.
            let needs = needs.split_whitespace().rev().map(str::to_owned).collect();
            paths.insert(module_name(path), ModuleFile { path: path.to_owned(), needs });
        }
        Self { paths, built_in: built_in.lines().map(module_name).collect() }
    }

    /// The files to load for `names`, each after what it needs and none twice. Modules that are part of the kernel
    /// image are left out.
    pub(crate) fn load_order(&self, names: &[&str]) -> Result<Vec<String>> {
        let mut order: Vec<String> = Vec::new();
        for name in names {
            let name = name.replace('-', "_");
            let Some(module) = self.paths.get(&name) else {
                if self.built_in.contains(&name) {
                    continue;
                }
                bail!("the kernel has no module {name}");
            };
            for path in module.needs.iter().chain([&module.path]) {
                if !order.contains(path) {
                    order.push(path.clone());
                }
            }
        }
        Ok(order)
    }
}

/// `kernel/arch/x86/kvm/kvm-amd.ko` is `kvm_amd`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> ModuleIndex {
        ModuleIndex::parse(
            "kernel/virtio/virtio_ring.ko:\n\
             kernel/virtio/virtio.ko: kernel/virtio/virtio_ring.ko\n\
             kernel/net/net_failover.ko: kernel/net/failover.ko\n\
             kernel/net/failover.ko:\n\
             kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko \
             kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko\n\
             kernel/kvm/kvm-amd.ko.xz:\n",
            "kernel/fs/ext4/ext4.ko\n",
        )
    }

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let order = index().load_order(&["virtio", "virtio_net"]).expect("all are known");
        assert_eq!(
            order,
            [
                "kernel/virtio/virtio_ring.ko",
                "kernel/virtio/virtio.ko",
                "kernel/net/failover.ko",
                "kernel/net/net_failover.ko",
                "kernel/net/virtio_net.ko",
            ]
        );
    }

    #[test]
    fn dashes_compression_and_built_in_modules_are_understood() {
        let order = index().load_order(&["kvm_amd", "kvm-amd", "ext4"]).expect("all are known");
        assert_eq!(order, ["kernel/kvm/kvm-amd.ko.xz"]);
    }

    #[test]
    fn an_unknown_module_is_named() {
        let error = index().load_order(&["vlan"]).expect_err("no such module");
        assert!(error.to_string().contains("vlan"), "{error}");
    }
}
