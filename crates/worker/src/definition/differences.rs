//! In what parts of two descriptions differ, in words. Nothing here shows what guests are told in confidence: of files their
//! paths are shown, of what a description holds itself only that it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use nix_artifacts::{CloudInitNetwork, CloudInitSettings, RestartPolicy, SecretSource};
use vm_model::{BootSpec, Bytes, CpuSpec, CredentialName, GuestServices, MachineSpec, MemorySpec};

use super::Description;
use super::description::VolumeDescription;

/// In what a volume changes.
pub(super) fn of_volume(from: &VolumeDescription, to: &VolumeDescription) -> String {
    let size = |size: Option<Bytes>| size.map_or_else(|| "of its image".to_owned(), |size| size.to_string());
    let mut words = Vec::new();
    if from.size != to.size {
        words.push(format!("size {} → {}", size(from.size), size(to.size)));
    }
    if from.policy != to.policy {
        words.push(format!("persistence {} → {}", from.policy, to.policy));
    }
    words.join(" and ")
}

/// In what changes what cloud-init is told, if it does.
pub(super) fn of_cloud_init(
    from: Option<&CloudInitSettings>,
    to: Option<&CloudInitSettings>,
) -> Option<String> {
    let (before, after) = match (from, to) {
        (None, None) => return None,
        (None, Some(_)) => return Some("added".to_owned()),
        (Some(_), None) => return Some("taken away".to_owned()),
        (Some(before), Some(after)) => (before, after),
    };
    let CloudInitSettings { user_data, vendor_data, meta_data, network } = before;
    let mut words = Vec::new();
    words.extend(of_source("user_data", user_data.as_ref(), after.user_data.as_ref()));
    words.extend(of_source("vendor_data", vendor_data.as_ref(), after.vendor_data.as_ref()));
    words.extend(of_keys(meta_data, &after.meta_data));
    if *network != after.network {
        words.push(format!("network {} → {}", of_network(*network), of_network(after.network)));
    }
    (!words.is_empty()).then(|| words.join(" and "))
}

fn of_source(key: &str, from: Option<&SecretSource>, to: Option<&SecretSource>) -> Option<String> {
    let shown = |source: Option<&SecretSource>| match source {
        None => "none".to_owned(),
        Some(SecretSource::Given(_)) => "given (not shown)".to_owned(),
        Some(SecretSource::File(path)) => path.display().to_string(),
    };
    match (from, to) {
        (from, to) if from == to => None,
        (Some(SecretSource::Given(_)), Some(SecretSource::Given(_))) => {
            Some(format!("{key} (content not shown)"))
        }
        (from, to) => Some(format!("{key} {} → {}", shown(from), shown(to))),
    }
}

/// Which keys of meta-data are others.
fn of_keys(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Option<String> {
    let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let changed: Vec<&str> =
        keys.into_iter().filter(|key| from.get(*key) != to.get(*key)).map(String::as_str).collect();
    (!changed.is_empty()).then(|| format!("meta_data ({})", changed.join(", ")))
}

fn of_network(network: CloudInitNetwork) -> &'static str {
    match network {
        CloudInitNetwork::Told => "told",
        CloudInitNetwork::Dhcp => "by DHCP",
    }
}

/// In what the credentials of a guest's systemd change that lie in files of the host, if they do. What a description gives
/// itself is among the texts of the machine's firmware.
pub(super) fn of_credentials(from: &Description, to: &Description) -> Option<String> {
    let files = |description: &Description| -> BTreeMap<CredentialName, PathBuf> {
        let files = description.credential_files.iter();
        files.map(|file| (file.name.clone(), file.path.clone())).collect()
    };
    let (before, after) = (files(from), files(to));
    let shown =
        |path: Option<&PathBuf>| path.map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    let names: BTreeSet<&CredentialName> = before.keys().chain(after.keys()).collect();
    let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    let words: Vec<String> = changed
        .map(|name| format!("{name} {} → {}", shown(before.get(name)), shown(after.get(name))))
        .collect();
    (!words.is_empty()).then(|| words.join(" and "))
}

