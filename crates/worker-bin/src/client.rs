//! The verbs that speak with a running worker. Answers go to standard output, everything else to standard error.

mod amounts;
mod assigning;
mod boot_steps;
mod console;
mod details;
mod dump;
mod events;
mod list;
mod logs;
pub(crate) mod naming;
mod natural_order;
mod notes;
mod plans;
mod power;
mod screen;
mod table;
mod top;
mod upgrade;
mod volumes;

use std::fs;
use std::io::{ErrorKind, Read, Write, stderr, stdout};
use std::path::{Path, PathBuf};

use admin::{AdminClient, ClientError, DeletionRequest, PowerVerb, SOCKET_NAME, StatusView, VmView};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::time::sleep;
use vm_model::{Timestamp, VmId};

use self::details::details;
use self::list::list;
use self::naming::VmName;
use self::natural_order::natural_order;
pub(crate) use self::notes::notes;
use self::notes::{notes_of, status_lines};
use self::screen::Screen;
use crate::cli::power::ForcibleFlags;
use crate::cli::{ClientVerb, GcTarget, Seconds};
use crate::settings::{host_processes_in, runtime_dir};

/// The worker takes at most so many bytes of a desired state by its socket.
const MAX_STATE: u64 = 1 << 20;

/// Carries out `verb`.
pub(crate) fn run(verb: &ClientVerb, runtime_directory: Option<PathBuf>) -> Result<()> {
    let runtime_directory = runtime_dir(runtime_directory);
    let client = AdminClient::new(runtime_directory.join(SOCKET_NAME));
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(carry_out(verb, client, runtime_directory))
}

async fn carry_out(verb: &ClientVerb, client: AdminClient, runtime_directory: PathBuf) -> Result<()> {
    let now = Timestamp::now();
    match verb {
        ClientVerb::Ls { removed: true, json, .. } => {
            let list = client.list_removed().await?;
            if *json { print_json(&list) } else { print(&volumes::removed(&list.removed, now)) }
        }
        ClientVerb::Plan { assignments, json } => {
            let plan = client.plan(desired_state(&client, assignments.as_deref()).await?).await?;
            if *json { print_json(&plan) } else { print(&plans::plan(&plan)) }
        }
        ClientVerb::AllowRemovals { json } => {
            let verdict = client.allow_removals().await?;
            if *json { print_json(&verdict) } else { print(&plans::verdict(&verdict)) }
        }
        ClientVerb::AcceptMaster { json } => {
            let verdict = client.accept_master().await?;
            if *json { print_json(&verdict) } else { print(&plans::verdict(&verdict)) }
        }
        ClientVerb::Create(flags) => assigning::create(&client, flags).await,
        ClientVerb::Rm(flags) => assigning::remove(&client, flags).await,
        ClientVerb::Undelete { id, json } => assigning::undelete(&client, id, *json).await,
        ClientVerb::Volumes { json } => {
            let list = client.list_volumes().await?;
            if *json { print_json(&list) } else { print(&volumes::volumes(&list.volumes, now)) }
        }
        ClientVerb::Gc { what, json, .. } => {
            let deleted = client.delete_kept(&deletion(what.as_ref())).await?;
            if *json { print_json(&deleted) } else { print(&volumes::deleted(&deleted)) }
        }
        ClientVerb::Ls { removed: false, json, watch } => ls(&client, now, *json, *watch).await,
        ClientVerb::Inspect { vm, json } => inspect(&client, vm, now, *json).await,
        ClientVerb::Start(flags) => power::power(&client, PowerVerb::Start, flags, false).await,
        ClientVerb::Stop(ForcibleFlags { power, force }) => {
            power::power(&client, PowerVerb::Stop, power, *force).await
        }
        ClientVerb::Restart(ForcibleFlags { power, force }) => {
            power::power(&client, PowerVerb::Restart, power, *force).await
        }
        ClientVerb::Pause(flags) => power::power(&client, PowerVerb::Pause, flags, false).await,
        ClientVerb::Resume(flags) => power::power(&client, PowerVerb::Resume, flags, false).await,
        ClientVerb::Reset(flags) => power::power(&client, PowerVerb::Reset, flags, false).await,
        ClientVerb::Nmi(flags) => power::power(&client, PowerVerb::Nmi, flags, false).await,
        ClientVerb::Dump { vm, json } => dump::dump(&client, vm, *json).await,
        ClientVerb::Events(flags) => events::events(&client, flags, now).await,
        ClientVerb::Top { interval } => top::top(&client, interval.0).await,
        ClientVerb::Logs(flags) => logs::logs(&client, &find(&client, &flags.vm).await?, flags).await,
        ClientVerb::Console(flags) => {
            console::console(&client, &find(&client, &flags.vm).await?, flags).await
        }
        ClientVerb::Upgrade { json, .. } => {
            upgrade(&client, &host_processes_in(&runtime_directory), *json).await
        }
        ClientVerb::Metrics => print(&client.get_metrics().await?),
        ClientVerb::Status { json: true } => print_json(&client.get_status().await?),
        ClientVerb::Status { json: false } => print(&status_lines(&client.get_status().await?, now)),
    }
}

