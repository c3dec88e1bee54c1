//! `events`: what happened, and what happens.

use std::time::Duration;

use admin::{AdminClient, ClientError, EventGap, EventMessage};
use anyhow::Result;
use tokio::time::sleep;
use vm_model::{Event, EventKind, EventReason, Readiness, Timestamp, VmId};

use super::list::desired_name;
use super::{find_remembered, print, say};
use crate::cli::EventFlags;
use crate::printable::printable;

/// So many events are shown before those to come.
const BEFORE_FOLLOWING: usize = 10;
/// How long a worker that went away is left alone before it is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Prints events, and goes on with what happens where that is wanted, also over restarts of the worker.
pub(super) async fn events(client: &AdminClient, flags: &EventFlags, now: Timestamp) -> Result<()> {
    let vm = match &flags.vm {
        Some(name) => Some(find_remembered(client, name).await?),
        None => None,
    };
    let earliest = flags.since.map(|span| now.before(span.0));
    let list = client.list_events(None, vm.as_ref()).await?;
    let since = list.events.iter().filter(|event| earliest.is_none_or(|earliest| event.at >= earliest));
    let since: Vec<&Event> = since.collect();
    for event in &since[since.len().saturating_sub(most(flags))..] {
        show(event, flags.json)?;
    }
    if flags.follow { follow(client, list.newest, vm.as_ref(), flags.json).await } else { Ok(()) }
}

/// How many of the events that are kept are shown.
fn most(flags: &EventFlags) -> usize {
    match flags {
        EventFlags { lines: Some(lines), .. } => *lines,
        EventFlags { follow: true, all: false, since: None, .. } => BEFORE_FOLLOWING,
        EventFlags { .. } => usize::MAX,
    }
}

/// Prints what happens after event `newest`, until interrupted.
async fn follow(client: &AdminClient, mut newest: u64, vm: Option<&VmId>, json: bool) -> Result<()> {
    let mut is_away = false;
    loop {
        match follow_once(client, &mut newest, vm, json, &mut is_away).await {
            Ok(()) => {}
            Err(problem) if is_lost(&problem) => {}
            Err(problem) => return Err(problem),
        }
        if !is_away {
            is_away = true;
            say("the worker went away; this goes on when it is back\n");
        }
        sleep(AGAIN).await;
    }
}

async fn follow_once(
    client: &AdminClient,
    newest: &mut u64,
    vm: Option<&VmId>,
    json: bool,
    is_away: &mut bool,
) -> Result<()> {
    let mut stream = client.follow_events(Some(*newest), vm).await?;
    if std::mem::take(is_away) {
        say("the worker is back\n");
    }
    while let Some(message) = stream.next().await? {
        match message {
            EventMessage::Happened(event) => {
                *newest = event.id;
                show(&event, json)?;
            }
            EventMessage::Gap(EventGap { before, .. }) => {
                *newest = before.saturating_sub(1);
                say("what happened meanwhile is kept no longer\n");
            }
        }
    }
    Ok(())
}

/// Whether the worker, or the connection to it, is gone.
fn is_lost(problem: &anyhow::Error) -> bool {
    match problem.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::Late { .. }) => true,
        Some(ClientError::Refused { .. } | ClientError::Forbidden { .. }) | None => false,
    }
}

fn show(event: &Event, json: bool) -> Result<()> {
    let line = if json { serde_json::to_string(event)? } else { line(event) };
    print(&format!("{line}\n"))
}

/// An event in a line.
fn line(event: &Event) -> String {
    let vm = event.vm.as_ref().map_or("-", VmId::as_str);
    printable(&format!("{}  {vm:<12}  {}", event.at, text(&event.kind)))
}

