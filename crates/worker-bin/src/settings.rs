//! What the worker runs with: command line over configuration file over defaults.
//!
//! `docs/configuration.md` describes every key.

mod changes;
mod fetch;
pub(crate) mod keys;
mod limits;
mod master;
mod metrics;
mod network;
mod networks;
mod placing;
mod refusals;
mod web;

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use admin::{SocketGroup, SocketSettings, WebSettings};
use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use syscall_filter::Mode;
use vm_model::with_ranges;
use worker::vms::{HashVerification, VmManagerConfig};

pub(crate) use self::changes::needing_restart;
use self::fetch::Fetch;
pub(crate) use self::fetch::{FetchOverrides, fetch_settings};
use self::limits::Limits;
use self::master::Master;
pub(crate) use self::master::MasterPlace;
use self::metrics::Metrics;
use self::network::Network;
use self::networks::Networks;
pub(crate) use self::placing::host_processes_in;
use self::placing::{Jail, Seccomp, jail, parallel_starts, placement};
pub(crate) use self::refusals::by_key;
use self::web::Web;
use crate::cli::{LogFormat, RunFlags};

/// Where the configuration file is that nobody named.
pub(crate) const DEFAULT_FILE: &str = "/etc/procurator/worker.toml";
const DEFAULT_STATE_DIR: &str = "/var/lib/procurator";
const DEFAULT_RUNTIME_DIR: &str = "/run/procurator";

/// Everything that `run` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) assignments: Option<PathBuf>,
    pub(crate) runtime_dir: PathBuf,
    pub(crate) log_format: LogFormat,
    /// Whose members may use the admin socket.
    pub(crate) admin: AdminGroups,
    /// Where a Prometheus is answered over TCP.
    pub(crate) metrics: Option<SocketAddr>,
    /// Where the page is shown to other hosts.
    pub(crate) web: Option<WebSettings>,
    /// The master, where there is one.
    pub(crate) master: Option<MasterPlace>,
    /// Whether guests are stopped when the worker ends.
    pub(crate) stop_guests: bool,
    /// What becomes of system calls that host processes should not make.
    pub(crate) seccomp: Mode,
    pub(crate) manager: VmManagerConfig,
}

/// The configuration file. Unknown keys are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    assignments: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    store_roots: Option<Vec<PathBuf>>,
    log_format: Option<LogFormat>,
    hash_verification: Option<Verification>,
    auto_restart: Option<bool>,
    stop_timeout_seconds: Option<u64>,
    metrics_poll_interval_seconds: Option<u64>,
    removal_grace_seconds: Option<u64>,
    vms_per_host_process: Option<usize>,
    spare_host_processes: Option<usize>,
    jail: Option<Jail>,
    jail_users: Option<String>,
    seccomp: Option<Seccomp>,
    max_parallel_starts: Option<usize>,
    credentials_dir: Option<PathBuf>,
    stop_guests: Option<bool>,
    admin: AdminGroups,
    network: Network,
    networks: Networks,
    fetch: Fetch,
    limits: Limits,
    master: Master,
    metrics: Metrics,
    web: Web,
}

/// Who may use the admin sockets, besides the worker's own user: groups by name or number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AdminGroups {
    /// May do everything; the worker's own group where it is absent.
    group: Option<String>,
    /// May look, by a socket of its own; there is none where it is absent.
    read_group: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verification {
    Once,
    Always,
    Never,
}

/// The runtime directory of a client or a worker that was told none.
pub(crate) fn runtime_dir(flag: Option<PathBuf>) -> PathBuf {
    flag.unwrap_or_else(|| PathBuf::from(DEFAULT_RUNTIME_DIR))
}

/// The configuration file's name for a setting of the library.
fn key(setting: &str) -> &str {
    match setting {
        "vm_artifacts_dir" => "state_dir",
        "network_bridge" => "network.bridge",
        "vm_subnet_base" => "network.subnet",
        "ipv6_subnet" => "network.ipv6_subnet",
        "reserved_addresses" => "network.reserved",
        "metrics_poll_interval" => "metrics_poll_interval_seconds",
        "removal_grace" => "removal_grace_seconds",
        "memory_overcommit" => "limits.memory_overcommit_ratio",
        "vcpus_per_processor" => "limits.vcpus_per_processor",
        same => same,
    }
}

impl Settings {
    /// Reads the configuration file and puts the flags over it.
    pub(crate) fn load(flags: RunFlags, runtime_dir: Option<PathBuf>) -> Result<Self> {
        let file = match &flags.config {
            Some(path) => {
                read(path)?.with_context(|| format!("there is no configuration file {}", path.display()))?
            }
            None => read(Path::new(DEFAULT_FILE))?.unwrap_or_default(),
        };
        Self::merge(flags, runtime_dir, file)
    }

