//! Limits of a VM whose process is in a scope: they hold, change while it runs, and outlive what systemd writes itself.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, ControlGroup, SHORT_DEADLINE, Service, http_get, until};
use serde_json::json;

use crate::environment;
use crate::service::forget;

#[test]
fn limits_hold_in_a_scope_and_outlive_a_reload_of_systemd() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let service = Service::start(&environment, "spare_host_processes = 1")?;
    let limited = |cpu: f64| {
        let limits = json!({ "cpu": cpu, "cpu_weight": 300, "memory_max": 256 << 20, "processes": 64, "io_write_bytes": 8 << 20 });
        Assignment::of(&guest, "web").with_procurator("limits", limits)
    };
    service.assign(&[limited(0.9)])?;
    let web = service.wait_until_answering("web")?;
    let warnings: Vec<&String> = web.warnings.iter().filter(|warning| warning.contains("limits")).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    let group = ControlGroup::of("web")?;
    let path = group.path().display().to_string();
    assert!(path.contains("/procurator.slice/procurator-vm-") && path.ends_with(".scope/vm"), "{path}");
    let files =
        [("cpu.max", "90000 100000"), ("cpu.weight", "300"), ("memory.max", "268435456"), ("pids.max", "64")];
    group.says(&files)?;
    let io = group.read("io.max")?;
    assert!(io.ends_with("rbps=max wbps=8388608 riops=max wiops=max"), "io.max says {io:?}");

    let reloaded =
        Command::new("systemctl").arg("daemon-reload").status().context("cannot start systemctl")?;
    assert!(reloaded.success());
    // What systemd has written by then it has written for all units.
    Service::UNIT.property("ActiveState")?;
    group.says(&files)?;
    assert_eq!((ControlGroup::of("web")?, group.read("io.max")?), (group.clone(), io));

    http_get(web.address()?, "/cgi-bin/burn")?;
    service.assign(&[limited(0.5)])?;
    until("less is in force", SHORT_DEADLINE, || group.says(&[("cpu.max", "50000 100000")]))?;
    group.takes_its_quota(500)?;
    let again = service.vm("web")?;
    ensure!(again.started_at == web.started_at, "a limit took a restart: {}", again.state());
    forget(&service, "web")?;
    assert!(!group.path().exists(), "{path} is left");
    Ok(())
}
