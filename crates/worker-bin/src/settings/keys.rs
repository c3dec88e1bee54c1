//! Every key of the configuration file: what it takes, its default, and what else can set it.
//!
//! `check-config` and the schema follow this table. Tests hold it against what the reader takes and against
//! `docs/configuration.md`, so that a key that is added to one of them is added to all.

use super::fetch::{MOST_DAYS, MOST_GIB, MOST_PARALLEL};
use host_network::VlanId;
use vm_model::Cores;

use super::limits::{DESCRIPTORS, PROCESSES, VCPUS_PER_PROCESSOR, WEIGHT};
use super::network::MOST_CONNECTIONS;

/// A key of the configuration file.
#[derive(Debug)]
pub(crate) struct Key {
    /// The key with its table, like `network.bridge`. For `NAME` stands a name of the author's choice.
    pub(crate) name: &'static str,
    /// What values it takes.
    pub(crate) kind: Kind,
    /// The default as the file would say it; `None` where there is none, or where it depends on others.
    pub(crate) default: Option<&'static str>,
    /// The environment variable, and the argument of `run` that it stands for.
    pub(crate) environment: Option<(&'static str, &'static str)>,
    /// What it means.
    pub(crate) meaning: &'static str,
}

/// The values that a key takes.
#[derive(Debug)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer {
        /// The least that is accepted.
        least: i64,
        /// The most that is accepted.
        most: i64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A multiple of the host's memory, or `"off"`.
    Ratio,
    /// An amount of processor time in cores.
    Cores,
    /// A path from the root on.
    AbsolutePath,
    /// A path.
    Path,
    /// A list of paths.
    Paths,
    /// A list of protocols with ports.
    Services,
    /// A list of ranges of IPv4 addresses.
    AddressRanges,
    /// A list of binary caches.
    Caches,
    /// A list of public keys.
    PublicKeys,
    /// Numbers of users, the first and the last.
    UserRange,
    /// Any text.
    Text,
    /// The name of a network interface.
    LinkName,
    /// A domain of names.
    Domain,
    /// An IPv4 network.
    Subnet,
    /// An IPv6 network.
    Ipv6Subnet,
    /// An IPv4 address.
    Ipv4Address,
    /// A host and a port.
    HostAndPort,
    /// An IP address and a port.
    AddressAndPort,
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, meaning: &'static str) -> Key {
    Key { name, kind, default, environment: None, meaning }
}

/// What stands in the name of a key for a name of the author's choice.
pub(crate) const NAME: &str = "NAME";

impl Key {
    /// Its table, empty at the top, and its name there.
    pub(crate) fn parts(&self) -> (&'static str, &'static str) {
        self.name.rsplit_once('.').unwrap_or(("", self.name))
    }

    /// The table whose members, with names of the author's choice, have this key.
    pub(crate) fn named_in(&self) -> Option<&'static str> {
        self.parts().0.strip_suffix(NAME)?.strip_suffix('.')
    }

    const fn or_environment(self, variable: &'static str, argument: &'static str) -> Self {
        let Self { name, kind, default, meaning, .. } = self;
        Self { name, kind, default, environment: Some((variable, argument)), meaning }
    }
}

const SECONDS: Kind = Kind::Integer { least: 1, most: 86_400 };

