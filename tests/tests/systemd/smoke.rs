//! What every change is tried with: the shipped unit starts, and a VM of it is contained in every way there is.

use std::fs;

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, ControlGroup, Service, host_process_of};
use serde_json::json;

use crate::environment;
use crate::service::forget;

/// No VM starts where its jail is not whole or its limits do not hold. What newer kernels add to Landlock is not in the lab's.
const SETTINGS: &str = "spare_host_processes = 0\njail = 'required'\n[limits]\nenforcement = 'required'";

#[test]
fn a_vm_of_the_shipped_service_is_jailed_filtered_and_limited() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let service = Service::start(&environment, SETTINGS)?;
    let limits = json!({ "cpu_weight": 300, "memory_max": 256 << 20, "processes": 64 });
    service.assign(&[Assignment::of(&guest, "web").with_procurator("limits", limits)])?;
    let web = service.wait_until_answering("web")?;
    assert!(web.warnings.iter().all(|warning| !warning.contains("limits")), "{:?}", web.warnings);

    let process = host_process_of("web")?.context("it has a process")?;
    for thread in threads_of(process)? {
        is_confined(&thread)?;
    }
    let group = ControlGroup::of("web")?;
    group.says(&[("cpu.weight", "300"), ("memory.max", "268435456"), ("pids.max", "64")])?;
    let shown = service.ask(&["inspect", "web"])?;
    assert!(
        shown.contains("jailed as user ")
            && !shown.contains("in part")
            && shown.contains("system calls filtered"),
        "{shown}"
    );
    let status = service.status()?.to_string();
    assert!(!status.contains("seccomp"), "{status}");

    forget(&service, "web")?;
    assert!(!group.path().exists(), "{} is left", group.path().display());
    Ok(())
}

/// What the kernel says of each thread of a process.
fn threads_of(process: i32) -> Result<Vec<String>> {
    let tasks = format!("/proc/{process}/task");
    let entries = fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))?;
    entries
        .map(|entry| {
            let path = entry.with_context(|| format!("cannot list {tasks}"))?.path().join("status");
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        })
        .collect()
}

/// Fails unless a thread is nobody's but its jail's, has no capabilities and makes only calls that its filter lets pass.
fn is_confined(status: &str) -> Result<()> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    for (name, expected) in [
        ("CapEff:", "0000000000000000"),
        ("CapBnd:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
    ] {
        ensure!(field(name) == Some(expected), "{name} is not {expected}:\n{status}");
    }
    let user = field("Uid:").and_then(|users| users.split_whitespace().next());
    ensure!(user.is_some_and(|user| user != "0"), "it is root's:\n{status}");
    Ok(())
}