async fn inspect(client: &AdminClient, name: &VmName, now: Timestamp, json: bool) -> Result<()> {
    let id = find(client, name).await?;
    let vm = client.get_vm(&id).await?;
    if json {
        return print_json(&vm);
    }
    let noted = noted(client, |status| notes_of(status, &id)).await;
    print(&format!("{}{}", details(&vm, now), notes::lines(&noted)))
}

/// The VM that `name` means.
async fn find(client: &AdminClient, name: &VmName) -> Result<VmId> {
    Ok(name.among(&vm_names(client).await?)?)
}

/// The VMs that `names` mean, each once; or all of them.
async fn vms_named(client: &AdminClient, names: &[VmName], all: bool) -> Result<Vec<VmId>> {
    let vms = vm_names(client).await?;
    if all {
        return Ok(vms);
    }
    let mut meant = Vec::new();
    for name in names {
        let vm = name.among(&vms)?;
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

async fn ls(client: &AdminClient, now: Timestamp, json: bool, watch: Option<Seconds>) -> Result<()> {
    let Some(Seconds(interval)) = watch else { return ls_once(client, now, json).await };
    loop {
        let listed = listing(client, Timestamp::now()).await;
        // A worker that is restarted meanwhile comes back.
        let shown = listed.unwrap_or_else(|problem| format!("{problem:#}\n"));
        print(&screen::frame(&shown, Screen::of_stdout()))?;
        sleep(interval).await;
    }
}

async fn ls_once(client: &AdminClient, now: Timestamp, json: bool) -> Result<()> {
    if json {
        let vms = vms_in_order(client).await?;
        // The answer is a list and stays one: what is to be noted is for people, or for `status --json`.
        say(&notes::lines(&noted(client, notes).await));
        return print_json(&vms);
    }
    print(&listing(client, now).await?)
}

/// The list for people, and what is to be noted below it.
async fn listing(client: &AdminClient, now: Timestamp) -> Result<String> {
    let vms = vms_in_order(client).await?;
    let noted = noted(client, notes).await;
    Ok(format!("{}{}", list(&vms, now, Screen::of_stdout()), notes::lines(&noted)))
}

/// Judges what a restart of the worker by this program would do to VMs whose host processes are in `directory`.
async fn upgrade(client: &AdminClient, directory: &Path, json: bool) -> Result<()> {
    let guests_go_on = client.get_status().await?.guests_outlive_worker;
    let verdicts = upgrade::check(&vms_in_order(client).await?, directory, guests_go_on).await?;
    if json {
        print_json(&verdicts)?;
    } else {
        print(&upgrade::table(&verdicts))?;
    }
    upgrade::conclude(&verdicts)
}

/// The desired state to plan for: in `file`, or in the file that the worker follows.
async fn desired_state(client: &AdminClient, file: Option<&Path>) -> Result<String> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => {
            let followed = client.get_status().await?.assignments;
            followed.context("the worker follows no assignments file: name one by --assignments")?.path
        }
    };
    let failed = || format!("cannot read {}", path.display());
    if !fs::metadata(&path).with_context(failed)?.is_file() {
        bail!("{}: it is no regular file", failed());
    }
    let mut text = String::new();
    let opened = fs::File::open(&path).with_context(failed)?;
    opened.take(MAX_STATE + 1).read_to_string(&mut text).with_context(failed)?;
    if text.len() as u64 > MAX_STATE {
        bail!("{}: it has more than {MAX_STATE} bytes, which the worker would not take", failed());
    }
    Ok(text)
}

fn deletion(what: Option<&GcTarget>) -> DeletionRequest {
    match what {
        None => DeletionRequest::All,
        Some(GcTarget { vm, disk: None }) => DeletionRequest::Vm { vm: vm.clone() },
        Some(GcTarget { vm, disk: Some(disk) }) => {
            DeletionRequest::Volume { vm: vm.clone(), disk: disk.clone() }
        }
    }
}

async fn vms_in_order(client: &AdminClient) -> Result<Vec<VmView>, ClientError> {
    let mut vms = client.list_vms().await?;
    vms.sort_by(|one, other| natural_order(one.id.as_str(), other.id.as_str()));
    Ok(vms)
}

/// What `choose` finds worth noting in the worker's status. An answer does not fail for want of notes.
async fn noted(client: &AdminClient, choose: impl FnOnce(&StatusView) -> Vec<String>) -> Vec<String> {
    match client.get_status().await {
        Ok(status) => choose(&status),
        // An older worker has none to tell.
        Err(problem) if problem.is_not_found() => Vec::new(),
        Err(problem) => vec![format!("how the worker itself is could not be learned: {problem}")],
    }
}

/// Says something beside the answer. Nobody need hear it.
fn say(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}

/// Prints an answer as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("the answer has no JSON form")?;
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
