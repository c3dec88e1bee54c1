//! What host processes are part of, as the service manager sees them: the worker's own unit, or a scope of their own that
//! outlives it.
//!
//! A service manager ends everything that is part of a unit when the unit stops. In a transient scope a host process is in
//! no unit of the worker's, so that a stop or restart of the worker leaves it alone, and a shutdown of the host terminates
//! it as any unit, in order. `systemd-run` becomes the program it starts, so the process stays a child of this one.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// There where systemd is the service manager (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// What all scopes are part of.
const SLICE: &str = "procurator.slice";
/// How much longer than its guests a host process may take to end before systemd kills it.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// What a host process is part of, as whoever manages services sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// The same as this process.
    #[default]
    Beside,
    /// A transient scope of its own in `procurator.slice`.
    SystemdScope(ScopeSettings),
}

/// What systemd is told of a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeSettings {
    /// How long guests may take to power off when the scope is stopped. systemd kills what is left a little later.
    pub guest_patience: Duration,
    /// This process' own service, which a shutdown of the host stops before the scopes: a worker that still ran would take
    /// the power-off of its guests for their own.
    pub service: Option<String>,
}

impl Placement {
    /// A scope where systemd manages this host and lets this process make units, which it does for root; else beside this
    /// process. Guests have `guest_patience` to power off when the host is shut down.
    pub fn observe(guest_patience: Duration) -> Self {
        if !rustix::process::geteuid().is_root() || !Path::new(SYSTEMD).exists() {
            return Self::Beside;
        }
        let service = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| service_in(&text));
        Self::SystemdScope(ScopeSettings { guest_patience, service })
    }
}

/// The service that a process is part of whose `/proc/<pid>/cgroup` is `text` (cgroups(7)).
fn service_in(text: &str) -> Option<String> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut units = paths.filter_map(|path| path.rsplit('/').find(|unit| unit.ends_with(".service")));
    units.next().map(str::to_owned)
}

/// The command line of the host process that listens at the socket `name`: its scope has the name of its socket.
pub(super) fn command_line(program: &[OsString], placement: &Placement, name: &str) -> Vec<OsString> {
    let settings = match placement {
        Placement::Beside => return program.to_vec(),
        Placement::SystemdScope(settings) => settings,
    };
    let name = name.split('.').next().unwrap_or(name);
    let timeout = settings.guest_patience.saturating_add(STOP_MARGIN).as_secs();
    let mut words = ["systemd-run", "--scope", "--quiet", "--collect"].map(str::to_owned).to_vec();
    words.extend([
        format!("--slice={SLICE}"),
        format!("--unit=procurator-vm-{name}"),
        "--description=Virtual machines of procurator-worker".to_owned(),
        format!("--property=TimeoutStopSec={timeout}"),
        // The groups in it, and what is written there, are ours: see `confinement`.
        "--property=Delegate=yes".to_owned(),
        // A shutdown stops the scope before it takes away disks and networks.
        "--property=After=local-fs.target network.target".to_owned(),
    ]);
    words.extend(settings.service.iter().map(|service| format!("--property=Before={service}")));
    words.push("--".to_owned());
    words.into_iter().map(OsString::from).chain(program.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(placement: &Placement) -> Vec<String> {
        let program = ["/bin/worker".into(), "vm-host".into()];
        let words = command_line(&program, placement, "0f3c.sock");
        words.into_iter().map(|word| word.into_string().expect("UTF-8")).collect()
    }

    #[test]
    fn a_scope_has_the_name_of_the_socket_and_is_stopped_after_the_worker() {
        let service = Some("procurator-worker.service".to_owned());
        let settings = ScopeSettings { guest_patience: Duration::from_secs(60), service };
        let words = words(&Placement::SystemdScope(settings.clone()));
        for word in [
            "--unit=procurator-vm-0f3c",
            "--slice=procurator.slice",
            "--property=TimeoutStopSec=90",
            "--property=Delegate=yes",
            "--property=Before=procurator-worker.service",
        ] {
            assert!(words.iter().any(|found| found == word), "{word}: {words:?}");
        }
        assert_eq!(words[0], "systemd-run");
        assert!(words.ends_with(&["--".into(), "/bin/worker".into(), "vm-host".into()]), "{words:?}");
        let alone = ScopeSettings { service: None, ..settings };
        let words = self::words(&Placement::SystemdScope(alone));
        assert!(!words.iter().any(|word| word.contains("Before=")), "{words:?}");
    }

    #[test]
    fn without_a_service_manager_the_program_is_started_as_it_is() {
        assert_eq!(words(&Placement::Beside), ["/bin/worker", "vm-host"]);
    }

    #[test]
    fn the_own_service_is_found_in_either_form_of_control_groups() {
        let unified = "0::/procurator.slice/procurator-worker.service\n";
        let legacy = "4:memory:/\n1:name=systemd:/system.slice/procurator-worker.service/payload\n0::/\n";
        for text in [unified, legacy] {
            assert_eq!(service_in(text).as_deref(), Some("procurator-worker.service"), "{text}");
        }
        assert_eq!(service_in("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(service_in(""), None);
    }
}
