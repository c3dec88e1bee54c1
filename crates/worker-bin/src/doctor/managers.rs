//! Programs on this host that change links and firewalls by themselves, and whether they leave the VMs' alone.

use std::collections::BTreeSet;

use super::finding::{Finding, commands};
use super::host::Host;
use crate::settings::Settings;

const MANAGER: &str = "link manager";
const FIREWALL: &str = "firewall";
/// What the TAPs of VMs are called.
const TAPS: &str = "pw-*";
/// Names of the processes, as the kernel cuts them.
const NETWORKD: &str = "systemd-network";
const NETWORK_MANAGER: &str = "NetworkManager";
const FIREWALLD: &str = "firewalld";
const NETWORKD_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/network",
    "/run/systemd/network",
    "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network",
];
const NETWORK_MANAGER_DIRECTORIES: [&str; 3] =
    ["/etc/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/usr/lib/NetworkManager/conf.d"];

/// What was seen of one network's bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    bridge: String,
    /// Those of the programs above that run.
    running: BTreeSet<String>,
    ufw_is_on: bool,
    /// systemd-networkd's first file that claims the VMs' links, if it does not leave them alone.
    networkd_claims: Option<String>,
    /// Whether NetworkManager is told to leave the bridge alone.
    network_manager_spares: bool,
    /// Whether a zone of firewalld has the bridge.
    firewalld_knows: bool,
}

/// One for each network.
pub(super) fn look(host: &Host, settings: &Settings) -> Vec<Facts> {
    settings.manager.all_networks().into_iter().map(|(_, network)| look_at(host, network.bridge)).collect()
}

fn look_at(host: &Host, bridge: String) -> Facts {
    let files = |directories: &[&str]| -> Vec<(String, String)> {
        let paths = directories.iter().flat_map(|directory| {
            host.entries(directory).into_iter().map(move |name| format!("{directory}/{name}"))
        });
        paths.filter_map(|path| Some((path.clone(), host.read(&path)?))).collect()
    };
    let ufw = host.read("/etc/ufw/ufw.conf").unwrap_or_default();
    Facts {
        running: running(host),
        ufw_is_on: ufw.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes")),
        networkd_claims: networkd_claim(files(&NETWORKD_DIRECTORIES), &bridge),
        network_manager_spares: files(&NETWORK_MANAGER_DIRECTORIES).iter().any(|(_, text)| {
            text.lines()
                .any(|line| line.trim_start().starts_with("unmanaged-devices") && line.contains(&bridge))
        }),
        firewalld_knows: files(&["/etc/firewalld/zones"])
            .iter()
            .any(|(_, text)| text.contains(&format!("name=\"{bridge}\""))),
        bridge,
    }
}

/// Which of the programs run.
fn running(host: &Host) -> BTreeSet<String> {
    let processes =
        host.entries("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let names = processes.filter_map(|process| host.read(&format!("/proc/{process}/comm")));
    names.filter(|name| [NETWORKD, NETWORK_MANAGER, FIREWALLD].contains(&name.as_str())).collect()
}

/// The file by which systemd-networkd manages the VMs' links: of several that match the first by name counts, and it may
/// say that they are not managed (systemd.network(5)).
fn networkd_claim(mut files: Vec<(String, String)>, bridge: &str) -> Option<String> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    files.retain(|(path, _)| path.ends_with(".network"));
    files.sort_by_key(|(path, _)| name(path));
    let is_claim = |text: &str| {
        let patterns = text.lines().filter_map(|line| line.trim().strip_prefix("Name="));
        patterns
            .flat_map(str::split_whitespace)
            .any(|pattern| matches(pattern, bridge) || matches(pattern, "pw-x"))
    };
    let (path, text) = files.into_iter().find(|(_, text)| is_claim(text))?;
    let is_left_alone = text.lines().any(|line| line.trim().eq_ignore_ascii_case("Unmanaged=yes"));
    (!is_left_alone).then_some(path)
}

/// Whether `name` is one that `pattern` stands for; of shell patterns only `*` at the end is looked at.
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

pub(super) fn judge(networks: &[Facts]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = networks.iter().flat_map(judge_one).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(
            MANAGER,
            "no program is known to change the VMs' links or to filter their packets",
        ));
    }
    findings
}

fn judge_one(facts: &Facts) -> Vec<Finding> {
    let runs = |name: &str| facts.running.contains(name);
    let mut findings = Vec::new();
    if let Some(file) = facts.networkd_claims.as_ref().filter(|_| runs(NETWORKD)) {
        findings.push(networkd(file, &facts.bridge));
    }
    if runs(NETWORK_MANAGER) && !facts.network_manager_spares {
        findings.push(network_manager(&facts.bridge));
    }
    if runs(FIREWALLD) && !facts.firewalld_knows {
        findings.push(firewalld(&facts.bridge));
    }
    if facts.ufw_is_on {
        findings.push(ufw(&facts.bridge));
    }
    findings
}

