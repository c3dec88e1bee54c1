//! The Debian package through its life on a real host: installed, upgraded under a running VM, removed, installed again, purged.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use end_to_end::{BOOT_DEADLINE, Echoes, HostState, Service, host_process_of, scopes, until};

use crate::environment;

/// The packages that the lab provides: the second is the newer one. The first is installed before tests begin.
const PACKAGES: [&str; 2] = ["/lab/packages/lab1.deb", "/lab/packages/lab2.deb"];
const PROGRAM: &str = "/usr/bin/procurator-worker";
const SETTINGS: &str = "/etc/procurator/worker.toml";
const STATE: &str = "/var/lib/procurator";
/// What a package may leave a file in, but for what package and service managers note for themselves.
const PLACES: [&str; 4] = ["/etc", "/usr", "/var/lib", "/run/systemd/system"];
const NOTES: [&str; 3] = ["/var/lib/dpkg", "/var/lib/systemd", "/var/lib/lab"];

/// `dpkg` with these words: what it printed, whose questions nobody answers.
#[expect(clippy::print_stdout, reason = "a failed test shows what happened")]
fn dpkg(words: &[&str]) -> Result<String> {
    let mut dpkg = Command::new("dpkg");
    let output = dpkg.args(words).env("DEBIAN_FRONTEND", "noninteractive").output();
    let output = output.context("cannot start dpkg")?;
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    ensure!(output.status.success(), "{dpkg:?} ended with {}: {text}", output.status);
    println!("{}", text.trim_end());
    Ok(text)
}

/// Every path in [`PLACES`].
fn paths() -> Result<BTreeSet<String>> {
    let mut find = Command::new("find");
    find.args(PLACES).arg("-xdev");
    let output = find.output().context("cannot start find")?;
    ensure!(output.status.success(), "{find:?} ended with {}", output.status);
    let text = String::from_utf8(output.stdout).context("a path is no text")?;
    let is_noted = |path: &str| NOTES.iter().any(|place| path.starts_with(place));
    Ok(text.lines().filter(|path| !is_noted(path)).map(str::to_owned).collect())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// How likely the kernel ends a process for want of memory.
fn victim_score(process: i32) -> Result<i32> {
    read(&format!("/proc/{process}/oom_score_adj"))?.trim().parse().context("no number")
}

#[test]
#[expect(clippy::too_many_lines, reason = "the life of a package, from its beginning to its end")]
fn the_package_is_installed_upgraded_under_a_vm_removed_and_purged() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    dpkg(&["--purge", "procurator-worker"])?;
    let (before, network) = (paths()?, HostState::observe()?);

    // Installed: enabled, running, with nothing to do.
    dpkg(&["--install", PACKAGES[0]])?;
    assert_eq!(Service::UNIT.property("UnitFileState")?, "enabled");
    assert_eq!(Service::UNIT.property("ActiveState")?, "active");
    let service = Service::running(&environment);
    assert!(service.vms()?.is_empty());
    for path in [PROGRAM, "/usr/share/man/man1/procurator-worker-create.1.gz", "/etc/procurator/credentials"]
    {
        assert!(Path::new(path).exists(), "{path}");
    }
    assert!(read("/etc/group")?.contains("\nprocurator:"));
    let pages = read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")?;
    assert!(pages.contains("[advise]"), "{pages}");
    let checked = Command::new(PROGRAM).arg("check-config").output()?;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    // Used, with the images of the host's store.
    let edited =
        format!("{}\n", read(SETTINGS)?.replace("store_roots = [", "store_roots = [\"/nix/store\", "));
    fs::write(SETTINGS, &edited).context("cannot change the settings")?;
    Service::UNIT.systemctl("restart")?;
    let store_path = guest.store_path.to_str().context("a path is text")?;
    service.ask(&["create", "web", store_path, "--no-wait"])?;
    let web = service.wait_until_answering("web")?;
    assert_eq!(victim_score(service.pid()?)?, -500);
    // Its jail raises it: guests go first.
    assert_eq!(victim_score(host_process_of("web")?.context("it has a process")?)?, 300);

    // Upgraded: the administrator's settings stay, and the guest does not notice.
    let worker = service.pid()?;
    let echoes = Echoes::of(web.address()?);
    dpkg(&["--install", PACKAGES[1]])?;
    service.wait_until_restarted(worker)?;
    let heard = echoes.stop()?;
    println!("upgrade: echoes {heard:?}");
    let vm = service.vm("web")?;
    assert_eq!((vm.phase.as_str(), vm.started_at, heard.lost), ("running", web.started_at, 0), "{heard:?}");
    assert_eq!(read(SETTINGS)?, edited);

    // Removed: the guest powers off, the host is as it was, and what is data stays.
    dpkg(&["--remove", "procurator-worker"])?;
    let console = Service::kept_console("web")?;
    assert!(console.contains("reboot: Power down"), "{console}");
    assert!(scopes()?.is_empty(), "{:?}", scopes()?);
    assert_eq!(HostState::observe()?, network);
    assert_eq!(read(SETTINGS)?, edited);
    let told = dpkg(&["--purge", "procurator-worker"])?;
    assert!(told.contains("disks of VMs are kept in /var/lib/procurator"), "{told}");
    assert!(!Path::new("/etc/procurator").exists());

    // Installed again: the VM is back, on its disk.
    dpkg(&["--install", PACKAGES[1]])?;
    fs::write(SETTINGS, "").context("cannot change the settings")?;
    Service::UNIT.systemctl("restart")?;
    let again = service.wait_until_answering("web")?;
    assert_eq!(again.address, web.address);

    // An upgrade that a VM would not survive leaves the worker alone.
    fs::write(SETTINGS, "vms_per_host_process = 0\n").context("cannot change the settings")?;
    let worker = service.pid()?;
    Service::UNIT.systemctl("restart")?;
    service.wait_until_restarted(worker)?;
    service.ask(&["restart", "web", "--no-wait"])?;
    let inside = until("its machine is in the worker", BOOT_DEADLINE, || {
        let vm = service.vm("web")?;
        ensure!(vm.phase == "running" && vm.started_at != again.started_at, "{}", vm.state());
        Ok(vm)
    })?;
    let worker = service.pid()?;
    let told = dpkg(&["--install", PACKAGES[0]])?;
    assert!(told.contains("is not restarted") && told.contains("web"), "{told}");
    assert_eq!((service.pid()?, service.vm("web")?.started_at), (worker, inside.started_at));

    // Purged when no disk is left: nothing is.
    service.ask(&["rm", "web", "--no-wait"])?;
    service.wait_until_gone("web")?;
    service.ask(&["gc", "web"])?;
    dpkg(&["--purge", "procurator-worker"])?;
    let left: Vec<String> = paths()?.difference(&before).cloned().collect();
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(HostState::observe()?, network);
    assert!(!Path::new(STATE).exists() && !Path::new("/run/procurator").exists());

    // As other tests expect it.
    dpkg(&["--install", PACKAGES[0]])?;
    Service::UNIT.systemctl("disable")?;
    Service::UNIT.systemctl("stop")
}
