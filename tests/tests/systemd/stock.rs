//! A distribution's own system as the guest: its systemd says over the machine's sockets that it is ready, has the
//! credentials that it was given, and lets in whom they name.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, BOOT_DEADLINE, Image, Never, SHORT_DEADLINE, STOCK_BOOT_DEADLINE, Service, connect_to_guest,
    greeting_of, ping, until,
};
use serde_json::json;

use crate::service::forget;
use crate::visitor::Visitor;
use crate::{environment, journal};

/// Where the worker's settings let credentials lie, if they say nothing of it.
const CREDENTIALS: &str = "/etc/procurator/credentials";
const STOCK: &str = "stock";
/// The settings: its disk is large, and other tests are about hashes; on an emulated processor it takes long to shut down.
const SETTINGS: &str =
    "hash_verification = 'never'\nstop_timeout_seconds = 300\n[network]\nipv6_subnet = 'fd12:3456:789a::/64'";
/// Where a guest's ssh server listens on the machine's sockets, as on its network.
const SSH: u32 = 22;

#[test]
fn a_stock_guest_reports_that_it_is_ready_has_its_credentials_and_lets_in_its_visitor() -> Result<()> {
    let environment = environment();
    let image = environment.image(STOCK)?;
    let secret = keep_secret("kept in a file")?;
    let visitor = Visitor::new(&environment)?;
    let service = Service::start(&environment, SETTINGS)?;
    let stock = assignment(&image, &secret, visitor.public_key());
    service.assign(std::slice::from_ref(&stock))?;

    let vm = until("its systemd says that it is ready", STOCK_BOOT_DEADLINE, || {
        let vm = service.vm(STOCK)?;
        ensure!(vm.phase != "failed", Never(vm.state()));
        vm.ready()?;
        Ok(vm)
    })
    .with_context(|| service.console_of(STOCK).unwrap_or_default())?;
    let report = vm.ready()?.context("it does not say what systemd has reported")?;
    println!("{report}");
    assert_eq!((&report["ready"], &report["hostname"]), (&true.into(), &STOCK.into()), "{report}");
    let units = report["active_units"].as_array().context("it names no units")?;
    assert!(units.iter().any(|unit| unit == "multi-user.target"), "{report}");
    assert!(vm.warnings.is_empty(), "{:?}", vm.warnings);

    // Of the value, of the file, and what the system itself was given.
    let console = service.console_of(STOCK)?;
    for line in [
        "credential lab.greeting says hello from the host",
        "credential lab.secret says kept in a file",
        &format!("root lets in {}", visitor.public_key()),
        "vmm.notify_socket",
    ] {
        assert!(console.contains(line), "{line:?} is not in: {console}");
    }
    // Its systemd has its ssh server listen on the machine's sockets, too.
    let mut ssh = connect_to_guest(&Service::vm_directory(STOCK), SSH)?;
    let greeting = greeting_of(&mut ssh)?;
    assert!(greeting.starts_with("SSH-2.0-"), "port {SSH} greets with {greeting:?}");
    drop(ssh);
    visitor.is_let_in(STOCK, &service.uuid_of(STOCK)?)?;
    // Its own DHCP client takes the addresses that are its own, for which nothing in the guest waits.
    let address = vm.address()?;
    until("it answers at its address", BOOT_DEADLINE, || ping(address))?;
    let ipv6 = vm.ipv6.context("it has no IPv6 address")?;
    until("it answers at its IPv6 address", BOOT_DEADLINE, || ping(ipv6))?;

    service.ask(&["pause", STOCK])?;
    service.ask(&["resume", STOCK])?;
    journal::has_lines_about(STOCK)?;

    // What it has reported outlives the worker that heard it.
    let before = service.pid()?;
    Service::UNIT.systemctl("restart")?;
    service.wait_until_restarted(before)?;
    let again = service.vm(STOCK)?;
    assert!(
        again.ready().is_ok() && again.started_at == vm.started_at,
        "{}: {:?}",
        again.state(),
        again.health
    );

    stops_in_order(&service, stock)?;
    forget(&service, STOCK)
}

/// The guest with a probe for what its systemd reports, and with credentials of each kind.
fn assignment(image: &Image, secret: &str, key: &str) -> Assignment {
    let probe =
        json!({ "id": "booted", "role": "readiness", "kind": "systemd", "unit": "multi-user.target" });
    Assignment::of(image, STOCK)
        .with_procurator("health", json!({ "systemd": true, "probes": [probe] }))
        .with_procurator(
            "credentials",
            json!({
                "lab.greeting": { "value": "hello from the host" },
                "lab.secret": { "file": secret },
                "ssh.authorized_keys.root": { "value": key },
            }),
        )
}

/// It goes when its button is pressed, and says so: nobody kills it.
fn stops_in_order(service: &Service, stock: Assignment) -> Result<()> {
    service.assign(&[stock.stopped()])?;
    let stopped = until("it is off", STOCK_BOOT_DEADLINE, || {
        let vm = service.vm(STOCK)?;
        ensure!(vm.phase == "stopped", "{}", vm.state());
        Ok(vm)
    })?;
    assert_eq!(stopped.last_stop.as_deref(), Some("power_button"));
    until("its last word is kept", SHORT_DEADLINE, || {
        let console = Service::kept_console(STOCK)?;
        ensure!(console.contains("reboot: Power down"), "{console}");
        Ok(())
    })?;
    Ok(())
}

/// Writes a secret where the worker looks for credentials, readable to nobody else, and gives its path.
fn keep_secret(words: &str) -> Result<String> {
    fs::create_dir_all(CREDENTIALS).with_context(|| format!("cannot create {CREDENTIALS}"))?;
    let path = format!("{CREDENTIALS}/secret");
    fs::write(&path, words).with_context(|| format!("cannot write {path}"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("cannot close it")?;
    Ok(path)
}
