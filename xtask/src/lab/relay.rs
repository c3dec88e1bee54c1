//! What the outer host's script prints, line by line with a deadline, up to the line that carries its exit status.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// The outer host's init writes this and the exit status as its last line.
const END_MARKER: &str = "@@lab ended ";

/// The script writes this, and after how many milliseconds the host's power is to be cut.
const POWER_CUT_MARKER: &str = "@@lab power-cut ";

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RelayEvent {
    /// A line of output, without its end.
    Line(String),
    /// The script has ended with this status.
    Ended(i32),
    /// After this time the host is to lose its power.
    PowerCut(Duration),
    /// The host is gone without that.
    Closed,
    /// Nothing came in time.
    DeadlinePassed,
}

/// The receiving end. A thread reads; it ends with the stream.
pub(crate) struct Relay {
    events: Receiver<RelayEvent>,
}

impl Relay {
    pub(crate) fn start(stream: impl Read + Send + 'static) -> Self {
        const BACKLOG: usize = 256;
        let (sender, events) = sync_channel(BACKLOG);
        thread::spawn(move || forward(stream, &sender));
        Self { events }
    }

    pub(crate) fn next(&self, deadline: Instant) -> RelayEvent {
        match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => RelayEvent::DeadlinePassed,
            Err(RecvTimeoutError::Disconnected) => RelayEvent::Closed,
        }
    }
}

fn forward(stream: impl Read, sender: &SyncSender<RelayEvent>) {
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
        if sender.send(classify(&String::from_utf8_lossy(&bytes))).is_err() {
            return;
        }
        bytes.clear();
    }
}

fn classify(line: &str) -> RelayEvent {
    let line = line.trim_end_matches(['\n', '\r']);
    if let Some(status) = line.strip_prefix(END_MARKER).and_then(|status| status.trim().parse().ok()) {
        return RelayEvent::Ended(status);
    }
    match line.strip_prefix(POWER_CUT_MARKER).and_then(|after| after.trim().parse().ok()) {
        Some(after) => RelayEvent::PowerCut(Duration::from_millis(after)),
        None => RelayEvent::Line(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn lines_come_in_order_and_the_marker_ends_them() {
        let relay = Relay::start(
            &b"one\r\n\xfftwo\n@@lab power-cut 20\n@@lab power-cut now\n@@lab ended 7\nrest"[..],
        );
        assert_eq!(relay.next(soon()), RelayEvent::Line("one".into()));
        assert_eq!(relay.next(soon()), RelayEvent::Line("\u{fffd}two".into()));
        assert_eq!(relay.next(soon()), RelayEvent::PowerCut(Duration::from_millis(20)));
        assert_eq!(relay.next(soon()), RelayEvent::Line("@@lab power-cut now".into()));
        assert_eq!(relay.next(soon()), RelayEvent::Ended(7));
        assert_eq!(relay.next(soon()), RelayEvent::Line("rest".into()));
        assert_eq!(relay.next(soon()), RelayEvent::Closed);
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let relay = Relay::start(reader);
        assert_eq!(relay.next(Instant::now() + Duration::from_millis(20)), RelayEvent::DeadlinePassed);
    }
}
