//! The verbs that change which VMs there are, what they are, and what is kept of them: `create`, `set`, `rm`, `undelete`,
//! `gc`, and the words that let go what is held.

use std::path::Path;
use std::time::{Duration, Instant};

use admin::{AdminClient, AssignRequest, ChangeRequest, DeletionRequest, PlanView, VerdictView, VmView};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use tokio::time::sleep;
use vm_model::{DesiredState, FailureReason, Generation, SourceKind, Timestamp, VmId};

use super::list::desired_name;
use super::{find, images, plans, print, print_json, say, volumes};
use crate::cli::{
    ChangeVerb, CreateFlags, GcFlags, GcTarget, MachineFlags, Override, RemovalFlags, SetFlags,
    UndeleteFlags, WaitFlags,
};
use crate::printable::printable;

/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Carries out `verb`.
pub(super) async fn change(client: &AdminClient, verb: &ChangeVerb) -> Result<()> {
    match verb {
        ChangeVerb::Create(flags) => create(client, flags).await,
        ChangeVerb::Set(flags) => set(client, flags).await,
        ChangeVerb::Rm(flags) => remove(client, flags).await,
        ChangeVerb::Undelete(flags) => undelete(client, flags).await,
        ChangeVerb::Gc(flags) if flags.images => images::collect(client, flags).await,
        ChangeVerb::Gc(GcFlags { what, dry_run, json, .. }) => {
            let deleted = client.delete_kept(&deletion(what.as_ref()), *dry_run).await?;
            if *json { print_json(&deleted) } else { print(&volumes::deleted(&deleted, *dry_run)) }
        }
        ChangeVerb::AllowRemovals { source, dry_run: true, json } => {
            preview(&client.show_removals(*source).await?, *json)
        }
        ChangeVerb::AllowRemovals { source, dry_run: false, json } => {
            tell(&client.allow_removals(*source).await?, *json)
        }
        ChangeVerb::AcceptMaster { dry_run: true, json } => preview(&client.show_master().await?, *json),
        ChangeVerb::AcceptMaster { dry_run: false, json } => tell(&client.accept_master().await?, *json),
    }
}

fn preview(plan: &PlanView, json: bool) -> Result<()> {
    if json { print_json(plan) } else { print(&plans::plan(plan)) }
}

fn tell(verdict: &VerdictView, json: bool) -> Result<()> {
    if json { print_json(verdict) } else { print(&plans::verdict(verdict)) }
}

/// Assigns a VM and waits until it runs, or tells why it does not.
async fn create(client: &AdminClient, flags: &CreateFlags) -> Result<()> {
    let CreateFlags { id, store_path, hash, machine, wait, json } = flags;
    if let Ok(vm) = client.get_vm(id).await {
        may_assign(client, &vm).await?;
    } else if client.list_removed().await?.removed.iter().any(|kept| kept.assignment.id == *id) {
        say(&format!(
            "note: a VM {id} was removed and its volumes are kept: this one takes them over, unless `procurator-worker gc \
             {id}` deletes them before\n"
        ));
    }
    let begun = Timestamp::now();
    let mut entry = changes(Some(store_path), hash.as_deref(), machine)?;
    entry.insert("id".to_owned(), id.as_str().into());
    let verdict = client.assign(&AssignRequest { entry }).await?;
    tell(&verdict, *json)?;
    let advice = format!("it stays assigned: `procurator-worker rm {id}` takes it back");
    await_settled(client, id, (begun, &verdict), *wait, &advice, *json).await
}

/// Whether a VM that is there can be assigned by `create`: one that nobody assigns, because what was assigned was lost.
async fn may_assign(client: &AdminClient, vm: &VmView) -> Result<()> {
    let id = &vm.id;
    if client.get_status().await?.unclaimed.contains(id) {
        return Ok(());
    }
    if vm.removing {
        bail!(
            "VM {id} is being removed and not gone yet: `procurator-worker undelete {id}` keeps it as it is; `create` makes \
             another one when it is gone"
        );
    }
    let shows = format!("`procurator-worker inspect {id}` shows it");
    match vm.source.filter(|source| *source != SourceKind::Local) {
        Some(source) => {
            bail!("there is a VM {id} already, by the word of {source}: {shows}; it is changed there")
        }
        None => bail!("there is a VM {id} already: {shows}, and `procurator-worker set {id}` changes it"),
    }
}

