//! A network whose uplink is a VLAN: what its guest sends leaves the host with the VLAN's tag, and only what has it comes in. The
//! machine beyond is the far end of a veth pair, on this host, with a link for the same VLAN.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, BOOT_DEADLINE, SHORT_DEADLINE, Worker, ping, until};
use serde_json::json;

use crate::environment;

const SETTINGS: &str = "[networks.lan]
bridge = 'br-lan'
subnet = '10.101.0.0/16'
nat = false
uplink = 'eth1'
vlan = 100
host_address = '10.101.0.7'
";
/// The machine beyond.
const BEYOND: &str = "10.101.200.9";
/// What a host with another VLAN, or none, has on the same wire.
const COUNTERS: &str = "table netdev wire {
    chain from_host {
        type filter hook ingress device \"far0\" priority 0; policy accept;
        vlan id 100 counter comment \"tagged\"
        ether type != 8021q counter comment \"untagged\"
    }
}
";

#[test]
fn a_guest_is_on_a_vlan_of_the_uplink_and_the_link_for_it_is_made_and_removed() -> Result<()> {
    let environment = environment();
    let _wire = Wire::lay()?;
    let worker = Worker::start_with(&environment, SETTINGS)?;
    let in_lan = json!([{ "id": "net0", "network": "lan" }]);
    worker
        .assign(&[Assignment::of(&environment.image("guest")?, "tagged").with_procurator("net", in_lan)])?;
    let address = until("it runs", BOOT_DEADLINE, || {
        let vm = worker.vm("tagged")?;
        ensure!(vm.phase == "running", "{}", vm.state());
        vm.address()
    })?;
    let shown = run(&["ip", "-d", "link", "show", "eth1.100"])?;
    ensure!(shown.contains("vlan protocol 802.1Q id 100") && shown.contains("master br-lan"), "{shown}");

    // To the guest by the wire, and not by the bridge.
    run(&["ip", "route", "add", &format!("{address}/32"), "dev", "far0.100", "src", BEYOND])?;
    let answers = until("it answers by the VLAN", BOOT_DEADLINE, || ping(address));
    answers.with_context(|| run(&["nft", "list", "ruleset"]).unwrap_or_default())?;
    let counters = run(&["nft", "list", "table", "netdev", "wire"])?;
    let counted =
        |what: &str| counters.lines().find(|line| line.contains(&format!("\"{what}\""))).map(str::to_owned);
    let (tagged, untagged) =
        (counted("tagged").context("no counter")?, counted("untagged").context("no counter")?);
    ensure!(!tagged.contains("packets 0 "), "nothing of it was tagged: {counters}");
    ensure!(untagged.contains("packets 0 "), "something was not: {counters}");

    run(&["ip", "link", "delete", "eth1.100"])?;
    until("the link is made again", SHORT_DEADLINE, || run(&["ip", "link", "show", "eth1.100"]))?;
    until("it answers again", SHORT_DEADLINE, || ping(address))?;

    ensure!(worker.terminate()?.status.success());
    ensure!(run(&["ip", "link", "show", "eth1.100"]).is_err(), "the link for the VLAN is left");
    ensure!(!run(&["ip", "link", "show", "eth1"])?.contains("state UP"), "the uplink was down before");
    Ok(())
}

/// The wire between the host and the machine beyond.
struct Wire;

impl Wire {
    fn lay() -> Result<Self> {
        let wire = Self;
        run(&["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "far0"])?;
        run(&["ip", "link", "add", "link", "far0", "name", "far0.100", "type", "vlan", "id", "100"])?;
        for link in ["far0", "far0.100"] {
            run(&["ip", "link", "set", link, "up"])?;
        }
        run(&["ip", "address", "add", &format!("{BEYOND}/32"), "dev", "far0.100"])?;
        // Each interface answers for its own addresses alone, as two machines do.
        std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1").context("cannot write arp_ignore")?;
        let rules = std::env::temp_dir().join("wire.nft");
        std::fs::write(&rules, COUNTERS).with_context(|| format!("cannot write {}", rules.display()))?;
        run(&["nft", "-f", &rules.to_string_lossy()])?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // What a failed test leaves is in nobody's way.
        let _ = std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "0");
        let _ = run(&["nft", "delete", "table", "netdev", "wire"]);
        let _ = run(&["ip", "link", "delete", "eth1"]);
    }
}

fn run(words: &[&str]) -> Result<String> {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.with_context(|| format!("cannot start {}", words[0]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", words.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
