//! Names of TAPs against the software that looks for links by name: systemd's own files, and a running
//! systemd-networkd.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use host_network::{HostNetwork, Teardown};
use rustix::thread::UnshareFlags;

use crate::namespaces::{
    BRIDGE, addresses, config, enter_new_namespace, eventually, in_namespace, link, nic, run,
};

/// Where a distribution installs the files that systemd ships.
const SHIPPED: [&str; 2] = ["/usr/lib/systemd/network", "/lib/systemd/network"];
/// The `[Match] Name=` globs of those files up to version 258, and names that other programs look for. Kept here too
/// because this machine may have an old systemd or none.
const KNOWN: [&str; 23] = [
    "vt-*", "ve-*", "vb-*", "vz-*", "host0", "6rd-*", "ns-*", "mv-*", "iv-*", "ipvlan*", "en*", "eth*",
    "wl*", "ww*", "sl*", "ib*", "veth*", "docker*", "virbr*", "vnet*", "lxc*", "lxd*", "cni*",
];
const NETWORKD: &str = "/lib/systemd/systemd-networkd";

/// The globs by which the network files in `directory` choose links, without negated ones.
fn shipped_globs(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut globs = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // A `.link` file of systemd's names hardware by other keys than `Name=`.
        if !name.ends_with(".network") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let words =
            text.lines().filter_map(|line| line.strip_prefix("Name=")).flat_map(str::split_whitespace);
        globs.extend(words.filter(|word| !word.starts_with('!')).map(str::to_owned));
    }
    globs
}

/// Whether the shell pattern `glob` matches: only those with a `*` at the end and none are read.
fn matches(glob: &str, name: &str) -> bool {
    let beginning = glob.trim_end_matches('*');
    assert!(!beginning.contains(['*', '?', '[']), "the glob {glob} is of a kind that this test cannot read");
    if beginning == glob { name == glob } else { name.starts_with(beginning) }
}

#[test]
fn no_name_of_ours_matches_what_systemd_or_another_program_looks_for() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        let mut globs: Vec<String> = KNOWN.map(str::to_owned).to_vec();
        for directory in SHIPPED {
            globs.extend(shipped_globs(Path::new(directory)));
        }
        for number in 2..=5 {
            // Each glob is also wished for, as an image may do.
            for glob in &globs {
                let hint = glob.replace('*', "1");
                let wished = host_network::NicAttachment { tap_hint: Some(hint.clone()), ..nic(number) };
                let tap = network.attach(wished).await.unwrap();
                let name = tap.name.as_str();
                let claims: Vec<_> = globs.iter().filter(|glob| matches(glob, name)).collect();
                assert!(claims.is_empty(), "the TAP {name}, wished to be {hint}, matches {claims:?}");
                assert!(!tap.warnings.is_empty(), "the wish for {hint} is refused");
                network.detach(&nic(number).vm, "net0").await.unwrap();
            }
        }
        network.shutdown(Teardown::Remove).await.unwrap();
    });
}

/// systemd-networkd in this thread's namespaces, until dropped.
struct Networkd(Child);

impl Networkd {
    fn start() -> Self {
        enter_new_namespace(UnshareFlags::NEWNS);
        run("mount --make-rprivate /");
        run("mount -t tmpfs none /run");
        fs::create_dir_all("/run/systemd/netif/links").unwrap();
        fs::create_dir_all("/run/systemd/netif/leases").unwrap();
        run("chown -R systemd-network /run/systemd/netif");
        // Without udev to wait for, which a read-only /sys says, it takes each link as it is.
        run("mount -t sysfs -o ro none /sys");
        let daemon = Command::new(NETWORKD).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self(daemon)
    }
}

impl Drop for Networkd {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has seen.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_networkd_leaves_our_taps_alone() {
    in_namespace(async || {
        if !Path::new(NETWORKD).exists() {
            println!("SKIPPED: no {NETWORKD} on this machine");
            return;
        }
        let network = HostNetwork::start(config()).await.unwrap();
        let tap = network.attach(nic(2)).await.unwrap();
        run("ip tuntap add vt-bait mode tap");
        run(&format!("ip link set vt-bait master {BRIDGE} up"));
        let _daemon = Networkd::start();
        // It has come by: this one it takes.
        eventually("networkd takes vt-bait out of the bridge", async || {
            link("vt-bait")?.get("master").is_none().then_some(())
        })
        .await;
        let seen = link(tap.name.as_str()).unwrap();
        assert_eq!(seen["master"], BRIDGE);
        assert!(addresses(tap.name.as_str()).is_empty());
        assert_eq!(addresses(BRIDGE), ["10.100.0.1/16"]);
    });
}
