//! Events: what is kept of them, and a stream of those to come.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as Line, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, unfold};
use serde::Deserialize;
use tokio::sync::watch;
use utoipa::IntoParams;
use vm_model::VmId;
use worker::events::{Batch, EventLog, Missed};

use super::Answers;
use super::extract::{Keys, bad_request};
use crate::{ApiError, EventGap, EventList};

/// How many events are made ready for a reader at a time.
const AT_ONCE: usize = 64;
/// How long a stream is silent before a comment shows that it is still there.
const SILENCE: Duration = Duration::from_secs(15);
/// The header by which a reader that connects again names the last event it has seen.
const LAST_EVENT_ID: &str = "last-event-id";

/// Which events are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    /// Those after this number. Where it is absent: all that are kept, or, of a stream, those from now on. A stream takes it
    /// from the header `last-event-id`, too.
    #[serde(default)]
    since: Option<u64>,
    /// Those of this VM only.
    #[serde(default)]
    vm: Option<String>,
    /// Whether the answer is a stream that goes on with what happens later.
    #[serde(default)]
    follow: bool,
}

/// Show what happened lately, or follow what happens.
///
/// A stream has server-sent events: each event's number as `id`, its JSON as
/// `data`; where events are missing, one of type `gap`. It ends when the worker ends or needs the connection for others.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", params(EventQuery),
    responses((
        status = 200, description = "A list, or a stream of `Event`s",
        content((EventList = "application/json"), (String = "text/event-stream")),
    ))
)]
pub(super) async fn events(
    State(answers): State<Answers>,
    headers: HeaderMap,
    Keys(EventQuery { since, vm, follow }): Keys<EventQuery>,
) -> Result<Response, ApiError> {
    let parsed = vm.map(|vm| VmId::parse(&vm).map_err(|problem| bad_request(&problem).about("vm")));
    let vm = parsed.transpose()?;
    let log = Arc::clone(answers.vm_manager.events());
    if !follow {
        return Ok(Json(kept(&log, since, vm.as_ref())).into_response());
    }
    let resumed = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok());
    let seen = since.or(resumed).unwrap_or_else(|| log.newest());
    let follower =
        Follower { news: log.watch(), log, ended: answers.ended, seen, vm, ready: VecDeque::new() };
    Ok(Sse::new(follower.stream()).keep_alive(KeepAlive::new().interval(SILENCE)).into_response())
}

fn kept(log: &EventLog, since: Option<u64>, vm: Option<&VmId>) -> EventList {
    let newest = log.newest();
    let Batch { missed, events } = match since {
        Some(seen) => log.all_after(seen),
        None => Batch { missed: None, events: log.kept() },
    };
    let wanted = events.iter().filter(|event| vm.is_none() || event.vm.as_ref() == vm);
    let events: Vec<_> = wanted.map(|event| event.as_ref().clone()).collect();
    // What happened while the list was made is in it already.
    let newest = events.last().map_or(newest, |event| event.id.max(newest));
    EventList { gap: missed.map(EventGap::from), events, newest }
}

impl From<Missed> for EventGap {
    fn from(Missed { after, before }: Missed) -> Self {
        Self { after, before }
    }
}

/// A reader that follows. What is made ready for it is bounded; the log does not wait for it.
struct Follower {
    log: Arc<EventLog>,
    news: watch::Receiver<u64>,
    ended: watch::Receiver<()>,
    /// The last event that was looked at.
    seen: u64,
    vm: Option<VmId>,
    ready: VecDeque<Line>,
}

impl Follower {
    fn stream(self) -> impl Stream<Item = Result<Line, Infallible>> {
        unfold(self, |mut follower| async { Some((Ok(follower.next().await?), follower)) })
    }

    /// The next line; nothing when the worker ends.
    async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            // Before the log is read: what happens after that wakes.
            self.news.borrow_and_update();
            if self.read() {
                continue;
            }
            // Losing either arm loses nothing: both only wait.
            tokio::select! {
                _ = self.ended.changed() => return None,
                more = self.news.changed() => more.ok()?,
            }
        }
    }

    /// Makes ready what is new; whether the log had anything.
    fn read(&mut self) -> bool {
        let Batch { missed, events } = self.log.after(self.seen, AT_ONCE);
        if let Some(missed) = missed {
            let before = missed.before.saturating_sub(1);
            self.seen = before;
            // Who connects again after this line has heard of the gap.
            let line = Line::default().event("gap").id(before.to_string());
            self.ready.extend(line.json_data(EventGap::from(missed)));
        }
        for event in &events {
            self.seen = event.id;
            if self.vm.is_none() || event.vm == self.vm {
                self.ready.extend(Line::default().id(event.id.to_string()).json_data(event.as_ref()));
            }
        }
        missed.is_some() || !events.is_empty()
    }
}