fn text(kind: &EventKind) -> String {
    let because = |reason: &Option<EventReason>| {
        reason.as_ref().map(|reason| format!(": {}", reason.message)).unwrap_or_default()
    };
    match kind {
        EventKind::VmCreated { store_path } => format!("created from {}", store_path.display()),
        EventKind::VmTakenUp { store_path } => format!("taken up again, from {}", store_path.display()),
        EventKind::VmRemoved { kept_until: None } => "removed".to_owned(),
        EventKind::VmRemoved { kept_until: Some(until) } => {
            format!("removed; its volumes are kept until {until}")
        }
        EventKind::PhaseChanged { from, to, reason } => format!("{from} → {to}{}", because(reason)),
        EventKind::DesiredChanged { from, to } => {
            format!("should be {}, no longer {}", desired_name(*to), desired_name(*from))
        }
        EventKind::ReadinessChanged { readiness, reason } => {
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{}{reason}", readiness_name(*readiness))
        }
        EventKind::MachineReset { resets } => format!("reset in place, {resets} times so far"),
        EventKind::DefinitionWanted { store_path, .. } => format!("{} is wanted", store_path.display()),
        EventKind::DefinitionRefused { store_path, reason } => {
            format!("{} cannot be used: {}", store_path.display(), reason.message)
        }
        EventKind::DefinitionChanged { store_path, generation, .. } => {
            format!("{} is in force, of generation {generation}", store_path.display())
        }
        EventKind::RolloutBegun { store_path } => format!("{} is on trial", store_path.display()),
        EventKind::RolloutAccepted => "what was on trial stays".to_owned(),
        EventKind::RolloutFailed { problem } => format!("what was on trial failed: {problem}"),
        EventKind::Disturbed { problem } => format!("disturbed: {problem}"),
        EventKind::Undisturbed => "disturbed no longer".to_owned(),
        EventKind::Ordered { verb, by, status } => format!("{verb} was asked for by {by}, answer {status}"),
        EventKind::SourceTaken { source, generation } => {
            format!("{source}: generation {generation} is in force")
        }
        EventKind::SourceHeld { source, generation, reason } => {
            format!("{source}: generation {generation} is held: {reason}")
        }
        EventKind::SourceRefused { source, problem } => format!("{source}: refused: {problem}"),
        EventKind::MasterConnected { master, address } => {
            format!("connected with master {master} at {address}")
        }
        EventKind::MasterLost { problem } => format!("the master is away: {problem}"),
        EventKind::VolumesDeleted { deleted } => format!("deleted {}", deleted.join(", ")),
        EventKind::FetchBegun { store_path } => format!("{} is missing and is fetched", store_path.display()),
        EventKind::FetchFinished { store_path, paths, size, milliseconds } => {
            let took = Duration::from_millis(*milliseconds);
            format!("{} was fetched: {paths} paths, {size}, in {took:.1?}", store_path.display())
        }
        EventKind::FetchFailed { store_path, problem } => {
            format!("{} cannot be fetched: {problem}", store_path.display())
        }
        EventKind::ImagesCollected { paths, size } => {
            format!("{paths} fetched store paths that nothing needs were deleted, {size}")
        }
    }
}

fn readiness_name(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Ready => "ready",
        Readiness::NotReady => "not ready",
        Readiness::Unknown => "whether it is ready is not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_events_are_shown_before_those_to_come() {
        let flags = EventFlags { vm: None, follow: true, since: None, lines: None, all: false, json: false };
        assert_eq!(most(&flags), 10);
        assert_eq!(most(&EventFlags { lines: Some(3), ..flags.clone() }), 3);
        assert_eq!(most(&EventFlags { all: true, ..flags.clone() }), usize::MAX);
        let hour = "1h".parse().expect("a span");
        assert_eq!(
            most(&EventFlags { since: Some(hour), ..flags.clone() }),
            usize::MAX,
            "those were asked for"
        );
        assert_eq!(most(&EventFlags { follow: false, ..flags }), usize::MAX);
    }

    #[test]
    fn an_event_is_a_line_whatever_a_guest_had_written() {
        let reason = EventReason {
            kind: vm_model::FailureKind::Guest,
            class: None,
            message: "panic:\n\u{1b}[2J".to_owned(),
            hint: None,
        };
        let kind = EventKind::PhaseChanged {
            from: "running".to_owned(),
            to: "failed".to_owned(),
            reason: Some(reason),
        };
        let event = Event { id: 1, at: Timestamp::from_millis(0), vm: Some(VmId::new("web-1")), kind };
        assert_eq!(line(&event), "1970-01-01T00:00:00Z  web-1         running → failed: panic:\\n\\u{1b}[2J");
    }
}