    fn merge(flags: RunFlags, runtime_dir: Option<PathBuf>, file: File) -> Result<Self> {
        let defaults = file.network.over(VmManagerConfig::default());
        let state_dir = flags.state_dir.or(file.state_dir).unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        if !state_dir.is_absolute() {
            bail!("invalid state directory {}: an absolute path is accepted", state_dir.display());
        }
        let store_roots =
            if flags.store_roots.is_empty() { file.store_roots } else { Some(flags.store_roots) };
        let collection = file.fetch.collection()?;
        let fetch = file.fetch.settings(FetchOverrides::default())?;
        let store_roots =
            store_roots.unwrap_or_else(|| default_store_roots(defaults.store_roots.clone(), fetch.is_some()));
        let runtime_dir = self::runtime_dir(runtime_dir.or(file.runtime_dir));
        let log_format = flags.log_format.or(file.log_format).unwrap_or_default();
        let stop_timeout = seconds("stop_timeout_seconds", file.stop_timeout_seconds, defaults.stop_timeout)?;
        let vms_dir = state_dir.join("vms");
        let seccomp = file.seccomp.map_or_else(Mode::default, Into::into);
        let manager = VmManagerConfig {
            placement: placement(
                (&runtime_dir, &vms_dir),
                log_format,
                stop_timeout,
                (file.vms_per_host_process, file.spare_host_processes),
                (jail(file.jail, file.jail_users.as_deref())?, seccomp),
            )?,
            metrics_poll_interval: seconds(
                "metrics_poll_interval_seconds",
                file.metrics_poll_interval_seconds,
                defaults.metrics_poll_interval,
            )?,
            auto_restart: file.auto_restart.unwrap_or(defaults.auto_restart),
            vm_artifacts_dir: vms_dir,
            networks: networks::settings(file.networks)?,
            store_roots,
            fetch,
            collection,
            hash_verification: file.hash_verification.map_or(defaults.hash_verification, Into::into),
            stop_timeout,
            removal_grace: removal_grace(file.removal_grace_seconds, defaults.removal_grace)?,
            removal_limit: file.master.removal_limit(defaults.removal_limit),
            max_parallel_starts: parallel_starts(file.max_parallel_starts, defaults.max_parallel_starts)?,
            credentials_dir: credentials_dir(file.credentials_dir, defaults.credentials_dir)?,
            memory_overcommit: file.limits.memory_overcommit(defaults.memory_overcommit)?,
            vcpus_per_processor: file.limits.vcpus_per_processor(defaults.vcpus_per_processor)?,
            limits: file.limits.settings()?,
            ..defaults
        };
        Ok(Self {
            master: file.master.place(flags.master)?,
            assignments: flags.assignments.or(file.assignments),
            runtime_dir,
            stop_guests: flags.stop_guests || file.stop_guests.unwrap_or(false),
            log_format,
            seccomp,
            admin: file.admin,
            metrics: file.metrics.address()?,
            web: file.web.settings()?,
            manager,
        })
    }
}

impl Settings {
    /// Where the admin sockets are, and whose.
    pub(crate) fn sockets(&self) -> SocketSettings {
        let AdminGroups { group, read_group } = self.admin.clone();
        SocketSettings {
            directory: self.runtime_dir.clone(),
            group: group.map(SocketGroup::new),
            read_group: read_group.map(SocketGroup::new),
            metrics: self.metrics,
            web: self.web.clone(),
        }
    }

    /// The addresses at which a worker with these settings listens to other machines, each with its key.
    pub(crate) fn listening(&self) -> Vec<(&'static str, SocketAddr)> {
        let web = self.web.as_ref().map(|web| ("web.listen", web.listen));
        self.metrics.map(|address| ("metrics.listen", address)).into_iter().chain(web).collect()
    }
}

/// The file's content; `None` where there is none.
fn read(path: &Path) -> Result<Option<File>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot read the configuration file {}", path.display()));
        }
    };
    let file = toml::from_str(&text).map_err(|problem| {
        // Held against the table of keys, every fault has its line, its key and what is accepted.
        let faults = crate::check_config::faults_of(&text);
        anyhow!("{}", faults.unwrap_or_else(|| with_ranges(&problem.to_string()).into_owned()))
    });
    file.map(Some).with_context(|| format!("invalid configuration file {}", path.display()))
}

