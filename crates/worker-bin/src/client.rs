//! The verbs that speak with a running worker. Answers go to standard output, everything else to standard error.

mod amounts;
mod boot_steps;
mod changing;
mod console;
mod details;
mod dump;
mod events;
mod images;
mod list;
mod logs;
pub(crate) mod naming;
mod natural_order;
mod notes;
mod plans;
mod power;
mod screen;
mod showing;
mod ssh;
mod table;
mod top;
mod upgrade;
mod volumes;

use std::io::{ErrorKind, Write, stderr, stdout};
use std::path::PathBuf;

use admin::{AdminClient, gone_vm, removed_vm};
use anyhow::{Context, Result};
use serde::Serialize;
use tokio::runtime::Builder;
use vm_model::VmId;

use self::naming::{NamingError, VmName};
pub(crate) use self::notes::notes;
use crate::cli::{ClientVerb, GuestVerb};
use crate::printable::printable_json;
use crate::settings::runtime_dir;

/// Carries out `verb`.
pub(crate) fn run(verb: &ClientVerb, runtime_directory: Option<PathBuf>) -> Result<()> {
    let runtime_directory = runtime_dir(runtime_directory);
    let client = AdminClient::in_directory(&runtime_directory);
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        match verb {
            ClientVerb::Show(verb) => showing::show(&client, verb, &runtime_directory).await,
            ClientVerb::Guest(verb) => go_to_guest(&client, verb).await,
            ClientVerb::Power(action) => power::power(&client, action).await,
            ClientVerb::Change(verb) => changing::change(&client, verb).await,
        }
    })
}

async fn go_to_guest(client: &AdminClient, verb: &GuestVerb) -> Result<()> {
    match verb {
        GuestVerb::Logs(flags) => logs::logs(client, &find(client, &flags.vm).await?, flags).await,
        GuestVerb::Console(flags) => console::console(client, &find(client, &flags.vm).await?, flags).await,
        GuestVerb::Ssh(flags) => ssh::ssh(client, &find(client, &flags.vm).await?, flags).await,
    }
}

/// The VM that `name` means.
async fn find(client: &AdminClient, name: &VmName) -> Result<VmId> {
    one_of(client, name, &vm_names(client).await?).await
}

/// The one of `vms` that `name` means. One that was removed is told from one that never was.
async fn one_of(client: &AdminClient, name: &VmName, vms: &[VmId]) -> Result<VmId> {
    let unknown = match name.among(vms) {
        Err(NamingError::Unknown(unknown)) => unknown,
        found => return Ok(found?),
    };
    // An older worker does not tell of removed ones.
    let removed = client.list_removed().await.map(|list| list.removed).unwrap_or_default();
    let is_removed = removed.iter().any(|vm| vm.assignment.id.as_str() == name.as_str());
    let refusal = if is_removed {
        removed_vm(name.as_str())
    } else if is_remembered(client, name).await {
        gone_vm(name.as_str())
    } else {
        unknown
    };
    Err(NamingError::Unknown(refusal).into())
}

/// Whether events are kept of a VM that is called `name` in full, whether or not there is one now.
async fn is_remembered(client: &AdminClient, name: &VmName) -> bool {
    let Ok(id) = VmId::parse(name.as_str()) else { return false };
    client.list_events(None, Some(&id)).await.is_ok_and(|list| !list.events.is_empty())
}

/// The VM whose events `name` means: also one that was removed, as long as there are any.
async fn find_remembered(client: &AdminClient, name: &VmName) -> Result<VmId> {
    let problem = match find(client, name).await {
        Ok(id) => return Ok(id),
        Err(problem) => problem,
    };
    if !is_remembered(client, name).await {
        return Err(problem);
    }
    say(&format!("note: there is no VM {} any more: this is what is kept of its events\n", name.as_str()));
    Ok(VmId::parse(name.as_str())?)
}

/// The VMs that `names` mean, each once; or all of them.
async fn vms_named(client: &AdminClient, names: &[VmName], all: bool) -> Result<Vec<VmId>> {
    let vms = vm_names(client).await?;
    if all {
        return Ok(vms);
    }
    let mut meant = Vec::new();
    for name in names {
        let vm = one_of(client, name, &vms).await?;
        if !meant.contains(&vm) {
            meant.push(vm);
        }
    }
    Ok(meant)
}

async fn vm_names(client: &AdminClient) -> Result<Vec<VmId>> {
    let mut vms: Vec<VmId> = client.list_vms().await?.into_iter().map(|vm| vm.id).collect();
    // They are in no list, and can be asked for.
    if let Ok(status) = client.get_status().await {
        vms.extend(status.damaged.into_iter().map(|vm| vm.id));
    }
    Ok(vms)
}

/// Says something beside the answer. Nobody need hear it.
fn say(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}

/// Prints an answer as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("the answer has no JSON form")?;
    let mut text = printable_json(&text);
    text.push('\n');
    print(&text)
}

/// Prints an answer.
pub(crate) fn print(text: &str) -> Result<()> {
    match stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()) {
        // Who reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod rendering_tests;