/// The keys, those of tables last.
#[rustfmt::skip]
pub(crate) static KEYS: &[Key] = &[
    key("assignments", Kind::Path, None, "What should run: a JSON file, watched for changes.")
        .or_environment("PROCURATOR_ASSIGNMENTS", "assignments"),
    key("state_dir", Kind::AbsolutePath, Some("\"/var/lib/procurator\""), "What must outlive the worker.")
        .or_environment("PROCURATOR_STATE_DIR", "state_dir"),
    key("runtime_dir", Kind::Path, Some("\"/run/procurator\""), "Where the admin socket lies.")
        .or_environment("PROCURATOR_RUNTIME_DIR", "runtime_dir"),
    key("store_roots", Kind::Paths, Some("[\"/nix/store\"]"), "Directories whose entries may be artifacts.")
        .or_environment("PROCURATOR_STORE_ROOTS", "store_roots"),
    key("log_format", Kind::Choice(&["human", "json"]), Some("\"human\""), "Form of the log on standard error.")
        .or_environment("PROCURATOR_LOG_FORMAT", "log_format"),
    key("hash_verification", Kind::Choice(&["once", "always", "never"]), Some("\"once\""),
        "When an artifact is hashed: once a path, at each start, or never."),
    key("auto_restart", Kind::Boolean, Some("true"), "Whether failed VMs are started again."),
    key("stop_timeout_seconds", SECONDS, Some("30"),
        "How long a guest may take to obey the power button before it is killed."),
    key("metrics_poll_interval_seconds", SECONDS, Some("5"), "How often counters are sampled."),
    key("removal_grace_seconds", Kind::Integer { least: 0, most: 31_536_000 }, Some("86400"),
        "How long volumes of removed VMs are kept."),
    key("vms_per_host_process", Kind::Integer { least: 0, most: 1024 }, Some("1"),
        "How many VMs share a process; 0 runs all in the worker."),
    key("spare_host_processes", Kind::Integer { least: 0, most: 16 }, Some("2"),
        "How many processes are started ahead."),
    key("jail", Kind::Choice(&["auto", "required", "off"]), Some("\"auto\""),
        "Whether processes of VMs are jailed: as far as the host goes along, wholly or no VM is started, or not."),
    key("jail_users", Kind::UserRange, Some("\"1879048192-1879113727\""),
        "The users that jailed processes get, each its own; nobody else's on this host."),
    key("seccomp", Kind::Choice(&["trap", "log", "off"]), Some("\"trap\""),
        "What becomes of system calls that the processes of VMs should not make."),
    key("max_parallel_starts", Kind::Integer { least: 1, most: 1024 }, None,
        "How many machines are started at the same time; twice the processors where it is absent."),
    key("credentials_dir", Kind::AbsolutePath, Some("\"/etc/procurator/credentials\""),
        "The directory below which files of credentials may lie."),
    key("stop_guests", Kind::Boolean, Some("false"), "Whether guests are stopped when the worker ends.")
        .or_environment("PROCURATOR_STOP_GUESTS", "stop_guests"),
    key("admin.group", Kind::Text, None, "The group, by name or number, whose members may do everything."),
    key("admin.read_group", Kind::Text, None, "The group whose members may look, by a socket of its own."),
    key("network.bridge", Kind::LinkName, Some("\"br-procurator\""), "The bridge of the VMs."),
    key("network.subnet", Kind::Subnet, Some("\"10.100.0.0/16\""), "The VMs' network."),
    key("network.ipv6_subnet", Kind::Ipv6Subnet, None, "The VMs' IPv6 network; none where it is absent."),
    key("network.reserved", Kind::AddressRanges, None,
        "Addresses that a VM has only if its description asks for them."),
    key("network.nat", Kind::Boolean, Some("true"),
        "Whether VMs reach other networks through this host's addresses."),
    key("network.vm_to_vm", Kind::Boolean, Some("true"), "Whether VMs reach each other."),
    key("network.host_services", Kind::Services, None,
        "What VMs reach of this host, beside pings and DHCP."),
    key("network.max_connections_per_vm", Kind::Integer { least: 0, most: MOST_CONNECTIONS as i64 }, None,
        "How many connections a VM may have in this host's table; 0 is any number."),
    key("network.dns", Kind::Boolean, Some("true"),
        "Whether a name server on the bridge's address answers VMs."),
    key("network.domain", Kind::Domain, Some("\"vm.internal\""), "The domain in which VMs are found by name."),
    key("network.vhost_net", Kind::Boolean, Some("false"), "Whether the host's kernel moves frames."),
    key("networks.NAME.bridge", Kind::LinkName, None, "The bridge of a further network. Required."),
    key("networks.NAME.subnet", Kind::Subnet, None, "Its addresses. Required."),
    key("networks.NAME.ipv6_subnet", Kind::Ipv6Subnet, None, "Its IPv6 network; none where it is absent."),
    key("networks.NAME.reserved", Kind::AddressRanges, None,
        "Addresses that a VM has only if its description asks for them."),
    key("networks.NAME.nat", Kind::Boolean, Some("true"),
        "Whether VMs reach other networks by it through this host's addresses."),
    key("networks.NAME.vm_to_vm", Kind::Boolean, Some("true"), "Whether its VMs reach each other by it."),
    key("networks.NAME.host_services", Kind::Services, None,
        "What its VMs reach of this host by it, beside pings and DHCP."),
    key("networks.NAME.dns", Kind::Boolean, Some("false"),
        "Whether a name server on its bridge's address answers its VMs."),
    key("networks.NAME.domain", Kind::Domain, Some("\"vm.internal\""),
        "The domain in which its VMs are found by name on it."),
    key("networks.NAME.uplink", Kind::LinkName, None,
        "The interface of this host that is a port of its bridge; none where it is absent."),
    key("networks.NAME.vlan", Kind::Integer { least: 1, most: VlanId::MAX as i64 }, None,
        "The VLAN of the uplink that is the port, by a link that the worker makes; the interface itself where it is absent."),
    key("networks.NAME.addresses", Kind::Choice(&["worker", "external"]), Some("\"worker\""),
        "Who gives its VMs their addresses: the worker, or somebody beyond its bridge."),
    key("networks.NAME.host_address", Kind::Ipv4Address, None,
        "This host's address in it; the first one where it is absent."),
    key("networks.NAME.router", Kind::Ipv4Address, None,
        "The router beyond the uplink that its VMs are told; this host where it is absent and nat is on."),
    key("fetch.caches", Kind::Caches, None, "The binary caches that store paths are fetched from, the first asked first."),
    key("fetch.trusted_keys", Kind::PublicKeys, None, "Whose signatures of store paths are believed."),
    key("fetch.parallel", Kind::Integer { least: 1, most: MOST_PARALLEL as i64 }, Some("4"),
        "How many archives are downloaded at the same time."),
    key("fetch.max_size_gib", Kind::Integer { least: 1, most: MOST_GIB as i64 }, Some("64"),
        "How much a store path and all that it needs may be, unpacked."),
    key("fetch.authorities", Kind::Path, Some("\"/etc/ssl/certs/ca-certificates.crt\""),
        "PEM file of the authorities that https caches are checked with."),
    key("fetch.unused_days", Kind::Integer { least: 0, most: MOST_DAYS as i64 }, Some("30"),
        "How many days what was fetched stays though nothing needs it; 0 keeps it until space is short."),
    key("fetch.min_free_gib", Kind::Integer { least: 0, most: MOST_GIB as i64 }, Some("0"),
        "How much is kept free of what was fetched and nothing needs, on the store's file system."),
    key("limits.memory_overcommit_ratio", Kind::Ratio, Some("1.0"),
        "How much memory VMs may be promised together, as a multiple of the host's."),
    key("limits.vcpus_per_processor", VCPUS_PER_PROCESSOR, Some("256"),
        "How many vCPUs VMs may have together for each processor of the host."),
    key("limits.cpu", Kind::Cores, None, "Processor time in cores that a VM may take; no limit where it is absent."),
    key("limits.cpu_weight", WEIGHT, None, "A VM's share of processors that more is wanted of than there is; 100 where it is absent."),
    key("limits.memory", Kind::Choice(&["off", "computed"]), Some("\"off\""),
        "How much memory a VM may take whose description does not say it: any, or what its machine needs with some room."),
    key("limits.io_weight", WEIGHT, None, "A VM's share of disks that more is wanted of than they serve; 100 where it is absent."),
    key("limits.processes", PROCESSES, None, "The most processes and threads of a VM; no limit where it is absent."),
    key("limits.descriptors", DESCRIPTORS, None, "The most open files of a VM; what the worker has where it is absent."),
    key("limits.enforcement", Kind::Choice(&["best-effort", "required"]), Some("\"best-effort\""),
        "Whether a VM runs whose limits cannot be enforced on this host: with a warning, or not."),
    key("master.address", Kind::HostAndPort, None, "The master: host and port.")
        .or_environment("PROCURATOR_MASTER", "master"),
    key("master.certificate", Kind::Path, None, "PEM file of this host's certificate, which names it."),
    key("master.key", Kind::Path, None, "PEM file of the certificate's key."),
    key("master.authorities", Kind::Path, None, "PEM file of the authorities of the master's certificate."),
    key("master.name", Kind::Text, None, "The name in the master's certificate. Default: the address's host."),
    key("master.plain_tcp", Kind::Choice(&["unencrypted-and-unauthenticated"]), None,
        "Does without certificates beyond this host."),
    key("master.worker", Kind::Text, None,
        "What this host is called where there is no certificate. Default: the host's name."),
    key("master.max_removals_per_hour", Kind::Integer { least: 0, most: u32::MAX as i64 }, Some("10"),
        "How many VMs a master may have removed, or replaced by another image, within an hour; 0 is any number."),
    key("metrics.listen", Kind::AddressAndPort, None, "Where a Prometheus is answered over TCP."),
    key("metrics.plain_tcp", Kind::Choice(&["unencrypted-and-unauthenticated"]), None,
        "Answers other hosts than this one."),
    key("web.listen", Kind::AddressAndPort, None, "Where the page is shown over TLS, to other hosts too."),
    key("web.certificate", Kind::Path, None, "PEM file of the certificate that it is shown with."),
    key("web.key", Kind::Path, None, "PEM file of the certificate's key."),
    key("web.token_file", Kind::Path, None, "The file with the token that whoever comes by that address must know."),
    key("web.read_only", Kind::Boolean, Some("false"), "Whether nothing can be changed by that address."),
];