/// Changes what was created here, and waits until that is in force.
async fn set(client: &AdminClient, flags: &SetFlags) -> Result<()> {
    let SetFlags { vm, store_path, hash, machine, dry_run, wait, json } = flags;
    let id = find(client, vm).await?;
    let request = ChangeRequest { changes: changes(store_path.as_deref(), hash.as_deref(), machine)? };
    let is_off = client.get_vm(&id).await?.phase == "stopped";
    let plan = client.plan_change(&id, &request).await?;
    let problem = plan.actions.iter().find_map(|action| action.problem.as_ref());
    match (*json, *dry_run) {
        (true, true) => print_json(&plan)?,
        (true, false) => {}
        // The refusal below says it all.
        (false, _) if problem.is_some() => {}
        (false, _) => print(&if is_off { plans::change_of_idle(&plan) } else { plans::change(&plan) })?,
    }
    // The worker keeps nothing of such a change.
    if let Some(problem) = problem {
        bail!("VM {id} stays as it was: {}", printable(problem));
    }
    if *dry_run {
        return Ok(());
    }
    let begun = Timestamp::now();
    let verdict = client.change(&id, &request).await?;
    if *json {
        print_json(&verdict)?;
    }
    if plan.actions.is_empty() {
        return Ok(());
    }
    let advice = format!("`procurator-worker set {id}` changes it again, and drops what stays refused");
    await_settled(client, &id, (begun, &verdict), *wait, &advice, *json).await
}

/// Keys of an entry: what the flags say. What they take back is `null`.
fn changes(
    store_path: Option<&Path>,
    hash: Option<&str>,
    machine: &MachineFlags,
) -> Result<Map<String, Value>> {
    let MachineFlags { vcpus, memory, cmdline_append, restart, devices, limits } = machine;
    let mut changes = Map::new();
    if let Some(path) = store_path {
        let text = path
            .to_str()
            .with_context(|| format!("invalid store path {}: UTF-8 is accepted", path.display()))?;
        changes.insert("store_path".to_owned(), text.into());
    }
    if let Some(hash) = hash {
        changes.insert("hash".to_owned(), hash.into());
    } else if store_path.is_some() {
        // That of another artifact is another one: the worker finds it out.
        changes.insert("hash".to_owned(), Value::Null);
    }
    let cmdline = cmdline_append.as_deref();
    let overrides = [
        ("vcpus", vcpus.map(|vcpus| said(vcpus.value()))),
        ("memory_bytes", memory.map(|memory| said(memory.value()))),
        ("cmdline_append", cmdline.map(|text| said(Some(text).filter(|text| !text.is_empty())))),
    ];
    let overrides = members(overrides);
    if !overrides.is_empty() {
        changes.insert("overrides".to_owned(), overrides.into());
    }
    let limits = limits.members();
    let mut settings = members([
        ("restart", restart.map(|restart| said(Override::value(restart)))),
        ("limits", (!limits.is_empty()).then(|| limits.into())),
    ]);
    settings.extend(devices.members());
    if !settings.is_empty() {
        changes.insert("procurator".to_owned(), settings.into());
    }
    Ok(changes)
}

fn said<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, Into::into)
}