impl From<Verification> for HashVerification {
    fn from(verification: Verification) -> Self {
        match verification {
            Verification::Once => Self::Once,
            Verification::Always => Self::Always,
            Verification::Never => Self::Never,
        }
    }
}

/// A duration of at least one second and at most a day.
fn seconds(key: &str, value: Option<u64>, default: Duration) -> Result<Duration> {
    match value {
        None => Ok(default),
        Some(value @ 1..=86_400) => Ok(Duration::from_secs(value)),
        Some(value) => bail!("invalid {key} = {value}: 1 to 86400 is accepted"),
    }
}

/// How long what is removed is kept: nothing, to a year.
fn removal_grace(value: Option<u64>, default: Duration) -> Result<Duration> {
    match value {
        None => Ok(default),
        Some(value @ 0..=31_536_000) => Ok(Duration::from_secs(value)),
        Some(value) => bail!("invalid removal_grace_seconds = {value}: 0 to 31536000 is accepted"),
    }
}

/// The directory of credentials, which does not move with the directory that the worker was started in.
fn credentials_dir(set: Option<PathBuf>, default: PathBuf) -> Result<PathBuf> {
    match set {
        Some(path) if !path.is_absolute() => {
            bail!("invalid credentials_dir = {:?}: an absolute path is accepted", path.display().to_string())
        }
        Some(path) => Ok(path),
        None => Ok(default),
    }
}

/// What other tests need of settings.
/// Those of `roots` that are there: a host without Nix has none until somebody names one. Where images are fetched, the store is
/// made.
fn default_store_roots(roots: Vec<PathBuf>, is_fetched_into: bool) -> Vec<PathBuf> {
    roots.into_iter().filter(|root| is_fetched_into || root.is_dir()).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use clap::Parser;

    use super::Settings;
    use crate::cli::{Cli, Verb};

    /// What `run` without flags makes of a configuration file with this `text`.
    pub(crate) fn settings(text: &str) -> Settings {
        let cli = Cli::try_parse_from(["procurator-worker", "run"]).expect("valid");
        let Verb::Run(flags) = cli.verb else { panic!("it says run") };
        Settings::merge(flags, None, toml::from_str(text).expect("TOML")).expect("valid")
    }
}

#[cfg(test)]
mod tests {
    use worker::vms::{JailDemand, JailSettings, MemoryOvercommit, Placement, UserRange, VhostNet};

    use super::*;

    fn flags() -> RunFlags {
        RunFlags {
            config: None,
            assignments: None,
            master: None,
            state_dir: None,
            store_roots: Vec::new(),
            stop_guests: false,
            log_format: None,
        }
    }

    fn merged(flags: RunFlags, text: &str) -> Result<Settings> {
        Settings::merge(flags, None, toml::from_str(text)?)
    }

    #[test]
    fn vms_are_placed_as_told() {
        let placement = |text: &str| merged(flags(), text).map(|settings| settings.manager.placement);
        let Placement::StrictApart(hosts) = placement("vms_per_host_process = 0").expect("accepted") else {
            panic!("in the worker");
        };
        assert_eq!((hosts.vms_per_process.get(), hosts.spare), (1, 0));
        let Placement::HostProcesses(hosts) =
            placement("vms_per_host_process = 16\nspare_host_processes = 0").expect("accepted")
        else {
            panic!("in processes of their own");
        };
        assert_eq!((hosts.vms_per_process.get(), hosts.spare), (16, 0));
        for text in ["vms_per_host_process = 1025", "spare_host_processes = 17", "vms_per_host_process = -1"]
        {
            placement(text).expect_err(text);
        }
    }

    #[test]
    fn processes_are_jailed_as_told() {
        let jail = |text: &str| match merged(flags(), text).map(|settings| settings.manager.placement) {
            Ok(Placement::HostProcesses(hosts)) => Ok(hosts.jail),
            Ok(other) => panic!("{other:?}"),
            Err(problem) => Err(format!("{problem:#}")),
        };
        let users = UserRange::default();
        assert_eq!(jail(""), Ok(Some(JailSettings { users, demand: JailDemand::WhatTheHostHas })));
        assert_eq!(jail("jail = 'required'"), Ok(Some(JailSettings { users, demand: JailDemand::Whole })));
        assert_eq!(jail("jail = 'off'"), Ok(None));
        let own = jail("jail_users = '5000-5999'").expect("accepted").expect("jailed");
        assert_eq!(own.users.bounds(), (5000, 5999));
        let refused = jail("jail_users = '0-9'").expect_err("root is among them");
        assert!(refused.contains("jail_users = \"0-9\"") && refused.contains("FIRST-LAST"), "{refused}");
    }

