//! Following what happens: server-sent events, as the HTML standard describes them, as far as the worker uses them.

use std::collections::VecDeque;
use std::io;

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use tokio::task::JoinHandle;
use vm_model::{Event, VmId};

use super::exchange::{broken, refused, send, whole};
use super::{AdminClient, ClientError, DEADLINE};
use crate::{EventGap, EventMessage};

/// Longer events are not taken.
const MAX_EVENT: usize = 1 << 20;

/// Where events are asked for.
pub(super) fn path(since: Option<u64>, vm: Option<&VmId>, follow: bool) -> String {
    let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
    let vm = vm.map(|vm| format!("&vm={vm}")).unwrap_or_default();
    format!("/v1/events?follow={follow}{since}{vm}")
}

/// Events as they happen. The connection goes with this value.
#[derive(Debug)]
pub struct EventStream {
    name: String,
    body: Incoming,
    parser: Parser,
    moving: Moving,
}

/// The task that moves the connection's bytes.
#[derive(Debug)]
struct Moving(JoinHandle<()>);

impl Drop for Moving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) async fn follow(client: &AdminClient, path: &str) -> Result<EventStream, ClientError> {
    let name = format!("GET {path}");
    let (mut sender, connection) = client.within(DEADLINE, &name, client.connect(&name)).await?;
    let moving = Moving(tokio::spawn(async move {
        // What goes wrong is seen by who reads the body.
        drop(connection.await);
    }));
    let request = send(&mut sender, &name, Request::get(path), Bytes::new());
    let response = client.within(DEADLINE, &name, request).await?;
    let status = response.status();
    if !status.is_success() {
        let body = client.within(DEADLINE, &name, whole(&name, response)).await?;
        return Err(refused(&name, status, &body));
    }
    Ok(EventStream { name, body: response.into_body(), parser: Parser::default(), moving })
}

impl EventStream {
    /// The next thing that happens; nothing when the worker has ended the stream. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke off, or what came is no event.
    pub async fn next(&mut self) -> Result<Option<EventMessage>, ClientError> {
        loop {
            match self.parser.next_message() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(problem) => return Err(broken(&self.name, problem)),
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(problem)) => return Err(broken(&self.name, problem)),
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.parser.take(bytes).map_err(|problem| broken(&self.name, problem))?;
                    }
                }
            }
        }
    }

    /// Whether the connection is still being moved.
    pub fn is_open(&self) -> bool {
        !self.moving.0.is_finished()
    }
}

/// Takes bytes, gives messages.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    kind: String,
    data: String,
    ready: VecDeque<(String, String)>,
}

impl Parser {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                byte => self.line.push(*byte),
            }
            if self.line.len() + self.data.len() > MAX_EVENT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an event is longer than 1 MiB"));
            }
        }
        Ok(())
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            if !data.is_empty() {
                self.ready.push_back((kind, data));
            }
            return;
        }
        // What begins with a colon is a comment: its field has no name.
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => self.data.push_str(value),
            _ => {}
        }
    }

    /// The next message that is whole. Messages of kinds that this client does not know are left out.
    fn next_message(&mut self) -> Result<Option<EventMessage>, serde_json::Error> {
        while let Some((kind, data)) = self.ready.pop_front() {
            match kind.as_str() {
                "" | "message" => match serde_json::from_str::<Event>(&data) {
                    Ok(event) => return Ok(Some(EventMessage::Happened(event))),
                    Err(problem) if problem.is_data() => {}
                    Err(problem) => return Err(problem),
                },
                "gap" => {
                    return serde_json::from_str::<EventGap>(&data).map(|gap| Some(EventMessage::Gap(gap)));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_model::EventKind;

    use super::*;

    const STREAM: &str = ": here\n\nid: 4\nevent: gap\ndata: {\"after\":1,\"before\":5}\n\nid: 5\n\
data: {\"id\":5,\"at\":1,\"vm\":\"a\",\"event\":\"undisturbed\"}\n\ndata: {\"id\":6,\"at\":1,\"event\":\"from_the_future\"}\n\n\
event: more\ndata: x\n\ndata:{\"id\":7,\"at\":1,\"event\":\"rollout_accepted\"}\r\n\r\n";

    proptest! {
        #[test]
        fn messages_are_found_however_the_bytes_come(cuts in proptest::collection::vec(1_usize..40, 0..20)) {
            let (mut parser, mut found, mut rest) = (Parser::default(), Vec::new(), STREAM.as_bytes());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                parser.take(now).expect("short");
                while let Some(message) = parser.next_message().expect("messages") {
                    found.push(message);
                }
                rest = later;
            }
            let numbers: Vec<u64> = found.iter().map(|message| match message {
                EventMessage::Happened(event) => event.id,
                EventMessage::Gap(gap) => gap.before,
            }).collect();
            prop_assert_eq!(numbers, [5, 5, 7]);
            let last = found.last().expect("some");
            prop_assert!(matches!(last, EventMessage::Happened(event) if event.kind == EventKind::RolloutAccepted));
        }

        #[test]
        fn no_bytes_are_too_bad(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut parser = Parser::default();
            parser.take(&bytes).expect("short");
            let _ = parser.next_message();
        }
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let mut parser = Parser::default();
        parser.take(&vec![b'x'; MAX_EVENT + 1]).expect_err("too long");
    }
}