fn members<const N: usize>(given: [(&str, Option<Value>); N]) -> Map<String, Value> {
    given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// Waits until VM `id` is what and where the state of `verdict`, asked for at the moment `since`, has it, and tells so. Fails
/// with why it is not, and `advice`.
async fn await_settled(
    client: &AdminClient,
    id: &VmId,
    (since, verdict): (Timestamp, &VerdictView),
    wait: WaitFlags,
    advice: &str,
    json: bool,
) -> Result<()> {
    if wait.no_wait || verdict.held.is_some() {
        return Ok(());
    }
    let begun = Instant::now();
    let limit = Duration::from_secs(wait.timeout);
    let before = client.get_vm(id).await?.reason;
    loop {
        let vm = client.get_vm(id).await?;
        match settled(&vm, verdict.generation, since, before.as_ref()) {
            Settled::Yes if json => return Ok(()),
            Settled::Yes => {
                let address = vm.address.map(|address| format!(", address {address}")).unwrap_or_default();
                print(&format!("{id} is {}{address}\n", vm.phase))?;
                // What does not hold as it was asked for is to be known now, not when it is missed.
                for warning in &vm.warnings {
                    say(&format!("warning: {}\n", printable(warning)));
                }
                return Ok(());
            }
            Settled::Never(why) => bail!("{}\n{advice}", printable(&why)),
            Settled::NotYet => {}
        }
        if begun.elapsed() > limit {
            bail!("VM {id} is still {} after {} s; it goes on", vm.phase, limit.as_secs());
        }
        sleep(LOOK).await;
    }
}

/// How far a VM is with what was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Settled {
    Yes,
    NotYet,
    Never(String),
}

fn settled(vm: &VmView, generation: Generation, since: Timestamp, before: Option<&FailureReason>) -> Settled {
    let id = &vm.id;
    if vm.generation < generation {
        return Settled::NotYet;
    }
    match (&vm.wanted, &vm.reason) {
        (Some(wanted), _) => {
            return match &wanted.refusal {
                Some(refusal) => Settled::Never(format!("VM {id} stays as it is: {refusal}")),
                // One that is off is made ready when it is started.
                None if vm.phase == "stopped" && vm.desired == DesiredState::Stopped => Settled::Yes,
                None => Settled::NotYet,
            };
        }
        (None, Some(reason)) if matches!(vm.phase.as_str(), "failed" | "restarting") => {
            // What it failed of before this was asked for says nothing of what comes.
            let is_news = vm.phase == "failed" || Some(reason) != before;
            return if is_news {
                Settled::Never(format!("VM {id} does not run: {reason}"))
            } else {
                Settled::NotYet
            };
        }
        (None, _) => {}
    }
    // A guest may switch itself off at once.
    let has_ended = vm.phase == "stopped" && vm.ends.last().is_some_and(|end| end.at >= since);
    if has_ended || vm.phase == desired_name(vm.desired) { Settled::Yes } else { Settled::NotYet }
}

