//! `create`, `rm` and `undelete`: VMs that this host's administrator assigns by hand.

use std::time::{Duration, Instant};

use admin::{AdminClient, AssignRequest, VmView};
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use tokio::time::sleep;
use vm_model::{FailureReason, VmId};

use super::{plans, print, print_json};
use crate::cli::{CreateFlags, RemovalFlags};
use crate::printable::printable;

/// How long `create` waits for a VM to run: copying a large disk takes its time.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);

/// Assigns a VM and waits until it runs, or tells why it does not.
pub(super) async fn create(client: &AdminClient, flags: &CreateFlags) -> Result<()> {
    if client.get_vm(&flags.id).await.is_ok() {
        bail!("there is a VM {} already: `procurator-worker inspect {}` shows it", flags.id, flags.id);
    }
    let verdict = client.assign(&AssignRequest { entry: entry(flags)? }).await?;
    if flags.json {
        print_json(&verdict)?;
    } else {
        print(&plans::verdict(&verdict))?;
    }
    if flags.no_wait || verdict.held.is_some() {
        return Ok(());
    }
    let vm = await_running(client, &flags.id).await?;
    let address = vm.address.map(|address| format!(", address {address}")).unwrap_or_default();
    if flags.json { Ok(()) } else { print(&format!("{} is {}{address}\n", vm.id, vm.phase)) }
}

fn entry(flags: &CreateFlags) -> Result<Map<String, Value>> {
    let CreateFlags { id, store_path, hash, vcpus, memory, cmdline_append, .. } = flags;
    let Some(store_path) = store_path.to_str() else {
        bail!("invalid store path {}: UTF-8 is accepted", store_path.display());
    };
    let overrides = json!({ "vcpus": vcpus, "memory_bytes": memory, "cmdline_append": cmdline_append });
    let entry = json!({ "id": id, "store_path": store_path, "hash": hash, "overrides": overrides });
    match entry {
        Value::Object(entry) => Ok(entry),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            bail!("the entry is no object")
        }
    }
}

/// The VM when it runs.
async fn await_running(client: &AdminClient, id: &VmId) -> Result<VmView> {
    let begun = Instant::now();
    loop {
        let vm = client.get_vm(id).await?;
        if let ("failed" | "restarting", Some(reason)) = (vm.phase.as_str(), &vm.reason) {
            let reason = printable(&reason.to_string()).to_string();
            bail!(
                "VM {id} does not run: {reason}\nit stays assigned: `procurator-worker rm {id}` takes it back"
            );
        }
        let has_ended = vm.phase == "stopped" && !vm.ends.is_empty();
        if has_ended || matches!(vm.phase.as_str(), "running" | "paused") {
            return Ok(vm);
        }
        if begun.elapsed() > PATIENCE {
            bail!("VM {id} is still {} after {} s", vm.phase, PATIENCE.as_secs());
        }
        sleep(LOOK).await;
    }
}

/// Takes back what was assigned, each for itself, and waits until the VMs are gone; fails if one could not be.
pub(super) async fn remove(client: &AdminClient, flags: &RemovalFlags) -> Result<()> {
    let (mut problems, mut leaving) = (Vec::new(), Vec::new());
    for id in &flags.ids {
        let trouble = client.get_vm(id).await.ok().and_then(|vm| vm.reason);
        match client.remove(id).await {
            Ok(verdict) => {
                if flags.json {
                    print_json(&verdict)?;
                } else {
                    print(&plans::verdict(&verdict))?;
                }
                if verdict.held.is_none() {
                    leaving.push((id, trouble));
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    for (id, trouble) in leaving.into_iter().filter(|_| !flags.no_wait) {
        await_gone(client, id, trouble.as_ref()).await?;
    }
    match problems.len() {
        0 => Ok(()),
        // The first one as it is: its kind tells the exit code.
        1 => Err(problems.remove(0).into()),
        _ => bail!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

/// Returns when VM `id` is gone, or with what keeps it, where that is another trouble than it had `before`.
async fn await_gone(client: &AdminClient, id: &VmId, before: Option<&FailureReason>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let vm = match client.get_vm(id).await {
            Err(problem) if problem.is_not_found() => return Ok(()),
            found => found?,
        };
        if begun.elapsed() > PATIENCE {
            bail!("VM {id} is still {} after {} s", vm.phase, PATIENCE.as_secs());
        }
        if let Some(reason) = vm.reason.filter(|reason| Some(reason) != before) {
            bail!("VM {id} is not gone yet: {}", printable(&reason.message));
        }
        sleep(LOOK).await;
    }
}

/// Brings a removed VM back.
pub(super) async fn undelete(client: &AdminClient, id: &VmId, json: bool) -> Result<()> {
    let verdict = client.undelete(id).await?;
    if json { print_json(&verdict) } else { print(&plans::verdict(&verdict)) }
}