impl Kind {
    /// What is accepted, in words.
    pub(crate) fn accepted(&self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Integer { least, most } => format!("{least} to {most}"),
            Self::Choice(choices) => {
                let quoted: Vec<String> = choices.iter().map(|choice| format!("{choice:?}")).collect();
                quoted.join(" or ")
            }
            Self::Ratio => "0.01 to 100 or \"off\"".to_owned(),
            Self::Cores => Cores::ACCEPTED.to_owned(),
            Self::AbsolutePath => "an absolute path like \"/var/lib/procurator\"".to_owned(),
            Self::Path => "a path in quotation marks".to_owned(),
            Self::Paths => "a list of paths like [\"/nix/store\"]".to_owned(),
            Self::Services => "a list of protocols with ports like [\"tcp/8080\", \"udp/53\"]".to_owned(),
            Self::AddressRanges => {
                "a list of addresses and ranges like [\"10.100.0.2-10.100.0.99\", \"10.100.255.0/24\"]"
                    .to_owned()
            }
            Self::Caches => "a list of binary caches like [\"https://cache.example\"]".to_owned(),
            Self::PublicKeys => "a list of public keys like [\"cache.example-1:<base 64>\"]".to_owned(),
            Self::UserRange => {
                "a range of users like \"1879048192-1879113727\", of 1000 to 4294967294".to_owned()
            }
            Self::Text => "text in quotation marks".to_owned(),
            Self::LinkName => {
                "the name of a network interface like \"br-procurator\", at most 15 bytes".to_owned()
            }
            Self::Domain => "a domain like \"vm.internal\"".to_owned(),
            Self::Subnet => {
                "an IPv4 network like \"10.100.0.0/16\", with a prefix length of 8 to 30".to_owned()
            }
            Self::Ipv6Subnet => {
                "an IPv6 network like \"fd12:3456:789a::/64\", with a prefix length of 64".to_owned()
            }
            Self::Ipv4Address => "an IPv4 address like \"10.101.0.1\"".to_owned(),
            Self::HostAndPort => "a host and a port like \"master.example:7443\"".to_owned(),
            Self::AddressAndPort => "an address and a port like \"127.0.0.1:9090\"".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;
    use crate::settings::File;
    use crate::settings::testing::settings;

    /// The names that the reader says it expects in place of one that it does not know.
    fn expected(text: &str) -> BTreeSet<String> {
        let error = toml::from_str::<File>(text).expect_err("nobody knows it").message().to_owned();
        let Some((_, names)) = error.split_once("expected") else { return BTreeSet::new() };
        if !error.contains("unknown field") {
            return BTreeSet::new();
        }
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// Every key that the reader takes, with its table.
    fn reader_keys() -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        for name in expected("nonsense = 1") {
            let members = expected(&format!("[{name}]\nnonsense = 1"));
            let named = expected(&format!("[{name}.a]\nnonsense = 1"));
            if !members.is_empty() {
                keys.extend(members.iter().map(|member| format!("{name}.{member}")));
            } else if !named.is_empty() {
                keys.extend(named.iter().map(|member| format!("{name}.{NAME}.{member}")));
            } else {
                keys.insert(name);
            }
        }
        keys
    }

    #[test]
    fn the_table_has_every_key_that_the_reader_takes() {
        let listed: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
        assert_eq!(listed, reader_keys());
        assert_eq!(listed.len(), KEYS.len(), "none stands there twice");
    }

    #[test]
    fn every_key_and_variable_is_documented_with_its_default() {
        let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let page = std::fs::read_to_string(page).expect("the page is there");
        for key in KEYS {
            let name = format!("`{}`", key.name);
            let row = page.lines().find(|line| line.starts_with('|') && line.contains(&name));
            let row = row.unwrap_or_else(|| panic!("{} has no row", key.name));
            if let Some(default) = key.default {
                let plain = default.trim_matches(['[', ']']).replace('"', "");
                assert!(row.contains(&format!("`{plain}`")), "{}: {plain} is not in {row}", key.name);
            }
            if let Some((variable, _)) = key.environment {
                assert!(row.contains(variable), "{}: {variable} is not in {row}", key.name);
            }
        }
    }

    #[test]
    fn the_defaults_are_those_of_a_file_that_says_nothing() {
        let fixed = KEYS.iter().filter(|key| key.named_in().is_none());
        let lines = fixed.filter_map(|key| Some((key.name, key.default?)));
        let text: String = lines.map(|(name, default)| format!("{name} = {default}\n")).collect();
        assert_eq!(settings(&text), settings(""));
    }
}