    #[test]
    fn nothing_given_is_the_documented_default() {
        let settings = merged(flags(), "").expect("defaults are valid");
        let directories = (Path::new("/run/procurator"), Path::new("/var/lib/procurator/vms"));
        let jailed = jail(None, None).expect("valid");
        let placement = placement(
            directories,
            LogFormat::Human,
            Duration::from_secs(30),
            (None, None),
            (jailed, Mode::Trap),
        )
        .expect("valid");
        assert!(matches!(&placement, Placement::HostProcesses(hosts) if hosts.vms_per_process.get() == 1));
        // Beside that, a program that is left alone deletes what it fetched and nothing needs.
        let collection = Fetch::default().collection().expect("valid");
        let documented = VmManagerConfig { placement, collection, ..VmManagerConfig::default() };
        assert_eq!(settings.manager, documented);
        assert!(!settings.stop_guests);
        assert_eq!(settings.runtime_dir, Path::new("/run/procurator"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = RunFlags { state_dir: Some("/a".into()), store_roots: vec!["/s".into()], ..flags() };
        let text = "state_dir = '/b'\nstore_roots = ['/t']\nauto_restart = false\n[network]\nbridge = 'br0'\nvhost_net = true";
        let settings = merged(flags, text).expect("valid");
        assert_eq!(settings.manager.vm_artifacts_dir, Path::new("/a/vms"));
        assert_eq!(settings.manager.store_roots, [PathBuf::from("/s")]);
        assert_eq!(settings.manager.network_bridge, "br0");
        assert!(!settings.manager.auto_restart);
        assert_eq!(settings.manager.vhost_net, VhostNet::WherePossible);
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        let refused = |text: &str| format!("{:#}", merged(flags(), text).expect_err("refused"));
        assert!(refused("brigde = 'x'").contains("brigde"));
        assert!(refused("stop_timeout_seconds = 0").contains("stop_timeout_seconds = 0: 1 to 86400"));
        assert!(refused("removal_grace_seconds = 31536001").contains("0 to 31536000"));
        assert!(refused("max_parallel_starts = 0").contains("max_parallel_starts = 0: 1 to 1024"));
        assert!(refused("max_parallel_starts = 1025").contains("1 to 1024"));
        assert!(refused("state_dir = 'here'").contains("absolute"));
        assert!(refused("credentials_dir = 'here'").contains("absolute"));
    }

    #[test]
    fn what_needs_a_restart_is_named_by_its_key() {
        let settings = |text: &str| merged(flags(), text).expect("valid");
        let before = settings("assignments = '/a'");
        let after = settings("assignments = '/b'\nauto_restart = false\n[network]\nsubnet = '10.9.0.0/16'");
        assert_eq!(needing_restart(&before, &after), ["auto_restart", "network.subnet"]);
        assert!(needing_restart(&before, &settings("assignments = '/b'")).is_empty());
        for (text, key) in [
            ("stop_timeout_seconds = 5", "stop_timeout_seconds"),
            ("spare_host_processes = 0", "spare_host_processes"),
            ("vms_per_host_process = 0", "vms_per_host_process"),
            ("log_format = 'json'", "log_format"),
        ] {
            assert_eq!(needing_restart(&before, &settings(text)), [key]);
        }
    }

    #[test]
    fn ratios_are_read_in_hundredths() {
        let limit = |value: &str| {
            let text = format!("[limits]\nmemory_overcommit_ratio = {value}");
            merged(flags(), &text).map(|settings| settings.manager.memory_overcommit)
        };
        for (value, percent) in
            [("1.0", 100), ("1", 100), ("1.5", 150), ("0.29", 29), ("100", 10_000), ("0.01", 1)]
        {
            assert_eq!(limit(value).expect(value), MemoryOvercommit::Percent(percent));
        }
        assert_eq!(limit("'off'").expect("off"), MemoryOvercommit::Unlimited);
        for value in ["0", "0.0", "-1", "100.1", "101", "nan", "inf", "9223372036854775807", "'on'"] {
            let error = format!("{:#}", limit(value).expect_err(value));
            assert!(error.contains("limits.memory_overcommit_ratio = "), "{error}");
            assert!(error.contains("0.01 to 100 or \"off\""), "{error}");
        }
        assert!(limit("true").is_err());
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let flags = RunFlags { config: Some("/nonexistent/worker.toml".into()), ..flags() };
        let error = Settings::load(flags, None).expect_err("missing");
        assert_eq!(error.to_string(), "there is no configuration file /nonexistent/worker.toml");
    }
}
