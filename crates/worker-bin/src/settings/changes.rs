//! What has changed in the configuration, and which of it can be taken without a restart.

use std::mem::{Discriminant, discriminant};
use std::num::NonZeroUsize;

use worker::vms::{JailSettings, Placement};

use super::Settings;

/// Keys of the configuration file whose value in `new` is another than in `in_force`, but for `assignments`, which is
/// taken without a restart.
pub(crate) fn needing_restart(in_force: &Settings, new: &Settings) -> Vec<&'static str> {
    let (old, young) = (&in_force.manager, &new.manager);
    let mut named: Vec<&'static str> = [
        ("runtime_dir", in_force.runtime_dir == new.runtime_dir),
        ("admin", in_force.admin == new.admin),
        ("metrics", in_force.metrics == new.metrics),
        ("web", in_force.web == new.web),
        ("log_format", in_force.log_format == new.log_format),
        ("state_dir", old.vm_artifacts_dir == young.vm_artifacts_dir),
        ("store_roots", old.store_roots == young.store_roots),
        ("fetch", old.fetch == young.fetch && old.collection == young.collection),
        ("hash_verification", old.hash_verification == young.hash_verification),
        ("auto_restart", old.auto_restart == young.auto_restart),
        ("stop_timeout_seconds", old.stop_timeout == young.stop_timeout),
        ("metrics_poll_interval_seconds", old.metrics_poll_interval == young.metrics_poll_interval),
        ("removal_grace_seconds", old.removal_grace == young.removal_grace),
        ("limits.memory_overcommit_ratio", old.memory_overcommit == young.memory_overcommit),
        ("limits.vcpus_per_processor", old.vcpus_per_processor == young.vcpus_per_processor),
        ("limits", old.limits == young.limits),
        ("master.max_removals_per_hour", old.removal_limit == young.removal_limit),
        ("master", in_force.master == new.master),
        ("seccomp", in_force.seccomp == new.seccomp),
        ("stop_guests", in_force.stop_guests == new.stop_guests),
        ("vms_per_host_process", sharing(&old.placement) == sharing(&young.placement)),
        ("spare_host_processes", are_as_spare(&old.placement, &young.placement)),
        ("jail", jail_of(&old.placement) == jail_of(&young.placement)),
        ("max_parallel_starts", old.max_parallel_starts == young.max_parallel_starts),
        ("credentials_dir", old.credentials_dir == young.credentials_dir),
        ("network.bridge", old.network_bridge == young.network_bridge),
        ("network.subnet", old.vm_subnet_base == young.vm_subnet_base),
        ("network.ipv6_subnet", old.ipv6_subnet == young.ipv6_subnet),
        ("network.reserved", old.reserved_addresses == young.reserved_addresses),
        ("network.nat", old.nat == young.nat),
        ("network.vm_to_vm", old.between_vms == young.between_vms),
        ("network.host_services", old.host_services == young.host_services),
        ("network.max_connections_per_vm", old.connections == young.connections),
        ("network.domain", old.names == young.names),
        ("networks", old.networks == young.networks),
        ("network.vhost_net", old.vhost_net == young.vhost_net),
    ]
    .into_iter()
    .filter_map(|(key, is_same)| (!is_same).then_some(key))
    .collect();
    let is_other = Settings { assignments: in_force.assignments.clone(), ..new.clone() } != *in_force;
    if named.is_empty() && is_other {
        named.push("another setting");
    }
    named
}

fn jail_of(placement: &Placement) -> Option<JailSettings> {
    match placement {
        Placement::InThisProcess => None,
        Placement::StrictApart(hosts) | Placement::HostProcesses(hosts) => hosts.jail,
    }
}

/// How many VMs share a process, and whether any have one. Its program and arguments follow from other keys.
fn sharing(placement: &Placement) -> (Discriminant<Placement>, Option<NonZeroUsize>) {
    let shared = match placement {
        Placement::InThisProcess => None,
        Placement::StrictApart(hosts) | Placement::HostProcesses(hosts) => Some(hosts.vms_per_process),
    };
    (discriminant(placement), shared)
}

/// Whether as many processes are kept ready, as far as that is to be compared.
fn are_as_spare(one: &Placement, other: &Placement) -> bool {
    match (one, other) {
        (Placement::HostProcesses(one), Placement::HostProcesses(other)) => one.spare == other.spare,
        _ => true,
    }
}