/// Takes back what was assigned, each for itself, and waits until the VMs are gone; fails if one could not be.
async fn remove(client: &AdminClient, flags: &RemovalFlags) -> Result<()> {
    let (mut problems, mut leaving) = (Vec::new(), Vec::new());
    for id in &flags.ids {
        let trouble = client.get_vm(id).await.ok().and_then(|vm| vm.reason);
        match client.remove(id).await {
            Ok(verdict) => {
                tell(&verdict, flags.json)?;
                if verdict.actions.iter().any(|action| action.vm == *id) {
                    leaving.push((id, trouble));
                } else if verdict.held.is_none() && !flags.json {
                    print(&format!(
                        "what was created as {id} is taken back; {id} stays, as others assign it\n"
                    ))?;
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    let limit = Duration::from_secs(flags.wait.timeout);
    for (id, trouble) in leaving.into_iter().filter(|_| !flags.wait.no_wait) {
        await_gone(client, id, trouble.as_ref(), limit).await?;
    }
    match problems.len() {
        0 => Ok(()),
        // The first one as it is: its kind tells the exit code.
        1 => Err(problems.remove(0).into()),
        _ => bail!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

/// Returns when VM `id` is gone, or with what keeps it, where that is another trouble than it had `before`.
async fn await_gone(
    client: &AdminClient,
    id: &VmId,
    before: Option<&FailureReason>,
    limit: Duration,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let vm = match client.get_vm(id).await {
            Err(problem) if problem.is_not_found() => return Ok(()),
            found => found?,
        };
        if begun.elapsed() > limit {
            bail!("VM {id} is still {} after {} s; it goes on", vm.phase, limit.as_secs());
        }
        if let Some(reason) = vm.reason.filter(|reason| Some(reason) != before) {
            bail!("VM {id} is not gone yet: {}", printable(&reason.message));
        }
        sleep(LOOK).await;
    }
}

/// Brings a removed VM back, and waits until it is where it was.
async fn undelete(client: &AdminClient, flags: &UndeleteFlags) -> Result<()> {
    let UndeleteFlags { id, wait, json } = flags;
    let begun = Timestamp::now();
    let verdict = client.undelete(id).await?;
    tell(&verdict, *json)?;
    let advice = format!("it stays assigned: `procurator-worker rm {id}` removes it again");
    await_settled(client, id, (begun, &verdict), *wait, &advice, *json).await?;
    let is_off = |vm: VmView| vm.desired == DesiredState::Stopped;
    if !*json && client.get_vm(id).await.is_ok_and(is_off) {
        print(&format!(
            "it was assigned as stopped when it was removed: `procurator-worker start {id}` starts it\n"
        ))?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::{DeviceFlags, LimitFlags};

    fn machine() -> MachineFlags {
        MachineFlags {
            vcpus: None,
            memory: None,
            cmdline_append: None,
            restart: None,
            devices: DeviceFlags::default(),
            limits: LimitFlags::default(),
        }
    }

    #[test]
    fn only_what_is_said_is_changed_and_defaults_take_it_back() {
        let said = |store_path: Option<&str>, machine| {
            Value::Object(changes(store_path.map(Path::new), None, &machine).expect("valid"))
        };
        assert_eq!(said(None, machine()), json!({}));
        let flags = MachineFlags {
            vcpus: Some(Override::Value(4)),
            memory: Some(Override::Default),
            cmdline_append: Some(String::new()),
            restart: Some(Override::Value("never")),
            devices: DeviceFlags::default(),
            limits: LimitFlags { io_weight: Some(Override::Value(7)), ..LimitFlags::default() },
        };
        let overrides = json!({ "vcpus": 4, "memory_bytes": null, "cmdline_append": null });
        assert_eq!(
            said(None, flags),
            json!({ "overrides": overrides, "procurator": { "restart": "never", "limits": { "io_weight": 7 } } })
        );
        let another = json!({ "store_path": "/nix/store/x", "hash": null });
        assert_eq!(said(Some("/nix/store/x"), machine()), another);
    }

    #[test]
    fn a_vm_is_settled_when_what_was_asked_for_is_in_force() {
        let vm = |phase: &str, more: Value| {
            let mut json = json!({
                "id": "a", "phase": phase, "desired": "running", "reason": null, "address": null, "mac": null,
                "tap": null, "store_path": "/nix/store/x", "hash": "", "generation": 3, "restarts": 0,
                "last_stop": null, "timings": {}, "warnings": [], "unverified": [], "metrics": null,
            });
            let Value::Object(more) = more else { panic!("an object") };
            json.as_object_mut().expect("an object").extend(more);
            serde_json::from_value::<VmView>(json).expect("a view")
        };
        let now = Timestamp::from_millis(1000);
        let judge = |vm: VmView| settled(&vm, Generation::new(3), now, None);
        assert_eq!(judge(vm("running", json!({}))), Settled::Yes);
        assert_eq!(judge(vm("running", json!({ "generation": 2 }))), Settled::NotYet, "it has not heard yet");
        assert_eq!(judge(vm("creating", json!({}))), Settled::NotYet);
        let ended = |at: u64| json!({ "ends": [{ "at": at, "ran_for": null, "method": "powered_off", "cause": { "by": "guest" } }] });
        assert_eq!(judge(vm("stopped", ended(999))), Settled::NotYet, "that was before");
        assert_eq!(judge(vm("stopped", ended(1000))), Settled::Yes);
        assert_eq!(judge(vm("stopped", json!({ "desired": "stopped" }))), Settled::Yes);
        let reason = json!({ "reason": { "kind": "host", "message": "no memory" } });
        assert!(matches!(judge(vm("failed", reason)), Settled::Never(why) if why.contains("no memory")));
    }
}
