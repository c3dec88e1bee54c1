//! A Linux guest in a network whose bridge has a VLAN of an interface of the host as its port. The machine beyond is a network
//! namespace with the other end of that interface: what it sends and hears as VLAN 100 has that tag on the wire.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, SHORT_DEADLINE, Worker, until};
use serde_json::json;

use crate::environment;

/// The host's interface, which is down, and what is made of it.
const UPLINK: &str = "eth1";
const VLAN: &str = "eth1.100";
/// The machine beyond, its interface, and its address.
const BEYOND: &str = "beyond";
const FAR: &str = "far0";
const FAR_ADDRESS: &str = "10.101.9.9";
const SETTINGS: &str = "stop_timeout_seconds = 2\n\
     [networks.lan]\n\
     bridge = 'br-lan'\n\
     subnet = '10.101.0.0/16'\n\
     nat = false\n\
     uplink = 'eth1'\n\
     vlan = 100\n\
     host_address = '10.101.0.7'\n";

#[test]
fn a_guest_on_a_vlan_is_reached_by_its_tag_alone_and_the_host_gets_its_interface_back() -> Result<()> {
    let environment = environment();
    let _wire = Wire::new()?;
    let worker = Worker::start_with(&environment, SETTINGS)?;
    let in_lan = json!([{ "id": "net0", "network": "lan" }]);
    let web = Assignment::of(&environment.image("guest")?, "web").with_procurator("net", in_lan);
    worker.assign(std::slice::from_ref(&web))?;
    let address = worker.wait_until_answering("web")?.address()?;
    ensure!(address.octets()[..2] == [10, 101], "{address}");

    until("the guest answers by VLAN 100", SHORT_DEADLINE, || ping(address))?;
    for other in [FAR.to_owned(), far(200)] {
        ensure!(asks(&other, address).is_err(), "it answers by {other} too");
    }
    asks(&far(100), address)
        .context("it does not answer this question at all, so that silence says nothing")?;

    // Who deletes the VLAN's link gets another one.
    ip(&format!("link delete {VLAN}"))?;
    until("the guest answers again", SHORT_DEADLINE, || ping(address))?;
    assert!(worker.terminate()?.status.success());
    ensure!(!link_is_there(VLAN), "the link of the VLAN is left");
    let flags = std::fs::read_to_string("/sys/class/net/eth1/flags").context("the uplink is gone")?;
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).context("no flags")?;
    ensure!(flags & 1 == 0, "the uplink was down before, its flags are {flags:#x}");
    Ok(())
}

/// The machine beyond and the wire to it, as long as this value is there.
struct Wire;

impl Wire {
    fn new() -> Result<Self> {
        ip(&format!("netns add {BEYOND}"))?;
        let wire = Self;
        ip(&format!("link add {UPLINK} type veth peer name {FAR} netns {BEYOND}"))?;
        ip(&format!("-n {BEYOND} link set {FAR} up"))?;
        for vlan in [100, 200] {
            let link = far(vlan);
            ip(&format!("-n {BEYOND} link add link {FAR} name {link} type vlan id {vlan}"))?;
            ip(&format!("-n {BEYOND} link set {link} up"))?;
        }
        ip(&format!("-n {BEYOND} address add {FAR_ADDRESS}/16 dev {}", far(100)))?;
        Ok(wire)
    }
}

impl Drop for Wire {
    #[expect(clippy::print_stdout, reason = "what is left stands in the way of other tests")]
    fn drop(&mut self) {
        // The interface has its other end there, and goes with it.
        if let Err(error) = ip(&format!("netns delete {BEYOND}")) {
            println!("the namespace {BEYOND} is still there: {error:#}");
        }
    }
}

/// The far end's link for a VLAN.
fn far(vlan: u8) -> String {
    format!("{FAR}.{vlan}")
}

/// Whether the guest answers a ping of the machine beyond.
fn ping(address: Ipv4Addr) -> Result<String> {
    ip(&format!("netns exec {BEYOND} busybox ping -c 1 -W 5 {address}"))
}

/// What `arping` prints where somebody answers to `address` by a link of the machine beyond.
fn asks(link: &str, address: Ipv4Addr) -> Result<String> {
    let question = format!("busybox arping -f -c 3 -w 5 -I {link} -s {FAR_ADDRESS} {address}");
    ip(&format!("netns exec {BEYOND} {question}"))
}

/// What `ip` prints for these words.
fn ip(words: &str) -> Result<String> {
    let output = Command::new("ip").args(words.split_whitespace()).output().context("cannot start ip")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "`ip {words}` failed: {}", said.trim());
    Ok(said)
}

fn link_is_there(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}