/// What files of other programs that speak of `bridge` are called.
fn file_of(bridge: &str) -> String {
    bridge.strip_prefix("br-").unwrap_or(bridge).to_owned()
}

fn networkd(file: &str, bridge: &str) -> Finding {
    Finding::warn(
        MANAGER,
        format!("systemd-networkd manages the VMs' links by {file}: it takes addresses from them"),
        commands([
            format!(
                "printf '[Match]\\nName={bridge} {TAPS}\\n[Link]\\nUnmanaged=yes\\n' \
                 >/etc/systemd/network/05-{}.network",
                file_of(bridge)
            ),
            "networkctl reload".to_owned(),
        ]),
    )
}

fn network_manager(bridge: &str) -> Finding {
    Finding::warn(
        MANAGER,
        format!("NetworkManager is not told to leave {bridge} alone: it may take the bridge's address"),
        commands([
            format!(
                "printf '[keyfile]\\nunmanaged-devices=interface-name:{bridge};interface-name:{TAPS}\\n' \
                 >/etc/NetworkManager/conf.d/{}.conf",
                file_of(bridge)
            ),
            "nmcli general reload".to_owned(),
        ]),
    )
}

fn firewalld(bridge: &str) -> Finding {
    Finding::warn(
        FIREWALL,
        format!(
            "firewalld has {bridge} in no zone: its default zone drops DHCP requests and forwarded packets"
        ),
        commands([
            format!("firewall-cmd --permanent --zone=trusted --add-interface={bridge}"),
            "firewall-cmd --reload".to_owned(),
        ]),
    )
}

fn ufw(bridge: &str) -> Finding {
    Finding::warn(
        FIREWALL,
        "ufw is on: unless its rules say otherwise it drops DHCP requests and forwarded packets of VMs"
            .to_owned(),
        commands([
            format!("ufw allow in on {bridge}"),
            format!("ufw route allow in on {bridge}"),
            format!("ufw route allow out on {bridge}"),
        ]),
    )
}

#[cfg(test)]
mod tests {
    use super::super::host::testing::host;
    use super::*;

    fn settings() -> Settings {
        crate::settings::testing::settings("")
    }

    #[test]
    fn who_interferes_is_seen_with_what_keeps_him_off() {
        let (_folder, host) = host(&[
            ("proc/7/comm", "NetworkManager\n"),
            ("proc/8/comm", "systemd-network\n"),
            ("proc/9/comm", "firewalld\n"),
            ("proc/self/comm", "firewalld\n"),
            ("etc/ufw/ufw.conf", "# x\nENABLED=yes\n"),
            ("etc/systemd/network/20-all.network", "[Match]\nName=e* *\n[Network]\nDHCP=yes\n"),
        ]);
        let findings = judge(&look(&host, &settings()));
        let checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
        assert_eq!(checks, [MANAGER, MANAGER, FIREWALL, FIREWALL]);
        assert!(findings[0].found.contains("/etc/systemd/network/20-all.network"), "{findings:?}");
    }

    #[test]
    fn each_network_has_a_remedy_of_its_own() {
        let (_folder, host) = host(&[("proc/9/comm", "firewalld\n")]);
        let text = "[networks.storage]\nbridge = 'br-storage'\nsubnet = '10.101.0.0/16'\n";
        let findings = judge(&look(&host, &crate::settings::testing::settings(text)));
        let found: Vec<&str> = findings.iter().map(|finding| finding.found.as_str()).collect();
        assert!(found[0].contains("br-procurator") && found[1].contains("br-storage"), "{found:?}");
    }

    #[test]
    fn who_was_told_to_leave_them_alone_is_no_trouble() {
        let (_folder, host) = host(&[
            ("proc/7/comm", "NetworkManager\n"),
            ("proc/8/comm", "systemd-network\n"),
            ("proc/9/comm", "firewalld\n"),
            (
                "etc/systemd/network/05-procurator.network",
                "[Match]\nName=br-procurator pw-*\n[Link]\nUnmanaged=yes\n",
            ),
            ("etc/systemd/network/20-all.network", "[Match]\nName=*\n"),
            ("usr/lib/systemd/network/README", "Name=*"),
            (
                "etc/NetworkManager/conf.d/a.conf",
                "[keyfile]\nunmanaged-devices=interface-name:br-procurator\n",
            ),
            ("etc/firewalld/zones/trusted.xml", "<zone><interface name=\"br-procurator\"/></zone>"),
        ]);
        let findings = judge(&look(&host, &settings()));
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].verdict, super::super::finding::Verdict::Ok);
    }
}
