//! What of a sound configuration will not work on this host as it is now, though `run` starts with it.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::path::Path;

use admin::find_worker_process;
use host_network::{Holder, find_taken_port};
use tokio::runtime::Builder;
use vm_model::{PortForward, Transport};
use worker::vms::VhostNet;

use super::assignments::{self, WorkerFacts};
use crate::doctor::addresses::{self, Complaints};
use crate::filtering::shortcoming;
use crate::settings::Settings;

/// Everything that `run` would complain of, though it is nothing of the configuration.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    let (listening, process) = (settings.listening(), find_worker_process(&settings.runtime_dir));
    warnings.extend(listening.iter().filter_map(|(key, address)| cannot_listen(key, *address, process)));
    if let Some(file) = &settings.assignments {
        let worker = WorkerFacts { manager: &settings.manager, listening: &listening, process };
        warnings.extend(
            assignments::problems(file, worker)
                .into_iter()
                .map(|fault| fault.problem)
                .map(|problem| format!("assignments = {}: {problem}", file.display())),
        );
    }
    warnings.extend(settings.manager.foresee_limits());
    warnings.extend(settings.manager.foresee_tight_limits());
    if settings.manager.vhost_net == VhostNet::WherePossible && !Path::new("/dev/vhost-net").exists() {
        warnings.push(
            "network.vhost_net = true: there is no /dev/vhost-net, so VMs' own threads move frames \
             (modprobe vhost_net)"
                .to_owned(),
        );
    }
    warnings
}

/// What keeps VMs in check and is not there by the settings, as the start warns of it.
pub(super) fn safeguards_off(settings: &Settings) -> Vec<String> {
    let mut told = settings.manager.safeguards_off();
    told.extend(shortcoming(settings.seccomp).map(str::to_owned));
    told
}

/// Why the worker could not listen on `address`, which its setting `key` says. A worker that runs as `process` may have it.
fn cannot_listen(key: &str, address: SocketAddr, process: Option<u32>) -> Option<String> {
    let problem = TcpListener::bind(address).err()?;
    let found = match problem.kind() {
        io::ErrorKind::AddrInUse => match holder_of(address) {
            Holder::Program { process: holder, .. } if Some(holder) == process => return None,
            // It cannot be seen who has it: most likely the worker.
            Holder::Unknown if process.is_some() => return None,
            holder @ (Holder::Program { .. } | Holder::ThisWorker | Holder::Unknown) => {
                format!("{holder} listens there already")
            }
        },
        io::ErrorKind::AddrNotAvailable => "this host has no such address now".to_owned(),
        _ => problem.to_string(),
    };
    Some(format!("{key} = \"{address}\": {found}; the worker starts, and listens there as soon as it can"))
}

/// Who listens on `address`, as far as that can be seen: of an IPv4 address, or of all of them.
fn holder_of(address: SocketAddr) -> Holder {
    let of_ipv4 = match address.ip() {
        IpAddr::V4(ip) => Some((!ip.is_unspecified()).then_some(ip)),
        IpAddr::V6(ip) => ip.is_unspecified().then_some(None),
    };
    let (Some(ip), Some(host_port)) = (of_ipv4, NonZeroU16::new(address.port())) else {
        return Holder::Unknown;
    };
    // A forward there would hide whoever listens.
    let forward = PortForward { address: ip, host_port, guest_port: host_port, transport: Transport::Tcp };
    find_taken_port(&[forward], &[]).map_or(Holder::Unknown, |taken| taken.holder)
}

/// What keeps the worker from having the networks as they are described. Nothing where the host cannot be looked at. Not from
/// within a runtime.
pub(super) fn network(settings: &Settings) -> Complaints {
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else {
        return Complaints::default();
    };
    let facts = runtime.block_on(addresses::look(settings));
    let mut all = Complaints::default();
    for Complaints { refusals, warnings } in facts.iter().map(addresses::complaints) {
        all.refusals.extend(refusals);
        all.warnings.extend(warnings);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_safeguard_that_is_off_is_told_by_its_key() {
        let told = |text: &str| safeguards_off(&crate::settings::testing::settings(text)).join("\n");
        assert_eq!(told("seccomp = 'trap'"), "");
        let all =
            told("jail = 'off'\nseccomp = 'log'\nhash_verification = 'never'\nvms_per_host_process = 0");
        for key in
            ["jail is \"off\"", "seccomp = \"log\"", "hash_verification is", "vms_per_host_process is 0"]
        {
            assert!(all.contains(key), "{key} is not in {all}");
        }
        assert!(told("seccomp = 'off'").contains("seccomp = \"off\""), "{}", told("seccomp = 'off'"));
    }

    #[test]
    fn an_address_that_another_program_has_is_told_and_one_of_the_running_worker_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("an address");
        let told = cannot_listen("metrics.listen", address, None).expect("it is in use");
        assert!(told.starts_with(&format!("metrics.listen = \"{address}\": this worker listens")), "{told}");
        drop(listener);
        assert_eq!(cannot_listen("metrics.listen", address, None), None);
        let none = SocketAddr::from(([192, 0, 2, 1], 9090));
        let told = cannot_listen("web.listen", none, None).expect("no host has it");
        assert!(told.contains("has no such address now"), "{told}");

        // Another process has it, as a worker would.
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("an address");
        let mut holder = std::process::Command::new("sleep")
            .arg("600")
            .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .spawn()
            .expect("started");
        let found = [None, Some(holder.id())].map(|process| cannot_listen("web.listen", address, process));
        holder.kill().expect("it is there");
        holder.wait().expect("it is ours");
        let [foreign, of_worker] = found;
        assert!(foreign.is_some_and(|told| told.contains("sleep (process ")), "it is in use");
        assert_eq!(of_worker, None);
    }
}
