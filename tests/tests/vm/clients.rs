//! What the clients that guests have make of what the host tells them: a Debian guest is set up by its cloud-init from the
//! disk that it is given, and then has each client of DHCP set up each of two interfaces. One of them has a mask that leaves
//! the host out, which takes classless static routes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, Never, Worker, until};
use serde_json::json;

use crate::environment;

/// The VM; its guest was built with another name.
const ID: &str = "clients";
/// For a boot with all of cloud-init, and ten times a client, on an emulated processor.
const DEADLINE: Duration = Duration::from_secs(25 * 60);
const CLIENTS: [&str; 6] = ["cloud-init", "udhcpc", "dhclient", "dhcpcd", "networkd", "NetworkManager"];
const DOMAIN: &str = "vm.internal";

/// One interface, as the host means it to be.
struct Interface {
    name: &'static str,
    prefix: u8,
    /// Where it is told one.
    mtu: Option<u32>,
}

const INTERFACES: [Interface; 2] = [
    Interface { name: "eth0", prefix: 16, mtu: Some(1400) },
    Interface { name: "eth1", prefix: 32, mtu: None },
];

#[test]
#[ignore = "full: a Debian boots and asks ten times"]
fn every_client_makes_the_same_of_what_the_host_tells() -> Result<()> {
    let environment = environment();
    let worker = Worker::start_with(&environment, "hash_verification = 'never'\nstop_timeout_seconds = 2")?;
    let user_data = "#cloud-config\n\
                     write_files: [{ path: /run/told, content: 'told by the disk' }]\n\
                     runcmd:\n\
                     - sh -c 'echo cloud-init was $(cat /run/told) as $(hostname) >/dev/console'\n\
                     - systemctl start --no-block try-clients.service\n";
    let image = environment.image(ID)?;
    let told = json!({ "user_data": user_data, "meta_data": { "region": "lab" } });
    worker.assign(&[Assignment::of(&image, ID).with_procurator("cloud_init", told)])?;
    let console = until("all clients have had their turn", DEADLINE, || {
        let vm = worker.vm(ID)?;
        ensure!(vm.phase != "failed", Never(vm.state()));
        let console = worker.console_of(ID)?;
        ensure!(console.contains("clients are done"), "they have not");
        Ok(console)
    })
    .with_context(|| worker.console_of(ID).unwrap_or_default())?;
    let said: Vec<&str> = console.lines().filter(|line| line.starts_with("client ")).collect();
    println!("{}", said.join("\n"));

    ensure!(console.contains(&format!("cloud-init was told by the disk as {ID}")), "{console}");
    for Interface { name, prefix, mtu } in &INTERFACES {
        for client in CLIENTS {
            let line = line_of(&said, client, name)?;
            let is_first = *name == INTERFACES[0].name;
            // The disk gives the default route to the first interface.
            let has_route = client != "cloud-init" || is_first;
            let mut expected = vec![format!("/{prefix} router=")];
            expected.extend(mtu.map(|mtu| format!("mtu={mtu} ")));
            if has_route {
                expected
                    .extend(["router=10.100.0.1 dns=10.100.0.1".to_owned(), "ping=yes name=yes".to_owned()]);
            }
            expected.extend([format!("search={DOMAIN} "), format!("hostname={ID}")]);
            for part in expected {
                ensure!(line.contains(&part), "{part:?} is not in {line:?}; all: {said:#?}");
            }
        }
        let addresses = CLIENTS.map(|client| line_of(&said, client, name).map(address).ok());
        ensure!(addresses.iter().all(|address| *address == addresses[0]), "{addresses:?}");
    }
    Ok(())
}

fn line_of<'a>(said: &[&'a str], client: &str, interface: &str) -> Result<&'a str> {
    let start = format!("client {client} on {interface}: ");
    let line = said.iter().find(|line| line.starts_with(&start));
    line.copied().with_context(|| format!("{client} says nothing of {interface}: {said:#?}"))
}

fn address(line: &str) -> &str {
    line.split_whitespace().find_map(|word| word.strip_prefix("address=")).unwrap_or_default()
}