/// When a VM is started again, where its definition says so.
pub(super) fn of_policy(policy: Option<RestartPolicy>) -> &'static str {
    match policy {
        None => "of the worker",
        Some(RestartPolicy::Always) => "always",
        Some(RestartPolicy::OnFailure) => "on-failure",
        Some(RestartPolicy::Never) => "never",
    }
}

/// The parts of the machine that are others and of which nothing else speaks. The names of its files count: they are relative
/// to the artifact.
pub(super) fn parts_of_machine(from: &Description, to: &Description) -> Vec<&'static str> {
    let after = &to.machine;
    // Field by field, so that a new one cannot be forgotten here.
    let MachineSpec { uuid: _, cpus, memory, boot, disks: _, nics: _, serial, rng, services } = &from.machine;
    let BootSpec { kernel, initrd, cmdline: _ } = boot;
    let GuestServices { panic_device, balloon, vsock, console, watchdog, oem_strings } = services;
    let processors = |cpus: &CpuSpec| CpuSpec { boot_vcpus: 0, ..cpus.clone() };
    let kind = |memory: &MemorySpec| MemorySpec { size: Bytes::new(0), ..*memory };
    let parts = [
        ("kernel", *kernel != after.boot.kernel),
        ("initial RAM disk", *initrd != after.boot.initrd),
        ("processors", processors(cpus) != processors(&after.cpus)),
        ("kind of memory", kind(memory) != kind(&after.memory)),
        ("serial port", *serial != after.serial),
        ("entropy device", *rng != after.rng),
        ("panic device", *panic_device != after.services.panic_device),
        ("balloon", *balloon != after.services.balloon),
        ("socket device", from.vsock != to.vsock || *vsock != after.services.vsock),
        ("virtio console", *console != after.services.console),
        ("watchdog", *watchdog != after.services.watchdog),
        (
            "credentials and other texts of its firmware (not shown)",
            *oem_strings != after.services.oem_strings,
        ),
    ];
    parts.into_iter().filter_map(|(part, is_other)| is_other.then_some(part)).collect()
}

#[cfg(test)]
mod tests {
    use vm_model::{Secret, VolumePolicy};

    use super::*;

    fn settings(user_data: Option<SecretSource>) -> CloudInitSettings {
        CloudInitSettings {
            user_data,
            vendor_data: None,
            meta_data: BTreeMap::new(),
            network: CloudInitNetwork::Told,
        }
    }

    #[test]
    fn what_cloud_init_is_told_is_named_and_not_shown() {
        let given = |text: &str| Some(SecretSource::Given(Secret::new(text.as_bytes().to_vec())));
        let file = |path: &str| Some(SecretSource::File(path.into()));
        let differ = |from: &CloudInitSettings, to: &CloudInitSettings| of_cloud_init(Some(from), Some(to));
        let told = settings(given("hunter2"));
        assert_eq!(differ(&told, &told), None);
        assert_eq!(of_cloud_init(None, Some(&told)).as_deref(), Some("added"));
        assert_eq!(
            differ(&told, &settings(given("hunter3"))).as_deref(),
            Some("user_data (content not shown)")
        );
        assert_eq!(
            differ(&told, &settings(file("/etc/x"))).as_deref(),
            Some("user_data given (not shown) → /etc/x")
        );
        let meta_data = BTreeMap::from([("region".to_owned(), "hunter2".to_owned())]);
        let other =
            CloudInitSettings { meta_data, network: CloudInitNetwork::Dhcp, ..settings(file("/etc/y")) };
        assert_eq!(
            differ(&settings(file("/etc/x")), &other).as_deref(),
            Some("user_data /etc/x → /etc/y and meta_data (region) and network told → by DHCP")
        );
    }

    #[test]
    fn a_volume_says_its_sizes_and_policies() {
        let volume = |policy, mib: Option<u64>| VolumeDescription { policy, size: mib.map(Bytes::from_mib) };
        let before = volume(VolumePolicy::FromImage, None);
        assert_eq!(
            of_volume(&before, &volume(VolumePolicy::Persistent, Some(8))),
            "size of its image → 8 MiB and persistence from_image → persistent"
        );
    }
}
