//! The verbs that look at the worker and its VMs.

use std::fs;
use std::io::Read;
use std::path::Path;

use admin::{AdminClient, ClientError, StatusView, VmView};
use anyhow::{Context, Result, bail};
use tokio::time::sleep;
use vm_model::Timestamp;

use super::details::details;
use super::list::{Columns, list};
use super::naming::VmName;
use super::natural_order::natural_order;
use super::notes::{self, notes_of, status_lines};
use super::screen::{self, Screen};
use super::{dump, events, find, plans, print, print_json, say, top, upgrade, volumes};
use crate::cli::{Seconds, ShowVerb};
use crate::settings::host_processes_in;

/// The worker takes at most so many bytes of a desired state by its socket.
const MAX_STATE: u64 = 1 << 20;

/// Shows what `verb` asks for, of the worker whose files lie in `runtime_directory`.
pub(super) async fn show(client: &AdminClient, verb: &ShowVerb, runtime_directory: &Path) -> Result<()> {
    let now = Timestamp::now();
    match verb {
        ShowVerb::Ls { removed: true, json, .. } => {
            let list = client.list_removed().await?;
            if *json { print_json(&list) } else { print(&volumes::removed(&list.removed, now)) }
        }
        ShowVerb::Ls { removed: false, json: true, .. } => ls_json(client).await,
        ShowVerb::Ls { removed: false, json: false, watch, wide } => {
            ls(client, now, if *wide { Columns::Wide } else { Columns::Usual }, *watch).await
        }
        ShowVerb::Inspect { vm, json } => inspect(client, vm, now, *json).await,
        ShowVerb::Status { json: true } => print_json(&client.get_status().await?),
        ShowVerb::Status { json: false } => print(&status_lines(&client.get_status().await?, now)),
        ShowVerb::Events(flags) => events::events(client, flags, now).await,
        ShowVerb::Top { interval } => top::top(client, interval.0).await,
        ShowVerb::Plan { assignments, source, json } => {
            let plan = client.plan(desired_state(client, assignments.as_deref()).await?, *source).await?;
            if *json { print_json(&plan) } else { print(&plans::plan(&plan)) }
        }
        ShowVerb::Volumes { json } => {
            let list = client.list_volumes().await?;
            if *json { print_json(&list) } else { print(&volumes::volumes(&list.volumes, now)) }
        }
        ShowVerb::Dump { vm, json } => dump::dump(client, vm, *json).await,
        ShowVerb::Upgrade { json, .. } => {
            check_upgrade(client, &host_processes_in(runtime_directory), *json).await
        }
        ShowVerb::Metrics => print(&client.get_metrics().await?),
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

async fn ls(client: &AdminClient, now: Timestamp, columns: Columns, watch: Option<Seconds>) -> Result<()> {
    let Some(Seconds(interval)) = watch else { return print(&listing(client, now, columns).await?) };
    loop {
        let listed = listing(client, Timestamp::now(), columns).await;
        // A worker that is restarted meanwhile comes back.
        let shown = listed.unwrap_or_else(|problem| format!("{problem:#}\n"));
        print(&screen::frame(&shown, Screen::of_stdout()))?;
        sleep(interval).await;
    }
}

async fn ls_json(client: &AdminClient) -> Result<()> {
    let vms = vms_in_order(client).await?;
    // The answer is a list and stays one: what is to be noted is for people, or for `status --json`.
    say(&notes::lines(&noted(client, notes::notes).await));
    print_json(&vms)
}

/// The list for people, and what is to be noted below it.
async fn listing(client: &AdminClient, now: Timestamp, columns: Columns) -> Result<String> {
    let vms = vms_in_order(client).await?;
    let noted = noted(client, notes::notes).await;
    Ok(format!("{}{}", list(&vms, now, Screen::of_stdout(), columns), notes::lines(&noted)))
}

/// Judges what a restart of the worker by this program would do to VMs whose host processes are in `directory`.
async fn check_upgrade(client: &AdminClient, directory: &Path, json: bool) -> Result<()> {
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
