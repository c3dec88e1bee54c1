//! The log as systemd's journal takes it natively (systemd's "Native Journal Protocol"): a datagram a line, with a priority and
//! each field by its name, so that `journalctl VM_ID=web-1` finds what is about a VM.

use std::env;
use std::fmt::Write;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::QUEUE;
use super::queue::{Line, Outcome};
use super::span_fields::SpanFields;
use crate::printable::printable;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The longest value that is sent; one datagram has room for several.
const LONGEST_VALUE: usize = 32 << 10;
/// How often a line is tried, and how long after: a journal that is restarted is gone for a moment.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// The connection of a process that cannot connect again. systemd holds the journal's end over a restart of the journal.
static CONNECTION: OnceLock<UnixDatagram> = OnceLock::new();

/// Connects for good, where standard error leads to the journal.
pub(super) fn connect() {
    let connected = || {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET).map(|()| socket)
    };
    // Where it fails, lines go to standard error.
    if takes_standard_error()
        && let Ok(socket) = connected()
    {
        let _ = CONNECTION.set(socket);
    }
}

/// Whether standard error leads to the journal, as systemd says it does of processes that it starts.
pub(super) fn takes_standard_error() -> bool {
    if CONNECTION.get().is_some() {
        return true;
    }
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(status) = fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", status.st_dev, status.st_ino) && Path::new(SOCKET).exists()
}

/// Sends records.
pub(super) struct Sender {
    /// Made when there is something to send.
    socket: Option<UnixDatagram>,
    path: PathBuf,
}

impl Default for Sender {
    fn default() -> Self {
        Self { socket: None, path: SOCKET.into() }
    }
}

impl Sender {
    /// Sends `record`, waiting as long as the journal lets it wait.
    pub(super) fn send(&mut self, record: &[u8]) -> Outcome {
        for attempt in 0..TRIES {
            if attempt > 0 {
                sleep(PAUSE);
            }
            if self.try_send(record).is_ok() {
                return Outcome::Written;
            }
        }
        Outcome::Failed
    }

    fn try_send(&mut self, record: &[u8]) -> io::Result<()> {
        if let Some(connection) = CONNECTION.get() {
            return connection.send(record).map(drop);
        }
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => UnixDatagram::unbound()?,
        };
        let sent = socket.send_to(record, &self.path);
        self.socket = Some(socket);
        sent.map(drop)
    }
}

/// Makes a record of each event.
pub(super) struct JournalLayer;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut context_fields = SpanFields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<SpanFields>() {
                context_fields.0.extend(fields.0.iter().cloned());
            }
        }
        let metadata = event.metadata();
        let record = record(*metadata.level(), metadata.target(), &SpanFields::of(event), &context_fields);
        if let Some(queue) = QUEUE.get() {
            queue.push(Line::Record(record.into_bytes()));
        }
    }
}

/// The record of a line. No value has a line feed in it: what others had a hand in is escaped.
fn record(level: Level, target: &str, fields: &SpanFields, context: &SpanFields) -> String {
    let mut message = String::new();
    for (name, value) in &fields.0 {
        match *name {
            "message" => message.insert_str(0, value),
            name => {
                let _ = write!(message, " {name}={value}");
            }
        }
    }
    let mut record = format!("PRIORITY={}\nSYSLOG_IDENTIFIER=procurator-worker\n", priority(level));
    add(&mut record, "MESSAGE", message.trim_start());
    add(&mut record, "TARGET", target);
    // Where a line and a span it is in have the same field, the line's counts.
    let outer = context.0.iter().filter(|(name, _)| !fields.0.iter().any(|(inner, _)| inner == name));
    for (name, value) in fields.0.iter().chain(outer).filter(|(name, _)| *name != "message") {
        add(&mut record, &field_name(name), value);
    }
    record
}

fn add(record: &mut String, name: &str, value: &str) {
    let mut end = value.len().min(LONGEST_VALUE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = value.get(..end).unwrap_or_default();
    // Strings take everything.
    let _ = writeln!(record, "{name}={}", printable(value));
}

/// syslog(3)'s numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// As the journal has names: capital letters, digits and underscores, none of the names that it or syslog gives a meaning.
fn field_name(name: &str) -> String {
    let upper = |character: char| match character.to_ascii_uppercase() {
        letter if letter.is_ascii_uppercase() || letter.is_ascii_digit() => letter,
        _ => '_',
    };
    let plain: String = name.chars().map(upper).take(58).collect();
    let is_taken = ["MESSAGE", "PRIORITY", "ERRNO", "TARGET"].contains(&plain.as_str())
        || ["SYSLOG_", "CODE_", "OBJECT_", "COREDUMP_", "_"].iter().any(|begin| plain.starts_with(begin))
        || !plain.starts_with(|first: char| first.is_ascii_uppercase());
    if is_taken { format!("FIELD_{}", plain.trim_start_matches('_')) } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&'static str, &str)]) -> SpanFields {
        SpanFields(fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
    }

    #[test]
    fn a_record_has_the_line_for_people_and_each_field_by_name() {
        let line = fields(&[("message", "failed"), ("vm_id", "web-1"), ("reason", "a\nMESSAGE=b\u{202e}")]);
        let context = fields(&[("request_id", "7"), ("vm_id", "other")]);
        let record = record(Level::WARN, "worker", &line, &context);
        let lines: Vec<&str> = record.lines().collect();
        assert_eq!(
            lines,
            [
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=procurator-worker",
                "MESSAGE=failed vm_id=web-1 reason=a\\nMESSAGE=b\\u{202e}",
                "TARGET=worker",
                "VM_ID=web-1",
                "REASON=a\\nMESSAGE=b\\u{202e}",
                "REQUEST_ID=7",
            ]
        );
    }

    #[test]
    fn no_field_takes_a_name_that_has_a_meaning() {
        for (name, expected) in [
            ("vm_id", "VM_ID"),
            ("priority", "FIELD_PRIORITY"),
            ("_pid", "FIELD_PID"),
            ("log.line", "LOG_LINE"),
            ("1st", "FIELD_1ST"),
        ] {
            assert_eq!(field_name(name), expected);
        }
    }

    #[test]
    fn records_arrive_and_one_that_nobody_takes_is_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let mut sender = Sender { socket: None, path: path.clone() };
        assert_eq!(sender.send(b"MESSAGE=x\n"), Outcome::Failed);
        let journal = UnixDatagram::bind(&path).expect("bound");
        assert_eq!(sender.send(b"MESSAGE=y\n"), Outcome::Written);
        let mut received = [0; 64];
        let length = journal.recv(&mut received).expect("received");
        assert_eq!(&received[..length], b"MESSAGE=y\n");
    }
}
